"""Frames and the greeting: every message survives the wire, everything else is a typed error."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.adapters.toy import ToyEngine, toy_layout
from diptych.domain.commands import DropWork, LeaseBlocks, StartPrefill
from diptych.domain.events import BlocksCached, Heartbeat, Leased, StepReport
from diptych.domain.ids import BlockHash, LeaseId, RequestId, WorkerId
from diptych.domain.request import FinishReason, SamplingParams, TokenOut, Work
from diptych.domain.worker import Arena, WorkerStats
from diptych.runtime.wire import (
    MAX_FRAME_BYTES,
    MAX_GREETING_BYTES,
    WIRE_VERSION,
    Begin,
    FromHead,
    FromWorker,
    Hello,
    MalformedFrame,
    NotExpected,
    OversizedFrame,
    Ready,
    Refused,
    StartupFailed,
    VersionMismatch,
    Welcome,
    check_hello,
    encode_frame,
    head_reader,
    worker_reader,
)
from diptych.runtime.worker_main import scheduler_config

HASH = BlockHash(bytes(range(16)))
RID, WID, LEASE = RequestId("r"), WorkerId("w"), LeaseId("l")
HELLO = Hello(version=WIRE_VERSION, worker_id=WID, incarnation=3, secret="s", pid=1)

SAMPLING = SamplingParams(max_tokens=3, seed=1, logit_bias=((1, 0.5),), stop_token_ids=(2,))
WORK = Work(
    request_id=RID,
    attempt=1,
    token_ids=(1, 2, 3),
    prompt_tokens=2,
    sampling=SAMPLING,
    cache_root=HASH,
    block_hashes=(HASH,),
)
TOKEN = TokenOut(request_id=RID, attempt=1, index=0, token_id=7, finish_reason=FinishReason.STOP)

FROM_WORKER: list[FromWorker] = [
    HELLO,
    Ready(toy_layout(4), {"engine": "toy"}),
    StartupFailed("invalid_spec", "no"),
    Heartbeat(WID, 3, WorkerStats(steps=4)),
    StepReport(t_s=1.5, events=(Leased(LEASE, (1, 2)), BlocksCached((HASH,), (5,))), tokens=(TOKEN,)),
]
FROM_HEAD: list[FromHead] = [
    Welcome(
        engine=ToyEngine(),
        layout=toy_layout(4),
        domain_blocks=8,
        arena=Arena(start=4, blocks=4),
        prompt_cache=True,
        token_budget=16,
        max_running=4,
        chunked_prefill=False,
        cores=(0,),
        threads=1,
        seed=0,
        heartbeat_interval_s=0.5,
    ),
    Refused("wire_not_expected", "no"),
    Begin({LEASE: (1, 2)}),
    StartPrefill(WORK, borrowed={0: 9}, export_lease=LEASE),
    LeaseBlocks(LEASE, (HASH,)),
    DropWork(RID, 1),
]


@given(st.lists(st.integers(1, 40), max_size=60))
def test_messages_arrive_whole_and_in_order_however_the_stream_is_cut(cuts: list[int]) -> None:
    stream = b"".join(encode_frame(message) for message in FROM_WORKER)
    reader, heard = head_reader(), []
    for size in [*cuts, len(stream)]:
        heard += reader.feed(stream[:size])
        stream = stream[size:]
    assert heard == FROM_WORKER


def test_commands_survive_the_wire() -> None:
    stream = b"".join(encode_frame(message) for message in FROM_HEAD)
    assert list(worker_reader().feed(stream)) == FROM_HEAD


def test_a_length_beyond_the_limit_is_refused_before_its_bytes_come() -> None:
    with pytest.raises(OversizedFrame):
        list(head_reader().feed((MAX_GREETING_BYTES + 1).to_bytes(4, "little")))
    with pytest.raises(OversizedFrame):
        list(worker_reader().feed((MAX_FRAME_BYTES + 1).to_bytes(4, "little")))


def test_nobody_sends_what_the_other_side_must_refuse() -> None:
    with pytest.raises(OversizedFrame):
        encode_frame(StartupFailed("code", "x" * (MAX_FRAME_BYTES + 1)))


@given(st.binary(min_size=1, max_size=200))
def test_garbage_is_a_typed_error(body: bytes) -> None:
    reader = head_reader()
    with pytest.raises(MalformedFrame):
        list(reader.feed(len(body).to_bytes(4, "little") + body))


def test_a_message_of_the_other_direction_is_garbage() -> None:
    with pytest.raises(MalformedFrame):
        list(head_reader().feed(encode_frame(DropWork(RID, 1))))


def test_the_expected_worker_is_let_in() -> None:
    check_hello(HELLO, WID, 3, "s")


@pytest.mark.parametrize(
    ("hello", "error"),
    [
        (Hello(version=WIRE_VERSION + 1, worker_id=WID, incarnation=3, secret="s", pid=1), VersionMismatch),
        (Hello(version=WIRE_VERSION, worker_id=WID, incarnation=2, secret="s", pid=1), NotExpected),
        (Hello(version=WIRE_VERSION, worker_id=WorkerId("x"), incarnation=3, secret="s", pid=1), NotExpected),
        (Hello(version=WIRE_VERSION, worker_id=WID, incarnation=3, secret="S", pid=1), NotExpected),
        (Hello(version=WIRE_VERSION, worker_id=WID, incarnation=3, secret="ß", pid=1), NotExpected),
    ],
)
def test_anybody_else_is_not(hello: Hello, error: type[Exception]) -> None:
    with pytest.raises(error):
        check_hello(hello, WID, 3, "s")


def test_a_worker_cuts_prompts_or_not_as_its_pool_says() -> None:
    welcome = FROM_HEAD[0]
    assert isinstance(welcome, Welcome)
    assert not scheduler_config(welcome).chunked_prefill
    assert scheduler_config(msgspec.structs.replace(welcome, chunked_prefill=True)).chunked_prefill
