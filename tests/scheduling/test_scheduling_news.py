"""News of the prompt cache wait for an answer, in order, and what follows each other is said as one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from diptych.domain.events import BlocksCached, BlocksEvicted, DecodeStarted, WorkerEvent
from diptych.domain.ids import BlockHash, RequestId
from diptych.scheduling.news import NewsHolder

ANSWER = DecodeStarted(RequestId("r"), 1)


def _name(number: int) -> BlockHash:
    return BlockHash(number.to_bytes(16, "little"))


def _cached(*numbers: int) -> BlocksCached:
    return BlocksCached(tuple(map(_name, numbers)), numbers)


def _evicted(*numbers: int) -> BlocksEvicted:
    return BlocksEvicted(tuple(map(_name, numbers)))


def test_neighbours_become_one_and_the_order_stays() -> None:
    holder = NewsHolder()
    assert holder.release([_cached(1, 2)]) == ()
    assert holder.release([_cached(3), _evicted(1)]) == ()
    assert holder.release([]) == ()
    assert holder.release([_evicted(2), _cached(4), ANSWER, _cached(5)]) == [
        _cached(1, 2, 3),
        _evicted(1, 2),
        _cached(4),
        ANSWER,
        _cached(5),
    ]
    assert holder.release([ANSWER]) == [ANSWER]


events = st.one_of(
    st.lists(st.integers(0, 99), min_size=1, max_size=3).map(lambda it: _cached(*it)),
    st.lists(st.integers(0, 99), min_size=1, max_size=3).map(lambda it: _evicted(*it)),
    st.just(ANSWER),
)


def _changes(said: list[WorkerEvent]) -> list[object]:
    """Single changes in order, answers among them."""
    found: list[object] = []
    for event in said:
        if isinstance(event, BlocksCached):
            found += [("cached", *pair) for pair in zip(event.hashes, event.block_ids, strict=True)]
        elif isinstance(event, BlocksEvicted):
            found += [("evicted", name) for name in event.hashes]
        else:
            found.append(event)
    return found


@given(st.lists(st.lists(events, max_size=4), max_size=8))
def test_nothing_is_lost_doubled_or_moved(batches: list[list[WorkerEvent]]) -> None:
    holder = NewsHolder()
    said: list[WorkerEvent] = []
    for batch in [*batches, [ANSWER]]:
        said += holder.release(batch)
    assert _changes(said) == _changes([event for batch in [*batches, [ANSWER]] for event in batch])
