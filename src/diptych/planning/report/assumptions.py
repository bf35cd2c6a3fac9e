"""Everything that a plan rests on, in sentences.

Knows: which figures and constants the finalists used, and how far each can be trusted. Does not know: how a
plan is made."""

from __future__ import annotations

from collections.abc import Iterator

from diptych.performance.figures import Confidence, Figure
from diptych.performance.power import CAP_ASSUMPTION, UnknownPower, power_states
from diptych.planning.devices import catalogue, efficiencies
from diptych.planning.search.engine import Engine
from diptych.planning.search.links import LINE_RATE_SHARE
from diptych.planning.search.plan import Plan


def assumptions(plan: Plan) -> list[str]:
    """In the order of weight: speed, memory and links, power and money, then the method."""
    engines = {id(p.engine): p.engine for it in plan.leaders.all for p in it.candidate.pools}
    lines = [*_speed(list(engines.values())), *_figures(list(engines.values())), *_links(plan)]
    lines += [*_power(list(engines.values())), *plan.inquiry.notes, *_method(plan)]
    return list(dict.fromkeys(lines))


def _speed(engines: list[Engine]) -> Iterator[str]:
    if any(engine.device is not None for engine in engines):
        fitted = efficiencies()
        found = {name: f"{100 * share:.1f} %" for name, share in fitted.errors.items()}
        yield (
            f"step times: named efficiencies fitted to {fitted.rows:,} rows of {fitted.source}, "
            f"{fitted.date}; mean error of TPOT {found['tpot_in_sample']}, of groups left out of the fit "
            f"{found['tpot_left_out']}; median error of TTFT {found['ttft_in_sample_median']} and "
            f"{found['ttft_left_out_median']}"
        )
    for engine in engines:
        error = getattr(engine.steps, "relative_error", None)
        if error is not None:
            yield (
                f"{engine.name}: a decode step is expected within ±{error:.0%} "
                f"({getattr(engine.steps, 'grounds', '')})"
            )
        elif engine.profile is not None:
            yield f"{engine.name}: a measured profile, taken as exact"


def _figures(engines: list[Engine]) -> Iterator[str]:
    """Catalogue figures that are not a vendor's data sheet."""
    for name in dict.fromkeys(engine.chip for engine in engines if engine.device is not None):
        chip = catalogue().chip(name)
        used: dict[str, object] = {
            "bf16": chip.bf16,
            "fp8": chip.fp8,
            "memory": chip.main.visible or chip.main.capacity,
            "bandwidth": chip.main.bandwidth,
            "network": chip.nic,
            "power": chip.tdp,
        }
        for what, figure in used.items():
            if isinstance(figure, Figure) and figure.confidence is not Confidence.HIGH:
                yield f"{name}: {what} {figure}"


def _links(plan: Plan) -> Iterator[str]:
    if plan.inquiry.link_bytes_per_s is not None:
        yield f"link: {plan.inquiry.link_bytes_per_s / 1e9:.1f} GB/s between each pair of workers, as given"
    elif any(it.candidate.link is not None for it in plan.leaders.all):
        yield (
            f"link: the smaller network port of each pair of workers × {LINE_RATE_SHARE} (Mooncake's "
            "measured share "
            "of line rate), each pair its own path, layers sent as they finish"
        )


def _power(engines: list[Engine]) -> Iterator[str]:
    for engine in engines:
        if engine.device is None:
            continue
        power = power_states(catalogue().chip(engine.chip))
        yield from [str(power.missing)] if isinstance(power, UnknownPower) else power.assumptions
        if engine.device.power_cap_w is not None:
            yield CAP_ASSUMPTION
    yield "watts of a budget are rated power (TDP or the cap); energy is counted by power state"


def _method(plan: Plan) -> Iterator[str]:
    targets, effort = plan.inquiry.targets, plan.inquiry.effort
    yield (
        f"goodput: the highest rate at which {targets.share:.0%} of the requests meet both targets (TPOT "
        "as a mean over "
        f"a request), {effort.seeds} seeds; the first seed also chose the finalists, which favours them "
        "slightly"
    )
    probes = [probe for it in plan.finalists for found in it.by_seed.values() for probe in found.probes]
    if any(probe.parts > 1 for probe in probes):
        yield (
            "large fleets: one of several equal parts was simulated, which does not exaggerate their goodput"
        )
    if any(not probe.settled for probe in probes):
        yield "some runs were shorter than requests stay at that rate: those goodputs are upper bounds"
    if plan.sessions:
        yield (
            "sessions: calls come when the one before would have ended at half the targets, whatever the "
            "cluster does, "
            "so that the rate is the same for all candidates"
        )
    if plan.serving.prompt_cache:
        yield "closed forms take every prefix that was seen before as cached; simulation keeps what fits"
    yield (
        "break-even and fronts: closed forms scaled to what simulation said at the given point, not simulated"
    )
