"""Named efficiencies: constants that were fitted to measurements, and which of them hold for an engine.

Knows: what each constant does, who shares it, the fallback for what nobody measured and how much less sure
that
is. Does not know: the values (data files, written by `python -m diptych.planning.fit`), formulas of seconds.

A constant of an engine is a common value times a factor per engine; families and chips have a factor each
that the
fit keeps near 1, so an unseen family or chip takes 1. An unseen engine takes the geometric mean of the known
ones.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from diptych.domain.errors import SpecError
from diptych.performance.chip import Chip
from diptych.performance.model_sizes import ModelSizes
from diptych.performance.roofline import Efficiencies
from diptych.performance.work import Layout, Recipe, beyond_domain

ENGINES = ("trtllm", "vllm", "sglang")
"""Engines that were measured."""

GENERATIONS = {"H100": "hopper", "H200": "hopper", "H20-": "hopper", "H800": "hopper", "GH200": "hopper"}
"""Beginnings of catalogue names -> generation; B and GB names are Blackwell, the reference of the fit."""

FUSES_FP8 = "trtllm"
"""The engine that pays nothing for converting activations of fp8 experts: seen in its rows of Qwen3-235B,
against
those of the other two engines on every fp8 mixture of experts."""

QUERY_NORMS = frozenset(
    {
        "Qwen3ForCausalLM",
        "Qwen3MoeForCausalLM",
        "Qwen3NextForCausalLM",
        "Qwen3_5MoeForConditionalGeneration",
        "MiniMaxM2ForCausalLM",
        "Gemma3ForCausalLM",
        "Gemma3ForConditionalGeneration",
    }
)
"""Families that normalise queries and keys of each layer before attention (their code in `transformers`)."""

MICROSECOND = 1e-6

EXTRA_ENGINE = 0.10
"""Relative error added for an engine that was never measured. Rows of an engine left out of the fit are
predicted
within 13.9 % (2026-11-21; SGLang's, the worst, within 20 %) against 10.8 % for a left-out group:
`python -m diptych.planning.fit --leave engine`."""

EXTRA_GENERATION = 0.10
"""Relative error added for a chip of a generation that was never measured ([E]). A left-out chip of a
measured one
costs little: 11.0 % (`--leave chip`), an architecture 11.4 % (`--leave architecture`)."""


class Constant(msgspec.Struct, frozen=True, kw_only=True):
    """One fitted number."""

    name: str
    value: float
    unit: str
    about: str
    prior: float
    """Where the fit started and is pulled to."""
    spread: float
    """Relative spread allowed around the prior (one standard deviation; of the logit for shares)."""


class Fitted(msgspec.Struct, frozen=True, kw_only=True):
    """All constants of one fit, and how good it was."""

    constants: dict[str, Constant]
    source: str
    rows: int
    date: str
    errors: dict[str, float]
    """Names of error figures -> share (0.12 is 12 %)."""
    groups: dict[str, float]
    """Group (architecture|system|precision) -> mean error of TPOT when it was left out."""

    def value(self, name: str) -> float:
        """A constant's value; 1 for a deviation that was never fitted."""
        constant = self.constants.get(name)
        if constant is not None:
            return constant.value
        if "@" in name:
            return 1.0
        raise SpecError(f"efficiencies: no constant {name!r}; run `python -m diptych.planning.fit`")


class Subject(NamedTuple):
    """All that the choice of constants depends on."""

    engine: str
    family: str
    """The configuration's architecture class."""
    chip: str
    generation: str
    moe: bool
    latent: bool
    linear: bool
    stored: str
    multiplied: str
    weight_only: bool
    chips: int
    """Of a stage."""
    ranks: int
    """Attention data parallel ranks."""
    beyond: bool
    """The stage reaches beyond one scale-up domain."""
    experts_parallel: bool
    slow_link: bool = False
    """PCIe instead of a scale-up link."""


def subject(model: ModelSizes, chip: Chip, layout: Layout, rec: Recipe, engine: str) -> Subject:
    """Who an engine is, to the constants."""
    return Subject(
        engine=engine,
        family=model.architecture,
        chip=chip.name,
        generation=generation(chip.name),
        moe=bool(model.experts),
        latent=model.latent_kv,
        linear=bool(model.linear_layers),
        stored=rec.stored,
        multiplied=rec.multiplied,
        weight_only=rec.weight_only,
        chips=layout.stage_chips,
        ranks=layout.dp,
        beyond=beyond_domain(chip, layout.stage_chips),
        experts_parallel=layout.ep > 1,
        slow_link=chip.scaleup_kind.startswith("PCIe"),
    )


def generation(chip: str) -> str:
    """'hopper', 'blackwell' or 'other'."""
    for start, name in GENERATIONS.items():
        if (chip + "-").startswith(start):
            return name
    return "blackwell" if chip.startswith(("B200", "B300", "GB200", "GB300")) else "other"


def choose(value: Callable[[str], float], it: Subject) -> Efficiencies:
    """Efficiencies of ``it``; ``value`` gives a constant by name."""
    return Efficiencies(
        eta_weights=(eta := _eta_weights(value, it)),
        eta_experts=eta * value("experts_over_weights"),
        eta_kv=value("eta_kv"),
        skew=value("routing_skew"),
        imbalance=value("expert_imbalance") if it.experts_parallel else 1.0,
        mu=(mu := min(1.0, _mu(value, it))),
        mu_experts=min(1.0, mu * value("mu_experts") * (value("mu_experts_ranks") if it.ranks > 1 else 1.0)),
        mu_attention=value("mu_attention") * (value("mu_attention_latent") if it.latent else 1.0),
        passes=value("passes"),
        routed_passes=value("passes_routed"),
        link=value("eta_link_pcie") if it.slow_link else value("eta_link"),
        layer_s=_layer_s(value, it),
        layer_root_s=_layer_root_s(value, it),
        sequence_s=_engine(value, "sequence", it) * MICROSECOND,
        overlap=value("overlap"),
    )


def first_token_s(value: Callable[[str], float], engine: str) -> float:
    """Seconds of a first token beside queue and steps."""
    return _by_engine(value, "first", engine)


def start_up(value: Callable[[str], float], engine: str, rounds: float | None) -> tuple[float, float]:
    """(share of a full burst that a mean TTFT sees, clumps per root of the clients): ``½/rounds`` times what
    the engine makes of a burst where the bench's rounds are known; else all of it is in the second."""
    if rounds is None:
        return 0.0, value("clumps_unknown")
    return 0.5 / rounds * _by_engine(value, "burst", engine), value("clumps")


def relative_error(fitted: Fitted, group: str, it: Subject) -> tuple[float, str]:
    """Expected relative error of a TPOT, and why: the group's own if it was measured, else that of the
    nearest
    measured groups when they were left out, plus `EXTRA_ENGINE` and `EXTRA_GENERATION` where they apply."""
    if group in fitted.groups:
        return fitted.groups[group], f"{group} was measured; error when it is left out of the fit"
    system = group.split("|")[1] if group.count("|") == 2 else ""
    near = [error for name, error in fitted.groups.items() if system and system == name.split("|")[1]]
    error = sum(near) / len(near) if near else fitted.errors["tpot_left_out"]
    why = f"not measured: mean of {len(near) or len(fitted.groups)} left-out groups"
    why += " of this chip" if near else ""
    if it.engine not in ENGINES:
        error, why = error + EXTRA_ENGINE, f"{why}; engine {it.engine!r} is unknown (+{EXTRA_ENGINE:.0%})"
    if it.generation == "other":
        error, why = error + EXTRA_GENERATION, f"{why}; {it.chip} is of no measured generation"
    return error, why


def parse_efficiencies(text: str, source: str = "efficiencies") -> Fitted:
    """The data file's text.

    Raises:
        SpecError: bad TOML, or a key that is missing or of the wrong type.
    """
    try:
        document: dict[str, Any] = tomllib.loads(text)
        document["constants"] = {name: {"name": name, **row} for name, row in document["constants"].items()}
        return msgspec.convert(document, Fitted, strict=False)
    except (tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError, msgspec.ValidationError) as error:
        raise SpecError(f"{source}: not a file of efficiencies: {error}") from error


def merged(base: Fitted, values: Mapping[str, float]) -> Callable[[str], float]:
    """``base`` with some values replaced: for calibration online and for what-if questions."""
    return lambda name: values[name] if name in values else base.value(name)


# ---------------------------------------------------------------- parts


def _eta_weights(value: Callable[[str], float], it: Subject) -> float:
    eta = value("eta_weights") * _of_generation(value, "eta_weights_hopper", it)
    return min(1.0, eta * (value("eta_weights_fp4") if it.stored == "fp4" and not it.moe else 1.0))


def _mu(value: Callable[[str], float], it: Subject) -> float:
    mu = value("mu") * value(f"mu@{it.engine}") * value(f"mu@{it.family}") * value(f"mu@{it.chip}")
    mu *= _of_generation(value, "mu_hopper", it) * it.chips ** -value("mu_decay")
    if it.weight_only:
        return mu * value("mu_weight_only")
    return mu * (value(f"mu_{it.multiplied}") if it.multiplied != "fp8" else 1.0)


def _layer_s(value: Callable[[str], float], it: Subject) -> float:
    extra = value("layer_moe") * it.moe + value("layer_latent") * it.latent
    extra += value("layer_linear") * it.linear + value("layer_query_norm") * (it.family in QUERY_NORMS)
    extra += value("layer_fp4") * (it.stored == "fp4" and not it.weight_only and not it.moe)
    extra += value("layer_moe_fp8") * (it.stored == "fp8" and it.moe and it.engine != FUSES_FP8)
    extra += value("layer_weight_only") * it.weight_only
    between = value("layer_per_doubling") * _log2(it.chips) + value("layer_beyond") * it.beyond
    return ((_engine(value, "layer", it) + extra) * _slowness(value, it) + between) * MICROSECOND


def _layer_root_s(value: Callable[[str], float], it: Subject) -> float:
    own = _engine(value, "layer_root", it) * _slowness(value, it)
    return (own + value("layer_root_per_doubling") * _log2(it.chips)) * MICROSECOND


def _slowness(value: Callable[[str], float], it: Subject) -> float:
    return value(f"layer@{it.family}") * value(f"layer@{it.chip}") * _of_generation(value, "layer_hopper", it)


def _engine(value: Callable[[str], float], name: str, it: Subject) -> float:
    return _by_engine(value, name, it.engine)


def _by_engine(value: Callable[[str], float], name: str, engine: str) -> float:
    if engine in ENGINES:
        return value(f"{name}_{engine}")
    product = 1.0
    for known in ENGINES:
        product *= value(f"{name}_{known}")
    return product ** (1 / len(ENGINES))


def _of_generation(value: Callable[[str], float], name: str, it: Subject) -> float:
    """Blackwell is the reference (1); a generation that was never measured takes the middle."""
    if it.generation == "blackwell":
        return 1.0
    return value(name) if it.generation == "hopper" else value(name) ** 0.5


def _log2(count: int) -> float:
    return (count.bit_length() - 1) + (count / (1 << (count.bit_length() - 1)) - 1.0)
