"""A recorded live run, losses included, played to a fresh core: every command comes again."""

from __future__ import annotations

import signal

import msgspec
import pytest

from diptych.adapters.toy import ToyEngine
from diptych.domain.commands import Command
from diptych.domain.events import Event, WorkerLostEvent
from diptych.orchestration.core import Orchestrator
from diptych.performance.estimate import ObservedCost
from diptych.runtime.cluster import Cluster
from support.toy_cluster import (
    VOCAB,
    assert_all_answered,
    assert_settled,
    many_requests,
    send_all,
    send_signal,
    toy_spec,
    until,
)


class Entry(msgspec.Struct, array_like=True):
    """One line of the record."""

    now_s: float
    event: Event
    commands: list[Command]


@pytest.mark.live
async def test_a_recorded_run_gives_every_command_again() -> None:
    record: list[bytes] = []
    encode = msgspec.msgpack.Encoder().encode
    engine = ToyEngine(vocab_size=VOCAB, decode_s_per_step=0.005)
    cluster = Cluster(toy_spec(), engine=engine, journal=lambda *entry: record.append(encode(Entry(*entry))))
    async with cluster:
        clients = send_all(cluster, many_requests(16, max_tokens=12))
        await until(lambda: all(len(client.tokens) >= 3 for client in clients), "all decode")
        send_signal(cluster, "decode-0", signal.SIGKILL)
        await assert_all_answered(clients)
        await assert_settled(cluster)

    decode = msgspec.msgpack.Decoder(Entry).decode
    spec = cluster.spec
    core = Orchestrator(spec.limits, ObservedCost(), max_model_tokens=cluster.max_model_tokens, slo=spec.slo)
    entries = [decode(line) for line in record]
    for entry in entries:
        assert core.handle(entry.event, entry.now_s) == entry.commands
    assert any(isinstance(entry.event, WorkerLostEvent) for entry in entries)
