"""What a client asks for, as the cluster sees it: token ids and sampling parameters.

Knows: requests, work orders, sampled tokens. Does not know: text, HTTP, workers, and never the true
output length of a request (only its limit).
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from diptych.domain.ids import BlockHash, RequestId, TokenId, Tokens


class Phase(StrEnum):
    """What a request is in."""

    PREFILL = "prefill"
    DECODE = "decode"


class FinishReason(StrEnum):
    """Why generation ended, in the words of the API."""

    STOP = "stop"
    LENGTH = "length"


class SamplingParams(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """How to choose tokens. The server validates and fills every field, so no default hides a policy.

    ``seed`` is always set (drawn at arrival if the client gave none): the token at output position *i*
    depends on the logits, the seed and *i* alone, so a resumed or handed-off request draws the same.
    """

    max_tokens: int
    seed: int
    temperature: float = 1.0
    """0 is greedy."""
    top_k: int = 0
    """0 is off."""
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[TokenId, float], ...] = ()
    min_tokens: int = 0
    """Until this many output tokens exist, no stop token can be sampled."""
    stop_token_ids: tuple[TokenId, ...] = ()
    """Tokens that end the output (the model's EOS ids included, unless the client ignores EOS)."""
    logprobs: int | None = None
    """None: not wanted. k: the log-probability of each token and of the k likeliest."""
    prompt_logprobs: int | None = None
    """The same for the prompt's own tokens; such a request reads no prompt cache."""


class Request(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One sequence to generate. A call with ``n`` choices arrives as ``n`` requests."""

    request_id: RequestId
    prompt_token_ids: Tokens
    cache_root: BlockHash
    """`hash_root(model, salt)`: the parent of the first block's hash."""
    block_hashes: tuple[BlockHash, ...]
    """Hashes of the prompt's full blocks, computed once at arrival."""
    sampling: SamplingParams
    priority: int = 0
    """Lower runs sooner."""


class Work(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What a worker needs to run a request from any token on; also after a loss."""

    request_id: RequestId
    attempt: int
    """Rises with every placement of the request; a report of an older attempt is stale."""
    token_ids: Tokens
    """Prompt, then the output tokens that exist already."""
    prompt_tokens: int
    """How many of ``token_ids`` are the prompt."""
    sampling: SamplingParams
    cache_root: BlockHash
    block_hashes: tuple[BlockHash, ...]
    """Hashes of full blocks of ``token_ids``, at least the prompt's."""
    priority: int = 0
    arrival_s: float = 0.0

    @property
    def output_tokens(self) -> int:
        """How many output tokens exist already."""
        return len(self.token_ids) - self.prompt_tokens


class Logprob(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Log-probability of one token and of the likeliest ones at its position (natural logarithm)."""

    token_id: TokenId
    logprob: float
    top: tuple[tuple[TokenId, float], ...] = ()


class Sampled(msgspec.Struct, frozen=True, gc=False):
    """What the engine chose for one sequence in one step."""

    token_id: TokenId
    logprob: Logprob | None = None


class TokenOut(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One output token on its way to the client. ``index`` counts the output tokens of the request from 0."""

    request_id: RequestId
    attempt: int
    index: int
    token_id: TokenId
    logprob: Logprob | None = None
    finish_reason: FinishReason | None = None
    stop_token_id: TokenId | None = None
    """The stop token that ended the output, if one did."""


class PromptLogprobs(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Log-probabilities of the prompt positions from ``start`` on (position 0 has none)."""

    request_id: RequestId
    attempt: int
    start: int
    entries: tuple[Logprob, ...]
