"""Does anything grow when workers die again and again?

Each round: 32 or more requests in flight, one worker killed (kill -9, prefill and decode in turn), some
clients gone.
All who stayed must get the answer of an undisturbed run, everything must come to rest, and then the processes
are looked at: resident memory, file descriptors and threads of the head and of the workers of that round.
Knows: rounds, figures. Does not know: phases (the tests make those certain; here chance picks them).
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.provenance import save
from benchmarks.served import Resources, Served, serve
from benchmarks.volley import Answer, Ask, Caller, Volley, Wrong, asks, http_of
from benchmarks.watch import Watch, until
from diptych.builtin import BUILTIN_MODEL_NAME, builtin_model_dir

ROUNDS = 20
FILLING_VOLLEYS = 34
"""Undisturbed ones before the rounds: the head keeps the reports of the last 1,024 requests, and what fills
up to a bound is not to be mistaken for what grows."""
SETTLED_ROUND = 5
"""Growth is counted from here: until then caches and pools of memory fill."""
VICTIMS = ("prefill-0", "decode-0")
LEAVERS_EVERY = 6
REQUESTS_EACH = 44
"""So many that 32 are still in flight at the kill, though some clients leave and short answers end."""
SETTINGS = (
    *("--chunk-tokens", "48", "--kv-memory", "64MiB", "--max-model-tokens", "1024", "--threads", "1"),
    *("--served-model-name", BUILTIN_MODEL_NAME),
    *("--set", "limits.heartbeat_interval_s=0.1", "--set", "limits.heartbeat_timeout_s=120"),
    *("--set", "limits.restart_backoff_s=0.05", "--set", "limits.restart_backoff_max_s=0.2"),
)


@dataclass(frozen=True)
class Round:
    """One round, looked at when everything had come to rest."""

    victim: str
    in_flight_at_kill: int
    left: int
    head: Resources
    workers: dict[str, Resources]


@dataclass(frozen=True)
class Growth:
    """Of the head, from one round to a later one."""

    rss_bytes: int
    rss_ratio: float
    fds: int
    threads: int


async def main(console: Console) -> None:
    """Soak the built-in model on one prefill and one decode worker, print a table, write the result file."""
    with tempfile.TemporaryDirectory() as folder:  # every incarnation loads the same weights
        model_dir = shutil.copytree(builtin_model_dir(), Path(folder) / "tales")
        with serve(str(model_dir), *SETTINGS) as served:
            rounds = await soak(served, ROUNDS, asks(REQUESTS_EACH), console.print, FILLING_VOLLEYS)
    growth = growth_of(rounds, SETTLED_ROUND)
    console.print(_table(rounds))
    console.print(f"head from round {SETTLED_ROUND} to {ROUNDS}: {growth}")
    console.print(f"written to {save('soak', _result(rounds, growth))}")


async def soak(
    served: Served, rounds: int, wanted: Sequence[Ask], say: Callable[[str], None], filling_volleys: int = 1
) -> list[Round]:
    """Run the rounds, after ``filling_volleys`` (at least one) without faults.

    Raises:
        Wrong: an answer differs from that of the undisturbed run.
        Never: something does not come to rest.
    """
    expected = await _undisturbed(served, wanted, "undisturbed 0")
    for number in range(1, filling_volleys):
        if await _undisturbed(served, wanted, f"undisturbed {number}") != expected:
            raise Wrong("undisturbed runs differ")
    done: list[Round] = []
    for number in range(rounds):
        done.append(await _round(served, wanted, expected, number))
        say(f"round {number + 1}/{rounds}: {done[-1].victim} killed, head {_mib(done[-1].head)} MiB")
    return done


def growth_of(rounds: Sequence[Round], since: int) -> Growth:
    """What the head holds after the last round, less what it held after round ``since`` (counted from 1)."""
    first, last = rounds[since - 1].head, rounds[-1].head
    rss_bytes = last.rss_bytes - first.rss_bytes
    return Growth(rss_bytes, rss_bytes / first.rss_bytes, last.fds - first.fds, last.threads - first.threads)


async def _undisturbed(served: Served, wanted: Sequence[Ask], salt: str) -> dict[int, Answer]:
    async with http_of(served.url) as http:
        volley = Volley.send(http, wanted, salt)
        await volley.end()
        return volley.answers()


async def _round(served: Served, wanted: Sequence[Ask], expected: dict[int, Answer], number: int) -> Round:
    victim = VICTIMS[number % len(VICTIMS)]
    async with http_of(served.url) as http:
        watch = Watch(http)
        volley = Volley.send(http, wanted, f"round {number}")
        leaving = [
            asyncio.create_task(_leave(caller)) for caller in volley.callers[number % 2 :: LEAVERS_EVERY]
        ]
        await until(lambda: _under_way(volley), "under way")
        served.signal(victim, signal.SIGKILL)
        in_flight = sum(not caller.ended for caller in volley.callers)
        await asyncio.gather(*leaving)
        await volley.end()
        volley.check(expected)
        await watch.settled()
    return Round(
        victim=victim,
        in_flight_at_kill=in_flight,
        left=sum(caller.left for caller in volley.callers),
        head=await served.head_at_rest(),
        workers={name: served.resources_of(name) for name in served.workers()},
    )


async def _leave(caller: Caller) -> None:
    """Go after none, one, two or three chunks; who waits for a whole answer goes at once."""
    after = caller.ask.number % 4 if caller.stream else 0

    async def time_to_go() -> bool:
        return caller.ended or caller.chunks >= after

    await until(time_to_go, "time to go")
    if not caller.ended:
        caller.hang_up()


async def _under_way(volley: Volley) -> bool:
    """Some decode; or all is over, on a machine that was too fast."""
    staying = volley.staying
    return sum(caller.chunks >= 2 for caller in staying) >= 4 or all(caller.ended for caller in staying)


def _result(rounds: Sequence[Round], growth: Growth) -> dict[str, Any]:
    return {
        "requests_each": REQUESTS_EACH,
        "filling_volleys": FILLING_VOLLEYS,
        "counted_from_round": SETTLED_ROUND,
        "growth_of_head": asdict(growth),
        "rounds": [asdict(one) for one in rounds],
    }


def _table(rounds: Sequence[Round]) -> Table:
    names = sorted({name for one in rounds for name in one.workers})
    table = Table(
        "round", "killed", "in flight", "left", "head MiB", "fds", "threads", *(f"{n} MiB" for n in names)
    )
    for number, one in enumerate(rounds, 1):
        table.add_row(
            *(str(number), one.victim, str(one.in_flight_at_kill), str(one.left)),
            *(_mib(one.head), str(one.head.fds), str(one.head.threads)),
            *(_mib(one.workers[name]) for name in names),
        )
    return table


def _mib(held: Resources) -> str:
    return f"{held.rss_bytes / 2**20:.1f}"
