"""Requests made of token ids, and what came back when.

Knows: the cluster's front end. Does not know: text, HTTP, what a benchmark wants to show.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from diptych.domain.ids import RequestId
from diptych.domain.kv import extend_hashes, hash_root
from diptych.domain.report import RequestReport
from diptych.domain.request import Request, SamplingParams, TokenOut
from diptych.runtime.streams import Frontend


@dataclass
class Run:
    """One request: when it was sent, when each token came (seconds, the cluster's clock), its report."""

    sent_s: float
    token_s: list[float] = field(default_factory=list)
    report: RequestReport | None = None

    @property
    def ttft_s(self) -> float:
        """First token out minus request in."""
        return self.token_s[0] - self.sent_s

    @property
    def gaps_s(self) -> list[float]:
        """Every gap between two tokens (ITL)."""
        return [later - sooner for sooner, later in zip(self.token_s, self.token_s[1:], strict=False)]


def random_request(
    name: str, *, prompt_tokens: int, output_tokens: int, vocabulary: int, block_tokens: int, seed: int
) -> Request:
    """A greedy request of exactly these lengths over random token ids; equal arguments give an equal one."""
    chooser = random.Random(f"{name}/{seed}")
    token_ids = tuple(chooser.randrange(vocabulary) for _ in range(prompt_tokens))
    root = hash_root("benchmark", name)
    return Request(
        request_id=RequestId(name),
        prompt_token_ids=token_ids,
        cache_root=root,
        block_hashes=extend_hashes(root, token_ids, block_tokens),
        sampling=SamplingParams(max_tokens=output_tokens, seed=seed, temperature=0.0),
    )


async def run(frontend: Frontend, request: Request, into: Run | None = None) -> Run:
    """Send one request and wait for its end. ``into`` can be watched while the request runs."""
    result = into or Run(sent_s=0.0)
    result.sent_s = frontend.now_s()
    stream = frontend.submit(request, result.sent_s)
    while result.report is None:
        for item in await stream.next_batch():
            match item:
                case TokenOut():
                    result.token_s.append(frontend.now_s())
                case RequestReport():
                    result.report = item
                case _:
                    pass
    return result
