"""What is fitted: every constant with its prior, unit and meaning.

Knows: names, priors and where they come from. Does not know: rows, values.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from diptych.performance.efficiencies import ENGINES


class Prior(NamedTuple):
    """A constant before the fit."""

    name: str
    mean: float
    spread: float
    """One standard deviation of its logarithm (of its logit for `overlap`)."""
    unit: str
    about: str


_SHARED = (
    Prior("eta_weights", 0.83, 0.06, "1", "Bandwidth use while weights are read, Blackwell (§4: .79–.89)"),
    Prior("eta_weights_hopper", 1.12, 0.05, "1", "Hopper over Blackwell (§4: .94–.96 against .85)"),
    Prior("eta_weights_fp4", 0.88, 0.06, "1", "fp4 over wider weights, dense models (§4: .71–.82)"),
    Prior("experts_over_weights", 1.0, 0.05, "1", "Bandwidth use of experts over other weights"),
    Prior("eta_kv", 0.85, 0.1, "1", "Bandwidth use while KV is read"),
    Prior("routing_skew", 0.75, 0.2, "1", "Tokens counted for coverage: routing is less even than uniform"),
    Prior("expert_imbalance", 1.2, 0.15, "1", "Busiest expert rank over the mean (§3: start at 1.2)"),
    Prior("mu", 0.55, 0.15, "1", "Compute efficiency of fp8 products on Blackwell, one chip"),
    Prior("mu_hopper", 1.0, 0.1, "1", "Hopper over Blackwell"),
    Prior("mu_bf16", 1.2, 0.1, "1", "bf16 over fp8 products: the lower peak is reached more fully"),
    Prior("mu_fp4", 0.85, 0.12, "1", "fp4 over fp8 products"),
    Prior("mu_weight_only", 1.0, 0.2, "1", "bf16 products of 4-bit weights over fp8 products"),
    Prior("mu_experts", 0.3, 0.3, "1", "Grouped expert products over dense ones (§4: .30 for MoE)"),
    Prior("mu_experts_ranks", 3.0, 0.3, "1", "The same with attention ranks: whole matrices"),
    Prior("mu_attention", 0.45, 0.2, "1", "Compute efficiency of attention, of the bf16 peak"),
    Prior("mu_attention_latent", 1.5, 0.3, "1", "Latent over other attention: partly in fp8"),
    Prior("mu_decay", 0.1, 0.5, "1", "Exponent of the chips of a stage by which μ falls (the links apart)"),
    Prior("passes", 12.0, 0.4, "1", "Passes over a token's activations per layer, at full bandwidth"),
    Prior("passes_routed", 4.0, 0.5, "1", "The same per expert that a token is sent to"),
    Prior("eta_link", 0.7, 0.2, "1", "Use of the scale-up link by all-reduces and exchanges"),
    Prior("layer_per_doubling", 2.6, 0.3, "µs", "All-reduce latency per layer for each doubling of chips"),
    Prior("layer_root_per_doubling", 0.7, 0.4, "µs", "Growth of all-reduces with √(sequences of a rank)"),
    Prior("layer_beyond", 40.0, 0.6, "µs", "Per layer when the stage spans scale-up domains"),
    Prior("layer_moe", 10.0, 0.5, "µs", "Router, permutation and their launches, per layer (§4: 0–14)"),
    Prior("layer_latent", 30.0, 0.4, "µs", "The further products of latent attention, per layer"),
    Prior("layer_query_norm", 7.0, 0.4, "µs", "Norms of queries and keys, per layer"),
    Prior("layer_linear", 10.0, 0.4, "µs", "Convolution and gates of models with linear layers, per layer"),
    Prior("layer_fp4", 9.0, 0.4, "µs", "Conversions of activations to fp4, per layer of dense models"),
    Prior(
        "layer_moe_fp8", 20.0, 0.5, "µs", "Conversions of activations to fp8 for experts; not TensorRT-LLM"
    ),
    Prior("layer_weight_only", 15.0, 0.6, "µs", "Widening 4-bit weights, per layer"),
    Prior("layer_hopper", 1.18, 0.08, "1", "Fixed time of Hopper over Blackwell"),
    Prior("overlap", 0.3, 1.0, "1", "Share of the shorter of memory and compute that is not hidden"),
    Prior("clumps", 0.1, 0.7, "1", "Prompts in a TTFT's queue per √(clients), bench of known rounds"),
    Prior("clumps_unknown", 0.7, 0.4, "1", "The same, bench unknown: holds its start-up burst too (§4: .70)"),
)

_ENGINE = (
    ("layer", {"trtllm": 38.0, "vllm": 46.0, "sglang": 58.0}, 0.3, "µs", "Fixed time of a layer and step"),
    (
        "layer_root",
        {"trtllm": 4.5, "vllm": 5.5, "sglang": 8.0},
        0.4,
        "µs",
        "Its growth with √(sequences of a rank)",
    ),
    ("sequence", {"trtllm": 8.0, "vllm": 8.0, "sglang": 12.0}, 0.5, "µs", "Host time per sequence and step"),
    (
        "first",
        {"trtllm": 0.04, "vllm": 0.03, "sglang": 0.08},
        1.0,
        "s",
        "A first token's time beside queue and steps",
    ),
    ("burst", dict.fromkeys(ENGINES, 1.0), 0.3, "1", "Start-up burst over its closed form"),
)

PCIE = Prior(
    "eta_link_pcie", 0.25, 0.0, "1", "PCIe: 16 of 64 GB/s in the Qwen3-32B run (§3, §11 T8); not fitted"
)

TIGHTNESS = 0.6
"""All spreads are multiplied by this: between 1 and 0.5 the error of left-out groups falls a little (TPOT
11.4 to
10.9 %) while that in sample rises (8.6 to 8.9 %), so less is asked of the rows."""

FAMILY_LAYER, FAMILY_MU, CHIP_LAYER, CHIP_MU, ENGINE_MU = 0.08, 0.14, 0.06, 0.10, 0.12
"""Spreads of the factors that one family or chip has for itself: small, so that a family or chip that was
seen in one group only keeps most of the common value, and one that was not seen loses little."""


def priors(families: Iterable[str], chips: Iterable[str]) -> tuple[Prior, ...]:
    """All constants for rows of these families and chips."""
    found = list(_SHARED)
    for name, means, spread, unit, about in _ENGINE:
        found += [
            Prior(f"{name}_{engine}", means[engine], spread, unit, f"{about}, {engine}") for engine in ENGINES
        ]
    found += [
        Prior(f"mu@{name}", 1.0, ENGINE_MU, "1", "Compute efficiency against the mean engine")
        for name in ENGINES
    ]
    for kind, names, layer, mu in (
        ("family", families, FAMILY_LAYER, FAMILY_MU),
        ("chip", chips, CHIP_LAYER, CHIP_MU),
    ):
        for name in sorted(set(names)):
            found.append(Prior(f"layer@{name}", 1.0, layer, "1", f"Fixed time against the mean {kind}"))
            found.append(Prior(f"mu@{name}", 1.0, mu, "1", f"Compute efficiency against the mean {kind}"))
    return tuple(prior._replace(spread=TIGHTNESS * prior.spread) for prior in found)
