"""One worker on catalogue hardware as a `StepModel`.

Knows: step times of an engine over one or several pipeline stages, what its memory holds, how much of the
chips
it uses. Does not know: where chips, models and efficiencies come from.

Several stages: a batch goes round in as many micro-batches as there are stages, so a step is one pass of all
layers
with the batch divided by them, plus the way between stages; chunks of a prompt follow one another and leave
the
bubble (pp − 1)/(chunks + pp − 1).
"""

from __future__ import annotations

from typing import NamedTuple

from diptych.domain.errors import SpecError
from diptych.domain.fleet import DeviceSpec
from diptych.performance.chip import Chip
from diptych.performance.efficiencies import Fitted, choose, relative_error, subject
from diptych.performance.model_sizes import ModelSizes
from diptych.performance.roofline import (
    Coefficients,
    Load,
    StepCost,
    coefficients,
    compute_s,
    fixed_s,
    memory_s,
    network_s,
    prompt_load,
    roof_s,
)
from diptych.performance.steps import Chunks, Line, StepModel
from diptych.performance.work import (
    ACTIVATION_BYTES,
    MEMORY_USE,
    USUAL_DOMAIN,
    Layout,
    Recipe,
    Room,
    Work,
    activations_bytes,
    kv_tokens,
    link_assumption,
    link_bytes_per_s,
    recipe,
    room,
    spare_bytes,
    work,
)

STAGE_HOP_S = 1e-5
"""Seconds of a point-to-point message between stages (latency model §3)."""

PIPELINE_CHUNK_TOKENS = 512
"""Smallest chunk worth its own pass: it costs at most 25 % of prefill throughput (Sarathi, latency model
§5)."""


class Utilisation(NamedTuple):
    """Shares of the chips' peak over one step: two figures, never one."""

    compute: float
    bandwidth: float


class RooflineSteps(StepModel):
    """See `StepModel`. Lines in the summed context; equal questions get equal answers."""

    def __init__(
        self, model: ModelSizes, layout: Layout, work_: Work, space: Room, eff: Coefficients, hop: float
    ) -> None:
        self.layers = model.layers
        self._pp = layout.pp
        self._work = work_
        self._c = eff
        self._flat = layout.pp == 1 and not eff.window
        self._hop_s_per_token = hop
        self._kv_tokens = kv_tokens(space, layout.dp)
        self._lines: dict[int, tuple[Line, ...]] = {}
        self.kv_token_bytes = 0
        self.relative_error = 0.0
        """Expected relative error of a step, from the fit's left-out groups."""
        self.grounds = ""
        """Why that much."""
        self.assumptions: tuple[str, ...] = ()
        """What stands in for figures that nobody publishes."""

    @property
    def kv_tokens(self) -> int:
        """See `StepModel`."""
        return self._kv_tokens

    def step_s(self, chunks: Chunks, decodes: int, context_tokens: int) -> float:
        """See `StepModel`."""
        if not chunks:
            if not decodes:
                return 0.0
            lines = self.decode_lines(decodes)
            return max(it.fixed_s + it.per_context_token_s * context_tokens for it in lines)
        if self._flat:
            return self._flat_s(chunks, decodes, context_tokens)
        return self.cost(chunks, decodes, context_tokens).total_s

    def _flat_s(self, chunks: Chunks, decodes: int, context: int) -> float:
        """`cost` for one stage and no windows, written out: the simulator asks this most."""
        c, tokens, pairs, read = self._c, float(decodes), 0.0, context
        for new, cached in chunks:
            tokens += new
            pairs += new * (cached + new / 2.0)
            read += cached
        memory = c.others_s + c.experts_s * (1.0 - c.missed**tokens) + c.context_s * read
        memory += c.kv_sequence_s * decodes
        busy = (c.token_s + c.link_token_s) * tokens + c.pair_s * pairs + c.decode_pair_s * context
        sequences = decodes + len(chunks)
        fixed = c.fixed_s + c.root_s * sequences**0.5 + c.sequence_s * sequences
        return max(memory + c.overlap * busy, busy + c.overlap * memory) + fixed

    def cost(self, chunks: Chunks, decodes: int, context_tokens: int) -> StepCost:
        """One step, its parts kept apart."""
        load = self._load(chunks, decodes, context_tokens)
        c = self._c
        memory, compute, network = memory_s(c, load), compute_s(c, load), network_s(c, load)
        fixed = fixed_s(c, (decodes + len(chunks)) / self._pp) + self._hops_s(load.tokens)
        return StepCost(compute, memory, network, fixed, roof_s(c, memory, compute + network) + fixed)

    def decode_lines(self, decodes: int) -> tuple[Line, ...]:
        """See `StepModel`."""
        lines = self._lines.get(decodes)
        if lines is None:
            lines = self._lines[decodes] = self._decode_lines(decodes)
        return lines

    def utilisation(self, chunks: Chunks, decodes: int, context_tokens: int) -> Utilisation:
        """Useful FLOPs and bytes of a step over what one chip could do meanwhile."""
        w, load = self._work, self._load(chunks, decodes, context_tokens)
        seconds = self.step_s(chunks, decodes, context_tokens)
        if seconds <= 0:
            return Utilisation(0.0, 0.0)
        flops = (w.linear_flops + w.expert_flops) * load.tokens + w.pair_flops * load.pairs
        flops += w.window_flops * (load.window_pairs + w.window * load.decodes)
        flops += w.decode_pair_flops * load.context
        covered = w.experts_bytes * (1.0 - self._c.missed**load.tokens)
        read = w.context_bytes * (load.context + load.read) + w.sequence_bytes * load.decodes
        moved = w.others_bytes + covered + read
        # A chip holds 1/pp of the layers and sees pp micro-batches in a step: both cancel.
        return Utilisation(flops / (w.peak * seconds), moved / (w.bandwidth * seconds))

    def _load(self, chunks: Chunks, decodes: int, context: float) -> Load:
        share = 1.0 / self._pp
        tokens, pairs, window_pairs, read = decodes * share, 0.0, 0.0, 0.0
        pieces = max(1, sum(new for new, _ in chunks) // PIPELINE_CHUNK_TOKENS)
        filled = (pieces + self._pp - 1) / (pieces * self._pp)
        for new, cached in chunks:
            one = prompt_load(self._c, float(new), float(cached))
            tokens += one.tokens * filled
            pairs += one.pairs * filled
            window_pairs += one.window_pairs * filled
            read += one.read * filled
        return Load(tokens, pairs, window_pairs, decodes * share, context * share, read)

    def _hops_s(self, tokens: float) -> float:
        return (self._pp - 1) * (STAGE_HOP_S + tokens * self._hop_s_per_token) if self._pp > 1 else 0.0

    def _decode_lines(self, decodes: int) -> tuple[Line, ...]:
        c, share = self._c, 1.0 / self._pp
        load = self._load((), decodes, 0.0)
        memory, busy = memory_s(c, load), compute_s(c, load) + network_s(c, load)
        fixed = fixed_s(c, decodes * share) + self._hops_s(load.tokens)
        reads, pairs, both = c.context_s * share, c.decode_pair_s * share, c.overlap
        return (
            Line(memory + both * busy + fixed, reads + both * pairs),
            Line(busy + both * memory + fixed, pairs + both * reads),
        )


def roofline_steps(model: ModelSizes, chip: Chip, device: DeviceSpec, fitted: Fitted) -> RooflineSteps:
    """A worker of ``device`` on ``chip`` that serves ``model``.

    Raises:
        SpecError: the weights do not fit; says by how much, and which tensor_parallel would do.
        MissingFigure: the chip does not publish a figure that this needs.
    """
    layout = layout_of(device)
    rec = recipe(model, chip, device.weights, device.kv)
    space = room(model, chip, layout, rec)
    _check_room(model, chip, device, rec, space)
    who = subject(model, chip, layout, rec, device.engine)
    load = work(model, chip, layout, rec)
    c = coefficients(load, choose(fitted.value, who))
    hop = 0.0
    if layout.pp > 1:
        hop = model.hidden * ACTIVATION_BYTES / link_bytes_per_s(chip, Layout(tp=layout.chips))
    steps = RooflineSteps(model, layout, load, space, c, hop)
    steps.kv_token_bytes = round(model.kv_bytes_per_token(rec.kv) + model.index_bytes_per_token)
    group = f"{model.name}|{_system(chip)}|{device.weights}"
    steps.relative_error, steps.grounds = relative_error(fitted, group, who)
    assumed = link_assumption(chip, layout)
    steps.assumptions = (assumed,) if assumed else ()
    return steps


def layout_of(device: DeviceSpec) -> Layout:
    """The layout that a spec asks for."""
    return Layout(
        tp=device.tensor_parallel,
        pp=device.pipeline_parallel,
        dp=device.attention_data_parallel,
        ep=device.expert_parallel,
    )


def smallest_fit(model: ModelSizes, chip: Chip, device: DeviceSpec) -> tuple[int, int] | None:
    """The fewest (tensor_parallel, pipeline_parallel) whose weights fit, all else as in ``device``: tensor
    parallel by powers of two inside one scale-up domain, then more stages."""
    rec = recipe(model, chip, device.weights, device.kv)
    domain = chip.scaleup_chips if chip.scaleup_domain is not None else USUAL_DOMAIN
    sizes = [tp for tp in (1 << i for i in range(11)) if tp <= min(domain, model.heads)]
    for pp in (device.pipeline_parallel, *range(device.pipeline_parallel + 1, 65)):
        for tp in sizes if pp == device.pipeline_parallel else sizes[-1:]:
            split = {"tensor_parallel": tp, "pipeline_parallel": pp}
            if spare_bytes(room(model, chip, layout_of(device.model_copy(update=split)), rec)) > 0:
                return tp, pp
    return None


def _check_room(model: ModelSizes, chip: Chip, device: DeviceSpec, rec: Recipe, space: Room) -> None:
    short = -spare_bytes(space)
    if short < 0:
        return
    fits = smallest_fit(model, chip, device)
    remedy = "no 64 stages of one scale-up domain fit it: take a larger chip or narrower weights"
    if fits is not None:
        stages = f", pipeline_parallel {fits[1]}" if fits[1] != device.pipeline_parallel else ""
        remedy = f"the smallest that fits is tensor_parallel {fits[0]}{stages}"
    raise SpecError(
        f"device: {model.name} in {rec.stored} does not fit {chip.name}: a chip would hold "
        f"{space.weight_bytes / 1e9:.1f} GB of weights, {short / 1e9:.1f} GB more than {MEMORY_USE:.0%} of "
        f"{space.memory_bytes / 1e9:.4g} GB less {activations_bytes(space) / 1e9:.2g} GB for activations; "
        f"{remedy}"
    )


def _system(chip: Chip) -> str:
    """A chip as the measured groups spell it: 'h100_sxm', 'gb200'."""
    return chip.name.partition(" (")[0].lower().replace("-", "_")
