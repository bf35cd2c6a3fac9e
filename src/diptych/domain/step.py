"""One forward pass of one worker: the object that passes from scheduler to engine and back.

Knows: which tokens of which request run, in which blocks. Does not know: tensors, policies, time.
"""

from __future__ import annotations

import msgspec

from diptych.domain.ids import BlockId, RequestId, TokenId, Tokens
from diptych.domain.request import Logprob, Sampled, SamplingParams


class NewSequence(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Told to the engine once, with the first slice of a sequence on this worker (penalties need history).

    Its tokens are ``token_ids``, then ``more_token_ids``: two parts, because to join them costs time that
    grows with the prompt, just where a handoff waits for it.
    """

    request_id: RequestId
    token_ids: Tokens
    more_token_ids: tuple[TokenId, ...] = ()
    prompt_tokens: int
    sampling: SamplingParams


class Slice(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The share of one request in one step: positions ``[start, start + len(token_ids))``.

    KV of positions before ``start`` is in ``block_table`` already; the step writes the rest of the slice
    into it. Position *p* lives in block ``block_table[p // block_tokens]``, slot ``p % block_tokens``.
    """

    request_id: RequestId
    token_ids: Tokens
    start: int
    block_table: tuple[BlockId, ...]
    sample: bool
    """Whether a token is sampled after the last position of the slice."""


class StepPlan(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One step. The engine performs ``copies``, forgets ``ended``, learns ``new``, then runs ``slices``."""

    step: int
    slices: tuple[Slice, ...]
    new: tuple[NewSequence, ...] = ()
    ended: tuple[RequestId, ...] = ()
    copies: tuple[tuple[BlockId, BlockId], ...] = ()
    """(source, target) blocks, copied whole over all layers before the forward pass."""

    @property
    def tokens(self) -> int:
        """Tokens that run in this step."""
        return sum(len(piece.token_ids) for piece in self.slices)


class StepResult(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What came out: one `Sampled` for each slice that samples."""

    sampled: dict[RequestId, Sampled]
    prompt_logprobs: dict[RequestId, tuple[Logprob, ...]] = {}
    """For each slice of a sequence that asked: the entries of positions ``[start + 1, start + len + 1)``,
    cut at the prompt's end."""
    copied_bytes: int = 0
    copy_s: float = 0.0
    forward_s: float = 0.0
