"""The life of a request as one table. The diagram in the docs is generated from it.

Knows: which move is legal. Does not know: why it happens or what it sets in motion.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from diptych.domain.errors import Bug


class State(StrEnum):
    """Where a request stands."""

    QUEUED = "queued"
    PREFILLING = "prefilling"
    HANDING_OFF = "handing_off"
    DECODING = "decoding"
    FINISHED = "finished"
    ABORTED = "aborted"
    REJECTED = "rejected"
    FAILED = "failed"


class Trigger(StrEnum):
    """What moves a request."""

    PREFILL_SENT = "prefill_sent"
    PREFILL_DONE = "prefill_done"
    DECODE_STARTED = "decode_started"
    DONE = "done"
    RESET = "reset"
    ABORT = "abort"
    REJECT = "reject"
    FAIL = "fail"


TERMINAL = frozenset({State.FINISHED, State.ABORTED, State.REJECTED, State.FAILED})

TABLE: Final[dict[State, dict[Trigger, State]]] = {
    State.QUEUED: {
        Trigger.PREFILL_SENT: State.PREFILLING,
        Trigger.DONE: State.FINISHED,  # a stop string seen in tokens that outlived their worker
        Trigger.ABORT: State.ABORTED,
        Trigger.REJECT: State.REJECTED,
        Trigger.FAIL: State.FAILED,
    },
    State.PREFILLING: {
        Trigger.PREFILL_DONE: State.HANDING_OFF,
        Trigger.DECODE_STARTED: State.DECODING,  # the same worker goes on: nothing to hand over
        Trigger.DONE: State.FINISHED,  # the first token was the last
        Trigger.RESET: State.QUEUED,
        Trigger.ABORT: State.ABORTED,
        Trigger.FAIL: State.FAILED,
    },
    State.HANDING_OFF: {
        Trigger.DECODE_STARTED: State.DECODING,
        Trigger.DONE: State.FINISHED,
        Trigger.RESET: State.QUEUED,
        Trigger.ABORT: State.ABORTED,
        Trigger.FAIL: State.FAILED,
    },
    State.DECODING: {
        Trigger.DONE: State.FINISHED,
        Trigger.RESET: State.QUEUED,
        Trigger.ABORT: State.ABORTED,
        Trigger.FAIL: State.FAILED,
    },
    State.FINISHED: {},
    State.ABORTED: {},
    State.REJECTED: {},
    State.FAILED: {},
}
"""(state, trigger) → state. A pair that is not here is a `Bug`."""


def advance(state: State, trigger: Trigger) -> State:
    """The state after ``trigger``. Raises `Bug` for a move that the table does not hold."""
    try:
        return TABLE[state][trigger]
    except KeyError:
        raise Bug(f"no move from {state.value} on {trigger.value}") from None


def mermaid() -> str:
    """The table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> queued"]
    for state, moves in TABLE.items():
        lines += [f"    {state.value} --> {after.value}: {trigger.value}" for trigger, after in moves.items()]
        lines += [f"    {state.value} --> [*]"] if state in TERMINAL else []
    return "\n".join(lines)
