"""One engine that a pool could run on: what it is called, what it costs, how fast it is.

Knows: step models, chips, watts, money. Does not know: how many of them there are, what they serve.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from diptych.domain.cluster import PoolSpec
from diptych.domain.fleet import DeviceSpec, ProfileSpec
from diptych.domain.worker import Role
from diptych.performance.steps import Chunk, StepModel
from diptych.planning.search.targets import BudgetUnit

MOST_RUNNING = 512
"""Most sequences of one decode step that are tried: past it, measured step times do not reach."""


@dataclass(frozen=True, eq=False)
class Engine:
    """An engine of one or more chips; every figure is of the whole engine."""

    name: str
    chip: str
    chips: int
    steps: StepModel
    kv_token_bytes: int
    layers: int
    device: DeviceSpec | None = None
    profile: ProfileSpec | None = None
    watts: float | None = None
    """Rated power, which a site must provide; None: not published."""
    money_per_hour: float | None = None
    port_bytes_per_s: float | None = None
    """Network that KV leaves or enters by; None: not published."""
    uncapped: Engine | None = field(default=None, repr=False)
    """The same engine without its power cap: a capped one only decodes."""
    _memo: dict[object, float] = field(default_factory=dict, repr=False)

    def amount(self, unit: BudgetUnit) -> float | None:
        """What one engine takes out of a budget; None: the figure is not known."""
        return {"devices": float(self.chips), "watts": self.watts, "money": self.money_per_hour}[unit]

    def pool(self, name: str, role: Role, workers: int, chunk_tokens: int) -> PoolSpec:
        """A pool of a cluster spec."""
        return PoolSpec(
            name=name,
            role=role,
            workers=workers,
            token_budget=chunk_tokens,
            max_running=min(MOST_RUNNING, chunk_tokens),
            device=self.device,
            profile=self.profile,
        )

    def prefill_s(self, new: int, cached: int, chunk_tokens: int) -> float:
        """Seconds of one prompt alone, cut into chunks."""
        key = (new, cached, chunk_tokens)
        known = self._memo.get(key)
        if known is None:
            known = self._memo[key] = self._prefill_s(new, cached, chunk_tokens)
        return known

    def _prefill_s(self, new: int, cached: int, chunk_tokens: int) -> float:
        step_s = self.steps.step_s
        return sum(
            step_s([Chunk(min(chunk_tokens, new - done), cached + done)], 0, 0)
            for done in range(0, new, chunk_tokens)
        )

    def decode_s(self, batch: float, context_tokens: float) -> float:
        """Seconds of a step that decodes ``batch`` sequences of ``context_tokens`` tokens each; between whole
        batches a straight line."""
        low = max(1, int(batch))
        at_low = self._decode_s(low, context_tokens)
        if batch <= low:
            return at_low
        return at_low + (batch - low) * (self._decode_s(low + 1, context_tokens) - at_low)

    def _decode_s(self, batch: int, context_tokens: float) -> float:
        held = batch * context_tokens
        return max(line.fixed_s + line.per_context_token_s * held for line in self.steps.decode_lines(batch))
