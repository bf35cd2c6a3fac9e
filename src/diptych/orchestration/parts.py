"""What the managers of one orchestrator share.

Knows: the parts by name. Does not know: what anybody does with them.
"""

from __future__ import annotations

from typing import NamedTuple

from diptych.domain.cluster import LimitsSpec
from diptych.orchestration.attempts import Attempts
from diptych.orchestration.leases import Leases
from diptych.orchestration.ledger import Ledger
from diptych.orchestration.outbox import Outbox
from diptych.orchestration.prefix_index import PrefixIndex
from diptych.orchestration.registry import Registry
from diptych.orchestration.timers import Timers
from diptych.orchestration.waiting import WaitingQueue
from diptych.performance.estimate import CostModel


class Parts(NamedTuple):
    """Books and boxes: they answer and keep count, and decide nothing."""

    limits: LimitsSpec
    cost: CostModel
    timers: Timers
    outbox: Outbox
    ledger: Ledger
    prefixes: PrefixIndex
    queue: WaitingQueue
    registry: Registry
    leases: Leases
    attempts: Attempts

    @staticmethod
    def make(limits: LimitsSpec, cost: CostModel) -> Parts:
        """All of them, empty."""
        timers, outbox, ledger = Timers(), Outbox(), Ledger()
        registry = Registry(limits, timers)
        leases = Leases(ledger, registry, outbox)
        return Parts(
            limits=limits,
            cost=cost,
            timers=timers,
            outbox=outbox,
            ledger=ledger,
            prefixes=PrefixIndex(),
            queue=WaitingQueue(),
            registry=registry,
            leases=leases,
            attempts=Attempts(registry, ledger, leases, timers, outbox),
        )
