"""Flags of `diptych plan`, and what they stand for.

Knows: names, help texts, which flags belong together. Does not know: how a plan is made.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter

from diptych.cli.whole import whole
from diptych.domain.errors import SpecError

if TYPE_CHECKING:
    from diptych.planning.search.plan import Inquiry

_WANTED = Group("What is wanted")
_MEANS = Group("With what")
_EFFORT = Group("How thoroughly")

MOST_PROCESSES = 8
"""More would wait for each other's tasks: a plan has a few dozen."""


@Parameter(name="*", group=_WANTED)
@dataclass(frozen=True, kw_only=True)
class WantedFlags:
    """The question."""

    model: str | None = None
    """A known model, such as llama-3.1-70b, or the path of a config.json."""
    workload: str | None = None
    """A trace file, or `synthetic:…` (docs/workloads.md)."""
    also: tuple[str, ...] = ()
    """Another workload that the fleet may have to serve, for regret; repeatable."""
    ttft: float | None = None
    """Target for the time to the first token, s."""
    tpot: float | None = None
    """Target for the time per output token after the first, s."""
    share: Annotated[float, Parameter(show_default=True)] = 0.9
    """Share of the requests that must meet both targets."""


@Parameter(name="*", group=_MEANS)
@dataclass(frozen=True, kw_only=True)
class MeansFlags:
    """Hardware and budget."""

    hardware: tuple[str, ...] = ()
    """Catalogue names, separated by commas or repeated; or files of measured profiles (.yaml)."""
    budget: str | None = None
    """Most of one thing: 16 (chips), 50USD/h or 10kW. The same as one of the next three."""
    budget_devices: Annotated[int | None, Parameter(converter=whole)] = None
    """Most chips."""
    budget_money: float | None = None
    """Most USD per hour."""
    budget_watts: float | None = None
    """Most rated power; decode pools are also tried with capped chips."""
    link: str | None = None
    """Path of KV between two workers: 400G (line rate), 43GB/s (effective) or a known path; default: the
    chips' network ports."""
    weights: Annotated[Literal["auto", "bf16", "fp8", "fp4"], Parameter(show_default=True)] = "auto"
    """Format of the weights; auto: fp8 where the chip computes in it, else bf16."""
    kv: Annotated[Literal["bf16", "fp8"], Parameter(show_default=True)] = "bf16"
    """Format of the KV cache."""
    engine: Annotated[Literal["vllm", "trtllm", "sglang", "other"], Parameter(show_default=True)] = "vllm"
    """Whose measured efficiencies; other: the mean of all, with a wider error."""
    rent: tuple[str, ...] = ()
    """CHIP=USD per chip and hour, in place of the catalogue's; repeatable."""


@Parameter(name="*", group=_EFFORT)
@dataclass(frozen=True, kw_only=True)
class EffortFlags:
    """Simulation."""

    seeds: Annotated[int, Parameter(converter=whole, show_default=True)] = 3
    """Independent draws of the workload, 3 or more."""
    processes: Annotated[int | None, Parameter(converter=whole)] = None
    """Processes that simulate; default: one for each usable core, at most 8."""
    regret: Annotated[bool, Parameter(negative="--no-regret", show_default=True)] = True
    """Simulate shifted workloads too."""


def inquiry_of(wanted: WantedFlags, means: MeansFlags, effort: EffortFlags) -> Inquiry:
    """The question that the flags ask. Raises `SpecError` naming the flag, the reason and what to give."""
    from diptych.planning.search.draws import Traffic
    from diptych.planning.search.hardware import Build, find_engines
    from diptych.planning.search.links import parse_link
    from diptych.planning.search.plan import Inquiry
    from diptych.planning.search.targets import Effort, Targets, budget_of
    from diptych.planning.traces import open_workload

    model, workload, ttft_s, tpot_s = _needed(wanted, means)
    targets = Targets(ttft_s, tpot_s, wanted.share)
    budget = budget_of(means.budget_devices, means.budget_money, means.budget_watts, means.budget)
    trouble = Effort(
        seeds=effort.seeds,
        processes=_cores() if effort.processes is None else effort.processes,
        regret=effort.regret,
    )
    build = Build(
        model=model,
        weights=means.weights,
        kv=means.kv,
        engine=means.engine,
        rents=rents(means.rent),
        cap_decode=budget.unit == "watts",
    )
    link = None if means.link is None else parse_link(means.link)
    found = find_engines(names(means.hardware), build)
    pace = (ttft_s / 2, tpot_s / 2)
    return Inquiry(
        model=model,
        engines=tuple(found.engines),
        traffic=Traffic(workload, open_workload, name="given", pace=pace),
        targets=targets,
        budget=budget,
        others=tuple(Traffic(spec, open_workload, pace=pace) for spec in wanted.also),
        link_bytes_per_s=link,
        effort=trouble,
        notes=tuple(found.notes),
    )


def _needed(wanted: WantedFlags, means: MeansFlags) -> tuple[str, str, float, float]:
    given = {
        "--model": wanted.model,
        "--hardware": names(means.hardware) or None,
        "--workload": wanted.workload,
        "--ttft": wanted.ttft,
        "--tpot": wanted.tpot,
    }
    missing = [flag for flag, value in given.items() if value is None]
    model, workload, ttft_s, tpot_s = wanted.model, wanted.workload, wanted.ttft, wanted.tpot
    if missing or model is None or workload is None or ttft_s is None or tpot_s is None:
        raise SpecError(
            f"{' and '.join(missing)} missing; such as: diptych plan --model llama-3.1-70b "
            "--hardware H100,H200 --workload synthetic:poisson,rate=4,input=2000,output=300 --ttft 1 "
            "--tpot 0.04 --budget 16"
        )
    return model, workload, ttft_s, tpot_s


def names(given: tuple[str, ...]) -> list[str]:
    """Hardware names, each once."""
    split = [name.strip() for text in given for name in text.split(",")]
    return list(dict.fromkeys(name for name in split if name))


def rents(given: tuple[str, ...]) -> dict[str, float]:
    """``CHIP=USD`` pairs. Raises `SpecError`."""
    found: dict[str, float] = {}
    for text in given:
        chip, equals, price = text.rpartition("=")
        try:
            value = float(price)
        except ValueError:
            value = -1.0
        if not equals or not chip or not 0 < value < float("inf"):
            raise SpecError(f"--rent {text}: write it like H20=1.2, in USD per chip and hour")
        found[chip.strip()] = value
    return found


def _cores() -> int:
    return max(1, min(MOST_PROCESSES, len(os.sched_getaffinity(0))))
