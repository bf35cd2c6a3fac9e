"""News of the prompt cache travel with the next answer.

Knows: which events only say what is cached. Does not know: who sends them, when.

Nobody waits for such news: a block that was cached while its sequence runs is wanted by a later turn, which
comes after
the end; and the index may lag behind the truth anyway, since a lease names what is really there. So a step
that only
fills blocks says nothing, and the head is spared a message for every block.
"""

from __future__ import annotations

from collections.abc import Sequence

from diptych.domain.events import BlocksCached, BlocksEvicted, WorkerEvent


class NewsHolder:
    """Keeps news until there is something else to say."""

    def __init__(self) -> None:
        self._held: list[WorkerEvent] = []

    def release(self, events: Sequence[WorkerEvent]) -> Sequence[WorkerEvent]:
        """What to say now: nothing while there are only news, else everything held and ``events``, in
        order."""
        if all(isinstance(event, BlocksCached | BlocksEvicted) for event in events):
            self._held.extend(events)
            return ()
        if not self._held:
            return events
        held, self._held = self._held, []
        return [*held, *events]
