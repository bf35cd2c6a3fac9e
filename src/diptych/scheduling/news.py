"""News of the prompt cache travel with the next answer.

Knows: which events only say what is cached. Does not know: who sends them, when.

Nobody waits for such news: a block that was cached while its sequence runs is wanted by a later turn, which
comes after the end; and the index may lag behind the truth anyway, since a lease names what is really there.
So a step that only fills blocks says nothing, and the head is spared a message for every block.
"""

from __future__ import annotations

from collections.abc import Sequence

from diptych.domain.events import BlocksCached, BlocksEvicted, WorkerEvent
from diptych.domain.ids import BlockHash, BlockId


class NewsHolder:
    """Keeps news until there is something else to say, and joins what follows each other."""

    def __init__(self) -> None:
        self._held: list[_Run] = []

    def release(self, events: Sequence[WorkerEvent]) -> Sequence[WorkerEvent]:
        """What to say now: nothing while there are only news, else everything held and ``events``, in
        order."""
        news = 0
        for event in events:
            if isinstance(event, BlocksCached):
                self._run(True).add(event.hashes, event.block_ids)
            elif isinstance(event, BlocksEvicted):
                self._run(False).add(event.hashes, ())
            else:
                break
            news += 1
        if news == len(events):
            return ()
        if not self._held:
            return events
        held, self._held = self._held, []
        return [*[run.event() for run in held], *events[news:]]

    def _run(self, cached: bool) -> _Run:
        """The last run if it is of this kind, else a new one."""
        if not self._held or self._held[-1].cached is not cached:
            self._held.append(_Run(cached))
        return self._held[-1]


class _Run:
    """Equal news, one after the other."""

    __slots__ = ("block_ids", "cached", "hashes")

    def __init__(self, cached: bool) -> None:
        self.cached = cached
        self.hashes: list[BlockHash] = []
        self.block_ids: list[BlockId] = []

    def add(self, hashes: Sequence[BlockHash], block_ids: Sequence[BlockId]) -> None:
        """Some more."""
        self.hashes.extend(hashes)
        self.block_ids.extend(block_ids)

    def event(self) -> WorkerEvent:
        """All of them as one event."""
        hashes = tuple(self.hashes)
        return BlocksCached(hashes, tuple(self.block_ids)) if self.cached else BlocksEvicted(hashes)
