"""What the engine remembers of a sequence between steps: its tokens and how to sample.

Knows: history. Does not know: blocks, tensors.
"""

from __future__ import annotations

from collections.abc import Iterable

from diptych.domain.errors import Bug
from diptych.domain.ids import RequestId, TokenId
from diptych.domain.request import SamplingParams
from diptych.domain.step import NewSequence, Slice


class SequenceState:
    """One sequence on this worker."""

    def __init__(self, new: NewSequence) -> None:
        self.request_id = new.request_id
        self.sampling: SamplingParams = new.sampling
        self.prompt_tokens = new.prompt_tokens
        self.token_ids: list[TokenId] = [*new.token_ids, *new.more_token_ids]
        """Prompt and output, as far as the scheduler has told."""

    def note(self, piece: Slice) -> None:
        """Learn the tokens of a slice that lie beyond what is known (those sampled here since)."""
        known = len(self.token_ids)
        if piece.start > known:
            raise Bug(f"{piece.request_id}: slice starts at {piece.start}, only {known} tokens are known")
        self.token_ids.extend(piece.token_ids[known - piece.start :])


class Sequences:
    """All sequences that the scheduler has announced and not ended."""

    def __init__(self) -> None:
        self._states: dict[RequestId, SequenceState] = {}

    def __len__(self) -> int:
        return len(self._states)

    def update(self, ended: Iterable[RequestId], new: Iterable[NewSequence]) -> None:
        """Forget, then learn: a bounced request may come back in the step that ends its former life."""
        for request_id in ended:
            self._states.pop(request_id, None)
        for sequence in new:
            self._states[sequence.request_id] = SequenceState(sequence)

    def of(self, piece: Slice) -> SequenceState:
        """The state of a slice's sequence, brought up to the slice."""
        state = self._states.get(piece.request_id)
        if state is None:
            raise Bug(f"{piece.request_id}: a slice of a sequence that was never announced")
        state.note(piece)
        return state
