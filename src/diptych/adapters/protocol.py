"""What a worker process needs of an engine. Knows the protocol only."""

from __future__ import annotations

from typing import Protocol

from diptych.domain.kv import KVLayout
from diptych.domain.step import StepPlan, StepResult


class EngineAdapter(Protocol):
    """An engine that has its weights loaded and its KV memory attached."""

    @property
    def layout(self) -> KVLayout:
        """Shape of the KV memory that it reads and writes."""
        ...

    def execute(self, plan: StepPlan) -> StepResult:
        """Run one step; blocks until it is done. Called by one thread at a time."""
        ...

    def warm_up(self) -> None:
        """Run small steps over scratch inputs so that the first request does not pay for first use."""
        ...
