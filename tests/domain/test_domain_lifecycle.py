"""Every pair of state and trigger: a move of the table, or a bug."""

from __future__ import annotations

from itertools import product

import pytest

from diptych.domain.errors import Bug
from diptych.domain.lifecycle import TABLE, TERMINAL, State, Trigger, advance, mermaid

MOVES = {
    ("queued", "prefill_sent"): "prefilling",
    ("queued", "done"): "finished",
    ("queued", "abort"): "aborted",
    ("queued", "reject"): "rejected",
    ("queued", "fail"): "failed",
    ("prefilling", "prefill_done"): "handing_off",
    ("prefilling", "decode_started"): "decoding",
    ("prefilling", "done"): "finished",
    ("prefilling", "reset"): "queued",
    ("prefilling", "abort"): "aborted",
    ("prefilling", "fail"): "failed",
    ("handing_off", "decode_started"): "decoding",
    ("handing_off", "done"): "finished",
    ("handing_off", "reset"): "queued",
    ("handing_off", "abort"): "aborted",
    ("handing_off", "fail"): "failed",
    ("decoding", "done"): "finished",
    ("decoding", "reset"): "queued",
    ("decoding", "abort"): "aborted",
    ("decoding", "fail"): "failed",
}
"""Written down a second time, so that a slip in the table is a difference and not a definition."""


@pytest.mark.parametrize(("state", "trigger"), list(product(State, Trigger)))
def test_every_pair_is_a_move_or_a_bug(state: State, trigger: Trigger) -> None:
    wanted = MOVES.get((state.value, trigger.value))
    if wanted is None:
        with pytest.raises(Bug, match=f"no move from {state.value} on {trigger.value}"):
            advance(state, trigger)
    else:
        assert advance(state, trigger) is State(wanted)


def test_nothing_leaves_a_terminal_state_and_everything_else_has_a_way_there() -> None:
    assert set(TABLE) == set(State)
    for state, moves in TABLE.items():
        assert bool(moves) is (state not in TERMINAL)
        if moves:
            assert {State.FINISHED, State.ABORTED, State.FAILED} <= set(moves.values())


def test_only_what_never_ran_can_be_rejected() -> None:
    assert [state for state, moves in TABLE.items() if Trigger.REJECT in moves] == [State.QUEUED]


def test_the_diagram_shows_every_move_and_every_end() -> None:
    lines = mermaid().splitlines()
    assert lines[:2] == ["stateDiagram-v2", "    [*] --> queued"]
    for (state, trigger), after in MOVES.items():
        assert f"    {state} --> {after}: {trigger}" in lines
    for state in TERMINAL:
        assert f"    {state.value} --> [*]" in lines
    assert len(lines) == 2 + len(MOVES) + len(TERMINAL)
