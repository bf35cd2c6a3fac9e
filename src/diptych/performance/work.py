"""The work of one engine's step, before any efficiency: bytes and FLOPs of one chip, peak rates, and what
fits.

Knows: how tensor, expert and attention data parallelism divide the model over the chips of one pipeline
stage.
Does not know: efficiencies, seconds, queues.

A pipeline stage of ``tp · dp`` chips is the unit here: all layers pass it one after another in time,
whichever
stage holds them, so seconds of a whole pass are the same as on one stage with enough memory.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from diptych.domain.errors import SpecError
from diptych.performance.chip import Chip, Precision
from diptych.performance.model_sizes import KV_BYTES, STATE_FLOPS, WEIGHT_BYTES, ModelSizes

ACTIVATION_BYTES = 2.0
"""Bytes of one activation element: bf16 in every engine measured."""

DISPATCH_BYTES = 3.0
"""Bytes per element that experts exchange: fp8 when dispatched, bf16 when combined (DeepEP's description)."""

MEMORY_USE = 0.9
"""Share of a chip's memory that engines fill (vLLM's default; latency model §7)."""

ACTIVATIONS_BYTES, ACTIVATIONS_SHARE = 2e9, 0.1
"""Kept free for activations on each chip: the low end of 2–6 GB (latency model §7), which measured engines
with little room need (DeepSeek-V3 on four B200); a tenth of memories of a few GB, whose chips see small
batches ([E])."""

ASSUMED_LINK = 64e9
"""Bytes/s of a link that nobody publishes: PCIe 5 x16, one direction ([E])."""

USUAL_DOMAIN = 8
"""Chips that a machine holds where no scale-up domain is published."""


class Layout(msgspec.Struct, frozen=True):
    """How one engine spreads over chips."""

    tp: int = 1
    """Tensor parallel chips of one attention rank."""
    pp: int = 1
    dp: int = 1
    """Attention data parallel ranks; they share the experts."""
    ep: int = 1
    """Expert parallel chips; 1: experts are cut like every other weight."""

    @property
    def stage_chips(self) -> int:
        """Chips of one pipeline stage."""
        return self.tp * self.dp

    @property
    def chips(self) -> int:
        """Chips of the engine."""
        return self.stage_chips * self.pp


class Recipe(msgspec.Struct, frozen=True):
    """How a checkpoint stores its weights and what it multiplies them in."""

    stored: Precision
    """The narrow format: all weights but embeddings and LM head, or only the routed experts."""
    multiplied: Precision
    """Format of the large products."""
    others: Precision
    """Format of everything that is not a routed expert."""
    kv: str = "fp8"
    weight_only: bool = False
    """int4-like: narrow in memory, widened before the product."""


def recipe(model: ModelSizes, chip: Chip, stored: Precision, kv: str, *, weight_only: bool = False) -> Recipe:
    """The common recipe of ``stored``: four-bit checkpoints of mixture-of-experts models narrow the routed
    experts only (gpt-oss, and NVIDIA's of DeepSeek and Kimi), other checkpoints narrow every layer."""
    multiplied: Precision = "bf16" if weight_only else chip.compute_precision(stored)
    others: Precision = "bf16" if stored == "fp4" and model.experts else stored
    return Recipe(stored, multiplied, others, kv, weight_only)


class Work(NamedTuple):
    """Of one chip of a stage. Bytes, FLOPs and rates; `planning.fit` fills it with arrays of many engines."""

    chips: float
    """Of a stage."""
    ranks: float
    """Attention data parallel ranks."""
    layers: float
    bandwidth: float
    """Peak bytes/s of one chip's memory."""
    link: float
    """Peak bytes/s of one chip's way to the others, one direction."""
    peak: float
    """FLOP/s of the products with weights."""
    attention_peak: float
    others_bytes: float
    """Weights read by every step."""
    experts_bytes: float
    """All routed experts; a step reads the share that its tokens reach."""
    missed: float
    """Share of the experts that one token does not use: 1 − k/E."""
    context_bytes: float
    """KV of one token of context, at the mean over ranks."""
    sequence_bytes: float
    """KV and state of a sequence that do not grow."""
    linear_flops: float
    """Products with weights that are no experts, per token."""
    expert_flops: float
    pair_flops: float
    """Attention of one new token to one earlier token, as prefill computes it (layers that see all)."""
    decode_pair_flops: float
    window_flops: float
    """The same to one token inside the window, layers that see a window (or keep the best k)."""
    window: float
    """Tokens that such layers see; 0: there are none."""
    hidden_bytes: float
    """One pass over one token's activations, all layers."""
    routed_bytes: float
    """One pass over a token's activations once per expert that it is sent to."""
    link_bytes: float
    """Per token: all-reduces, or dispatch and combine."""


class Room(NamedTuple):
    """Memory of one chip, of the whole engine's spread (pipeline included)."""

    memory_bytes: float
    weight_bytes: float
    token_bytes: float
    """KV of one token, one attention rank's share on one chip."""


def work(model: ModelSizes, chip: Chip, layout: Layout, rec: Recipe) -> Work:
    """Work per token, context and step on one chip.

    Raises:
        MissingFigure: the chip does not publish a figure that this needs.
        SpecError: a count is wrong for the model.
    """
    n, dp = float(layout.stage_chips), float(layout.dp)
    _check(model, layout)
    share = float(min(layout.tp, model.kv_heads)) if not model.latent_kv else 1.0
    kv_width = KV_BYTES[rec.kv]
    wide, narrow = WEIGHT_BYTES[rec.others], WEIGHT_BYTES[rec.stored]
    ends = (model.head_parameters, model.head_parameters + model.embedding_parameters)
    rest = model.parameters - model.expert_parameters - ends[1]
    sparse = model.index_topk
    full = 0 if sparse else model.full_layers
    seen = model.full_layers if sparse else model.window_layers
    window = float(sparse or model.window_tokens)
    per_layer = model.kv_elements * kv_width
    context = (model.index_bytes_per_token if sparse else full * per_layer) / share / dp
    fixed = (seen * per_layer * window + model.state_bytes) / share / dp
    state_flops = STATE_FLOPS * model.linear_layers * model.state_elements_per_layer
    others_active = model.linear_parameters - model.active_expert_parameters
    routed = float(model.expert_layers * model.experts_per_token)
    return Work(
        chips=n,
        ranks=dp,
        layers=float(model.layers),
        bandwidth=chip.bandwidth_bytes_per_s,
        link=link_bytes_per_s(chip, layout),
        peak=chip.peak_flops(rec.multiplied),
        attention_peak=_attention_peak(chip),
        others_bytes=(rest * wide + ends[0] * WEIGHT_BYTES["bf16"]) / layout.tp,
        experts_bytes=model.expert_parameters * narrow / n,
        missed=1.0 - model.experts_per_token / model.experts if model.experts else 1.0,
        context_bytes=context,
        sequence_bytes=fixed,
        linear_flops=(2.0 * others_active + state_flops) / n,
        expert_flops=2.0 * model.active_expert_parameters / n,
        pair_flops=(4.0 * model.heads * model.head_dim * full + _index_flops(model)) / n,
        decode_pair_flops=(4.0 * model.heads * model.decode_head_dim * full + _index_flops(model)) / n,
        window_flops=4.0 * model.heads * model.head_dim * seen / n,
        window=window,
        hidden_bytes=model.layers * model.hidden * ACTIVATION_BYTES / dp,
        routed_bytes=routed * model.hidden * ACTIVATION_BYTES / n,
        link_bytes=_link_bytes(model, layout),
    )


def room(model: ModelSizes, chip: Chip, layout: Layout, rec: Recipe) -> Room:
    """What fits on a chip: weights are cut over tp, pp and (experts) dp; KV over tp and pp."""
    wide, narrow = WEIGHT_BYTES[rec.others], WEIGHT_BYTES[rec.stored]
    ends = model.head_parameters + model.embedding_parameters
    rest = (model.parameters - model.expert_parameters - ends) * wide + ends * WEIGHT_BYTES["bf16"]
    weights = rest / (layout.tp * layout.pp) + model.expert_parameters * narrow / layout.chips
    share = 1 if model.latent_kv else min(layout.tp, model.kv_heads)
    token = model.kv_bytes_per_token(rec.kv) + model.index_bytes_per_token
    return Room(chip.visible_bytes, weights, token / (share * layout.pp))


def kv_tokens(space: Room, ranks: int) -> int:
    """Tokens of KV of an engine: ``(util·mem − weights − activations) / token`` on one chip, all ranks."""
    return max(0, int(ranks * spare_bytes(space) / space.token_bytes)) if space.token_bytes else 0


def spare_bytes(space: Room) -> float:
    """What one chip has left for KV; negative where the weights do not fit."""
    return MEMORY_USE * space.memory_bytes - space.weight_bytes - activations_bytes(space)


def activations_bytes(space: Room) -> float:
    """Kept free for activations on one chip."""
    return min(ACTIVATIONS_BYTES, ACTIVATIONS_SHARE * space.memory_bytes)


def link_bytes_per_s(chip: Chip, layout: Layout) -> float:
    """One direction of a chip's way to the other chips of its stage: the scale-up link inside its domain,
    the network card beyond it; `ASSUMED_LINK` where that is not published (`link_assumption` says so)."""
    if layout.stage_chips == 1:
        return 1.0
    known = chip.nic if beyond_domain(chip, layout.stage_chips) else chip.scaleup
    return ASSUMED_LINK if known is None else known.base


def link_assumption(chip: Chip, layout: Layout) -> str:
    """What was assumed of the link, in words; empty where it is published."""
    beyond = beyond_domain(chip, layout.stage_chips)
    if layout.stage_chips == 1 or (chip.nic if beyond else chip.scaleup) is not None:
        return ""
    link = "network card" if beyond else "scale-up link"
    return f"{chip.name}: the {link} is not published; {ASSUMED_LINK / 1e9:g} GB/s (PCIe 5 x16) is assumed"


def beyond_domain(chip: Chip, chips: int) -> bool:
    """Whether ``chips`` of them do not share one scale-up domain; `USUAL_DOMAIN` where none is published, and
    systems have none."""
    if chip.scaleup_domain is not None:
        return chips > chip.scaleup_chips
    return chips > (1 if chip.unit == "system" else USUAL_DOMAIN)


def _link_bytes(model: ModelSizes, layout: Layout) -> float:
    """Two ring all-reduces per layer inside a rank; between ranks, what experts exchange instead of one of
    them."""
    wire = model.hidden * ACTIVATION_BYTES * 2.0 * (layout.tp - 1) / layout.tp / layout.dp
    if layout.dp == 1:
        return 2.0 * model.layers * wire
    n = layout.stage_chips
    copies = min(model.experts_per_token, n) if layout.ep > 1 else n
    exchanged = model.expert_layers * model.hidden * DISPATCH_BYTES * copies * (1 - 1 / n) / n
    return model.layers * wire + exchanged


def _attention_peak(chip: Chip) -> float:
    precision: Precision = "bf16" if chip.supports("bf16") else chip.compute_precision("fp8")
    return chip.peak_flops(precision)


def _index_flops(model: ModelSizes) -> float:
    """Scores of sparse attention, per pair; fp8 counts half."""
    return model.layers * model.index_width * 1.0 if model.index_topk else 0.0


def _check(model: ModelSizes, layout: Layout) -> None:
    if layout.ep > 1 and not model.experts:
        raise SpecError(f"expert_parallel = {layout.ep}: {model.name} has no experts; leave it at 1")
    if layout.tp > model.heads:
        raise SpecError(
            f"tensor_parallel = {layout.tp}: {model.name} has {model.heads} heads, at most that many"
        )
