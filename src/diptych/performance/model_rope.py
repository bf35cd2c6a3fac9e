"""Rotary position embedding as configs describe it: its base, and how it is stretched for long contexts.

Knows: both spellings (`rope_scaling` and `rope_parameters`), defaults, what is refused. Does not know: angles
(`diptych.models.rotary` makes them).
"""

from __future__ import annotations

from math import log
from typing import TypeAlias

import msgspec

from diptych.domain.errors import SpecError
from diptych.performance.config_reader import ConfigReader


class LinearRope(msgspec.Struct, frozen=True, kw_only=True):
    """All frequencies slowed by one factor (`rope_type: linear`)."""

    factor: float


class Llama3Rope(msgspec.Struct, frozen=True, kw_only=True):
    """Llama 3.1's stretching of low rotary frequencies (`rope_type: llama3`)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int


class YarnRope(msgspec.Struct, frozen=True, kw_only=True):
    """YaRN (`rope_type: yarn`): pairs that turn often are kept, those that turn seldom are slowed."""

    factor: float
    original_max_positions: int
    beta_fast: float = 32.0
    """Pairs with more turns than this over the original positions are kept."""
    beta_slow: float = 1.0
    """Pairs with fewer are slowed by ``factor``; between the two is a linear ramp over pairs."""
    attention_factor: float = 1.0
    """On cosines and sines, so that its square is on every score."""
    truncate: bool = True
    """Whether the ends of the ramp are rounded to whole pairs, outwards."""


RopeScaling: TypeAlias = LinearRope | Llama3Rope | YarnRope

SUPPORTED_ROPE_TYPES = ("default", "linear", "llama3", "yarn")


class Rope(msgspec.Struct, frozen=True):
    """Rotary embedding of one layer."""

    theta: float
    scaling: RopeScaling | None = None


def parse_rope(config: ConfigReader, layer_type: str | None = None, default: float = 10_000.0) -> Rope:
    """The rotary embedding of all layers, or of those of ``layer_type`` where a config tells types apart.

    `rope_scaling` wins over `rope_parameters`, as in transformers; ``default`` is the family's base.

    Raises:
        SpecError: an unknown `rope_type`, a missing, ill-typed or contradictory value.
    """
    parameters = _parameters(config, layer_type)
    scaling = config.section("rope_scaling") if config.get("rope_scaling") else parameters
    theta = _theta(parameters, config, default)
    return Rope(theta, None if scaling is None else _scaling(scaling, config))


def parse_plain_rope(config: ConfigReader, layer_type: str, key: str, default: float) -> Rope:
    """As `parse_rope`, where the older spelling has a base under ``key`` and never a stretching."""
    parameters = _parameters(config, layer_type)
    if parameters is None:
        return Rope(_base(config, key, default))
    return Rope(_base(parameters, "rope_theta", _base(config, key, default)), _scaling(parameters, config))


def longest_context(rope: Rope, max_positions: int) -> int:
    """Positions that a model with ``max_positions`` in its config serves.

    YaRN is switched on by an entry beside a `max_position_embeddings` that stays what the model was trained
    with, so its factor counts. The other types come with configs that say the stretched number.
    """
    if isinstance(rope.scaling, YarnRope):
        return max(max_positions, int(rope.scaling.original_max_positions * rope.scaling.factor))
    return max_positions


def _parameters(config: ConfigReader, layer_type: str | None) -> ConfigReader | None:
    section = config.section("rope_parameters")
    if section is None or layer_type is None:
        return section
    of_type = section.section(layer_type)
    if of_type is None:
        raise SpecError(f"{section.source} lacks the key {layer_type!r}")
    return of_type


def _theta(parameters: ConfigReader | None, config: ConfigReader, default: float) -> float:
    """`rope_theta`, inside `rope_parameters` or at the top level (older configs)."""
    if parameters is not None and parameters.get("rope_theta") is not None:
        return _base(parameters, "rope_theta", default)
    return _base(config, "rope_theta", default)


def _base(config: ConfigReader, key: str, default: float) -> float:
    base = config.number(key, default)
    if base <= 1:
        raise SpecError(f"{config.source}: {key!r} must be greater than 1, not {base:g}")
    return base


def _scaling(section: ConfigReader, config: ConfigReader) -> RopeScaling | None:
    kind = section.get("rope_type") or section.get("type") or "default"
    if section.get("partial_rotary_factor") not in (None, 1):
        raise SpecError(f"{section.source}: 'partial_rotary_factor' is not supported; use a model without it")
    match kind:
        case "default":
            return None
        case "linear":
            return LinearRope(factor=_factor(section))
        case "llama3":
            return _llama3(section)
        case "yarn":
            return _yarn(section, config)
        case _:
            supported = ", ".join(SUPPORTED_ROPE_TYPES)
            raise SpecError(
                f"{section.source}: rope_type {kind!r} is not supported (supported: {supported}); "
                "use a checkpoint whose config.json names one of these"
            )


def _llama3(section: ConfigReader) -> Llama3Rope:
    factor = _factor(section)
    low, high = section.number("low_freq_factor"), section.number("high_freq_factor")
    if low >= high:
        raise SpecError(
            f"{section.source}: 'high_freq_factor' {high:g} must be above 'low_freq_factor' {low:g}"
        )
    return Llama3Rope(
        factor=factor,
        low_freq_factor=low,
        high_freq_factor=high,
        original_max_positions=section.integer("original_max_position_embeddings"),
    )


def _yarn(section: ConfigReader, config: ConfigReader) -> YarnRope:
    factor = _factor(section)
    fast, slow = _positive(section, "beta_fast", 32.0), _positive(section, "beta_slow", 1.0)
    if fast < slow:
        raise SpecError(f"{section.source}: 'beta_fast' {fast:g} must not be below 'beta_slow' {slow:g}")
    key = "original_max_position_embeddings"
    inner = section.integer(key, config.integer("max_position_embeddings"))
    return YarnRope(
        factor=factor,
        original_max_positions=config.integer(key, inner),
        beta_fast=fast,
        beta_slow=slow,
        attention_factor=_positive(section, "attention_factor", _suggested_attention_factor(section, factor)),
        truncate=section.get("truncate") is not False,
    )


def _suggested_attention_factor(section: ConfigReader, factor: float) -> float:
    """The paper's, or the ratio of two that DeepSeek's configs give."""
    of, over = section.number("mscale", 0.0), section.number("mscale_all_dim", 0.0)
    if of and over:
        return (0.1 * of * log(factor) + 1) / (0.1 * over * log(factor) + 1)
    return 0.1 * log(factor) + 1


def _factor(section: ConfigReader) -> float:
    factor = section.number("factor")
    if factor < 1:
        raise SpecError(f"{section.source}: 'factor' must be at least 1, not {factor:g}")
    return factor


def _positive(section: ConfigReader, key: str, default: float) -> float:
    value = section.number(key, default)
    if value <= 0:
        raise SpecError(f"{section.source}: {key!r} must be positive, not {value:g}")
    return value
