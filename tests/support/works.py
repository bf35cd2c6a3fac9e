"""Short ways to say what a test wants. Knows the domain's words only."""

from __future__ import annotations

from collections.abc import Sequence

from diptych.domain.ids import RequestId, TokenId
from diptych.domain.kv import extend_hashes, hash_root
from diptych.domain.request import SamplingParams, Work

ROOT = hash_root("toy", "")


def make_work(
    request_id: str,
    prompt: Sequence[TokenId],
    sampling: SamplingParams,
    *,
    block_tokens: int,
    output: Sequence[TokenId] = (),
    attempt: int = 1,
    priority: int = 0,
    arrival_s: float = 0.0,
) -> Work:
    """A work order as the orchestrator writes it: with hashes of the prompt, without those of the output."""
    return Work(
        request_id=RequestId(request_id),
        attempt=attempt,
        token_ids=(*prompt, *output),
        prompt_tokens=len(prompt),
        sampling=sampling,
        cache_root=ROOT,
        block_hashes=extend_hashes(ROOT, prompt, block_tokens),
        priority=priority,
        arrival_s=arrival_s,
    )
