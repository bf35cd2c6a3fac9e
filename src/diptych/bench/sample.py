"""One request as the client saw it, and what follows from its moments.

Knows: the definitions of TTFT, TPOT, ITL and e2e on the client's clock. Does not know: HTTP, other requests.

t0 is when the request was *due* (open loop: by the schedule; so a wait in the client or in front of the
server
is in the figures), t1 the first token-bearing chunk, tn the last one, te the end of the response, n the
output
tokens by the server's own count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import Any


class Outcome(StrEnum):
    """How a request ended."""

    COMPLETED = "completed"
    REJECTED = "rejected"
    """Shed: refused for load before the first byte."""
    FAILED = "failed"
    UNFINISHED = "unfinished"
    """Still running when the benchmark was interrupted."""


@dataclass(kw_only=True)
class Sample:
    """One request. Moments in seconds since the start of the run."""

    index: int
    session_id: str | None = None
    input_tokens: int
    """As asked for, after clamping."""
    output_tokens: int
    """As asked for, after clamping."""
    due_s: float
    """t0"""
    sent_s: float | None = None
    """When the client began to send it."""
    headers_s: float | None = None
    chunk_s: list[float] = field(default_factory=list)
    """When each token-bearing chunk came."""
    chunk_tokens: list[int] | None = None
    """Tokens in each of them; None if the server does not let that be known."""
    end_s: float | None = None
    """te"""
    outcome: Outcome = Outcome.UNFINISHED
    status: int | None = None
    error_code: str | None = None
    error_message: str | None = None
    retry_after_s: float | None = None
    finish_reason: str | None = None
    usage_prompt_tokens: int | None = None
    usage_output_tokens: int | None = None
    """n"""
    cached_tokens: int | None = None
    server: dict[str, Any] | None = None
    """The server's own timeline of it, where it offers one."""

    # ------------------------------------------------------------ metrics

    @property
    def lag_s(self) -> float | None:
        """How late the client sent it."""
        return None if self.sent_s is None else self.sent_s - self.due_s

    @property
    def ttft_s(self) -> float | None:
        """t1 - t0"""
        return self.chunk_s[0] - self.due_s if self.chunk_s else None

    @property
    def e2e_s(self) -> float | None:
        """tn - t0"""
        return self.chunk_s[-1] - self.due_s if self.chunk_s else None

    @property
    def tpot_s(self) -> float | None:
        """(tn - t1) / (n - 1), for n ≥ 2 tokens."""
        n = self.usage_output_tokens
        if n is None or n < 2 or not self.chunk_s:
            return None
        return (self.chunk_s[-1] - self.chunk_s[0]) / (n - 1)

    @property
    def gaps_s(self) -> list[float]:
        """Gaps between tokens: k tokens of one chunk have k gaps of its gap ÷ k. Tokens that share the first
        chunk have none. Without counts of tokens by chunk, a gap stands for (n - 1) ÷ (chunks - 1) tokens."""
        spans = [later - sooner for sooner, later in pairwise(self.chunk_s)]
        if self.chunk_tokens is not None:
            counted = zip(spans, self.chunk_tokens[1:], strict=True)
            return [span / tokens for span, tokens in counted for _ in range(tokens)]
        n = self.usage_output_tokens
        if n is None or not spans or n - 1 <= len(spans):
            return spans
        return [span * len(spans) / (n - 1) for span in spans]

    @property
    def gaps_estimated(self) -> bool:
        """Whether some chunk holds more tokens than one, and nobody knows which."""
        n = self.usage_output_tokens
        return self.chunk_tokens is None and n is not None and n > len(self.chunk_s) > 0

    def tokens_where(self, counts: Callable[[float], bool]) -> float:
        """Output tokens whose moments count."""
        n = self.usage_output_tokens
        if n is None or not self.chunk_s:
            return 0
        tokens = self.chunk_tokens or [n / len(self.chunk_s)] * len(self.chunk_s)
        return sum(count for at_s, count in zip(self.chunk_s, tokens, strict=True) if counts(at_s))

    def meets(self, ttft_s: float | None, tpot_s: float | None) -> bool:
        """Whether it completed within all targets. One token has no TPOT to miss; an unknown one is
        missed."""
        if self.outcome is not Outcome.COMPLETED:
            return False
        if ttft_s is not None and (self.ttft_s is None or self.ttft_s > ttft_s):
            return False
        if tpot_s is None or self.usage_output_tokens == 1:
            return True
        return self.tpot_s is not None and self.tpot_s <= tpot_s

    # ------------------------------------------------------------ records

    def as_data(self) -> dict[str, Any]:
        """One line of ``requests.jsonl``."""
        plain = {
            name: round(value, 6) if isinstance(value, float) else value
            for name, value in self._metrics().items()
        }
        chunks = [round(at_s - self.due_s, 6) for at_s in self.chunk_s]
        return {**plain, "chunk_s": chunks, "chunk_tokens": self.chunk_tokens, "server": self.server}

    def _metrics(self) -> dict[str, Any]:
        return {
            "index": self.index,
            "session_id": self.session_id,
            "outcome": self.outcome.value,
            "error_code": self.error_code,
            "error_message": self.error_message,
            "status": self.status,
            "retry_after_s": self.retry_after_s,
            "finish_reason": self.finish_reason,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "usage_prompt_tokens": self.usage_prompt_tokens,
            "usage_output_tokens": self.usage_output_tokens,
            "cached_tokens": self.cached_tokens,
            "due_s": self.due_s,
            "schedule_lag_s": self.lag_s,
            "headers_s": None if self.headers_s is None else self.headers_s - self.due_s,
            "ttft_s": self.ttft_s,
            "tpot_s": self.tpot_s,
            "e2e_s": self.e2e_s,
            "response_s": None if self.end_s is None else self.end_s - self.due_s,
        }
