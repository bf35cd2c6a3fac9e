"""Workers die round after round, clients leave, and the head stays as small as it was. With toy engines,
which start fast; ``python -m benchmarks soak`` does the same with the real one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.served import Served, serve
from benchmarks.soak import Round, growth_of, soak
from benchmarks.volley import asks

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

HEAD = Path(__file__).resolve().parents[1] / "support" / "live_toy_head.py"
ROUNDS = 10
SETTLED_ROUND = 3
RSS_GROWTH_BYTES = 10 << 20
"""Reports of ended requests are kept up to a bound that these rounds do not reach: some KiB for each."""


@pytest.fixture(scope="module")
def served(model_dir: Path) -> Iterator[Served]:
    """Toy engines behind HTTP."""
    with serve(str(model_dir), command=(sys.executable, str(HEAD))) as served:
        yield served


async def test_nothing_grows_while_workers_die_and_clients_leave(served: Served) -> None:
    rounds = await soak(served, ROUNDS, asks(), print)
    growth = growth_of(rounds, SETTLED_ROUND)
    print(growth)
    assert growth.fds <= 0
    assert growth.threads <= 0
    assert growth.rss_bytes < RSS_GROWTH_BYTES
    assert sum(one.in_flight_at_kill > 0 for one in rounds) > ROUNDS / 2
    assert sum(one.left for one in rounds) > ROUNDS
    assert_workers_alike(rounds)


def assert_workers_alike(rounds: list[Round]) -> None:
    """A worker that has just started holds what its predecessors held."""
    settled = rounds[SETTLED_ROUND - 1 :]
    for name in settled[0].workers:
        held = [one.workers[name] for one in settled]
        assert max(one.rss_bytes for one in held) - min(one.rss_bytes for one in held) < RSS_GROWTH_BYTES
        assert len({(one.fds, one.threads) for one in held}) == 1
