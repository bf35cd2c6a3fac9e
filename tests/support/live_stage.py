"""One prefill and one decode worker with requests in a phase that is certain, because whoever could end it
stands still.

Knows: how to bring more than 32 requests into each phase by stopping workers (SIGSTOP), and what must hold
afterwards. Does not know: what is done to them in that phase.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count

import httpx
from benchmarks.served import Served
from benchmarks.volley import IN_FLIGHT, Answer, Ask, Caller, Volley, asks, http_of
from benchmarks.watch import Watch, until

P, D = "prefill-0", "decode-0"
CHUNK_TOKENS = 48
LONG_PROMPT_TOKENS = 500
"""Many chunks, so that one can be caught between two of them."""
BACKLOG_TOKENS = 600
"""A prefill worker with more than this gets nothing further: with it stopped, the rest stays queued."""
ATTEMPTS = 20

SETTINGS = (
    *("--chunk-tokens", str(CHUNK_TOKENS), "--kv-memory", "64MiB", "--max-model-tokens", "1024"),
    *("--threads", "1", "--served-model-name", "diptych-tales"),
    *("--set", f"limits.prefill_backlog_tokens={BACKLOG_TOKENS}"),
    *("--set", "limits.heartbeat_interval_s=0.1", "--set", "limits.max_losses=100"),
    *("--set", "limits.restart_backoff_s=0.05", "--set", "limits.restart_backoff_max_s=0.2"),
)

_salts = (f"volley {number}" for number in count())


def long_ask() -> Ask:
    """The one that is caught in the middle of its prompt."""
    ids = tuple(300 + (number * 37) % 1500 for number in range(LONG_PROMPT_TOKENS))
    return Ask(
        number=1000, prompt_token_ids=ids, max_tokens=20, stream=True, fresh=True, frequency_penalty=0.8
    )


ASKS = (long_ask(), *asks(40))
"""Some are so short that they may have ended before a fault."""


@dataclass
class Stage:
    """A server, a client of it, and what each request must answer."""

    served: Served
    http: httpx.AsyncClient
    watch: Watch
    expected: dict[int, Answer]
    discarded: int = 0
    """Requests of volleys that had gone too far when they were stopped; they end undisturbed."""

    # ------------------------------------------------------------ workers

    async def freeze(self, worker: str) -> None:
        """Stop a worker where it is; all that it had said by then is known to the head afterwards."""
        self.served.signal(worker, signal.SIGSTOP)

        async def stands_still() -> bool:
            return self.served.stopped(worker)

        await until(stands_still, f"{worker} stopped")
        before = None
        while before != (before := await self.watch.worker(worker)):
            pass

    def thaw(self, *workers: str) -> None:
        """Let workers go on."""
        for worker in workers:
            self.served.signal(worker, signal.SIGCONT)

    def kill(self, worker: str) -> None:
        """kill -9"""
        self.served.signal(worker, signal.SIGKILL)

    # ------------------------------------------------------------ phases

    def send(self, wanted: Sequence[Ask] = ASKS) -> Volley:
        """A volley that nobody disturbs yet."""
        return Volley.send(self.http, wanted, next(_salts))

    async def queued(self) -> Volley:
        """Nobody has begun, most wait in the head. Prefill stands still."""
        await self.freeze(P)
        volley = self.send()
        await self._all_arrived(volley)
        assert (await self.watch.load()).waiting_requests > 0
        return volley

    async def prefilling(self) -> Volley:
        """One is between two chunks of its prompt, the others wait behind it. Prefill stands still."""
        for _ in range(ATTEMPTS):
            before = (await self.watch.worker(P)).stats.prefill_tokens_total
            volley = self.send(ASKS[:1])

            async def begun(before: int = before) -> bool:
                return (await self.watch.worker(P)).stats.prefill_tokens_total > before

            await until(begun, "the first chunk")
            await self.freeze(P)
            if (await self.watch.worker(P)).stats.prefill_tokens_total < before + LONG_PROMPT_TOKENS:
                volley.callers += self.send(ASKS[1:]).callers
                await self._all_arrived(volley)
                return volley
            await self._discard(volley, P)
        raise AssertionError("prefill was never caught between two chunks")

    async def handing_off(self) -> Volley:
        """Some have their first token from prefill, and decode has not begun any. Decode stands still."""
        await self.freeze(P)
        volley = self.send()
        await self._all_arrived(volley)
        await self.freeze(D)  # with places reserved: prefill can begin
        self.thaw(P)
        await self._until(lambda: bool(handed(volley)), "first tokens")
        return volley

    async def decoding(self, frozen: str) -> Volley:
        """Several have had tokens from decode and are not at their end. ``frozen`` stands still."""
        for _ in range(ATTEMPTS):
            volley = self.send()
            await self._until(lambda volley=volley: len(decoding(volley)) >= 6 or done(volley), "decoding")
            await self.freeze(frozen)
            if decoding(volley) and in_flight(volley) >= IN_FLIGHT:
                return volley
            await self._discard(volley, frozen)
        raise AssertionError("decode was never caught at work")

    async def at_work(self, victim: str) -> Volley:
        """The victim has begun on a volley and is stopped, without any certainty about phases: who watches
        for hangs does not leave the time for more."""
        for _ in range(ATTEMPTS):
            before = (await self.watch.worker(victim)).stats.steps
            volley = self.send()

            async def begun(before: int = before) -> bool:
                return (await self.watch.worker(victim)).stats.steps > before + 2

            await until(begun, f"{victim} at work")
            self.served.signal(victim, signal.SIGSTOP)
            if in_flight(volley) >= IN_FLIGHT:
                return volley
            await self._discard(volley, victim)
        raise AssertionError(f"{victim} was never caught at work")

    async def _discard(self, volley: Volley, frozen: str) -> None:
        self.thaw(frozen)
        await volley.end()
        self.discarded += len(volley.callers)

    async def _all_arrived(self, volley: Volley) -> None:
        """The server has them all; those whose place is being reserved are in neither count, for a moment."""

        async def arrived() -> bool:
            seen = await self.watch.load()
            return seen.waiting_requests + seen.running_requests == len(volley.callers)

        await until(arrived, "all requests have arrived")

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        async def holds() -> bool:
            return condition()

        await until(holds, what)

    # ------------------------------------------------------------ afterwards

    async def aborted(self, total: int) -> None:
        """Wait until so many requests have ended because their client had gone."""

        async def noticed() -> bool:
            return (await self.watch.outcomes()).get("aborted", 0) == total

        await until(noticed, f"{total} aborted requests")

    async def assert_whole(self, volley: Volley, outcomes_before: dict[str, int]) -> None:
        """Each ended once, all who stayed with the answer of the undisturbed run; nothing is held; a fresh
        volley is answered alike."""
        await volley.end()
        volley.check(self.expected)
        await self.watch.settled()
        left = len(volley.callers) - len(volley.staying)
        now = await self.watch.outcomes()
        ended = {name: now[name] - outcomes_before.get(name, 0) for name in now}
        ended = {name: number for name, number in ended.items() if number}
        wanted = {"length": len(volley.staying) + self.discarded, "aborted": left}
        assert ended == {name: number for name, number in wanted.items() if number}
        fresh = self.send(ASKS[:6])
        await fresh.end()
        fresh.check(self.expected)
        await self.watch.settled()


def handed(volley: Volley) -> list[Caller]:
    """Streams that have begun and must go on elsewhere than where they began."""
    return [caller for caller in _open(volley) if caller.chunks >= 1 and caller.ask.max_tokens > 1]


def decoding(volley: Volley) -> list[Caller]:
    """Streams in the middle of their output."""
    return [caller for caller in _open(volley) if 3 <= caller.chunks <= caller.ask.max_tokens - 8]


def in_flight(volley: Volley) -> int:
    """How many have not ended."""
    return len(_open(volley))


def whole(volley: Volley) -> list[Caller]:
    """Those who wait for a whole answer."""
    return [caller for caller in _open(volley) if not caller.stream]


def done(volley: Volley) -> bool:
    """Whether all have ended."""
    return not _open(volley)


def _open(volley: Volley) -> list[Caller]:
    return [caller for caller in volley.callers if not caller.ended]


async def undisturbed(url: str) -> dict[int, Answer]:
    """The answers without any fault, all whole (not streamed), so that streams are compared with something
    that was not put together from deltas."""
    async with http_of(url) as http:
        volley = Volley.send(http, ASKS, next(_salts), stream=False)
        await volley.end()
        return volley.answers()


@asynccontextmanager
async def stage_of(served: Served, expected: dict[int, Answer]) -> AsyncIterator[Stage]:
    """A stage with a client of its own. A test that fails shows the end of the server's log, and leaves
    nobody standing still."""
    async with http_of(served.url) as http:
        stage = Stage(served, http, Watch(http), expected)
        try:
            yield stage
        except BaseException:
            print(served.log_tail())
            stage.thaw(*served.workers())
            raise
