"""Small parts of the command line, each by itself."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import signal
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import msgspec
import pytest
from rich.console import Console

from diptych.builtin import BUILTIN_MODEL_NAME
from diptych.cli.asking import Answered
from diptych.cli.banner import banner, cores_text, request_to_paste, size
from diptych.cli.doctor import Status
from diptych.cli.doctor import _cuda as doctor_cuda
from diptych.cli.hosting import Stopper
from diptych.cli.http import CannotListen, is_loopback, listen, server_config, url_of
from diptych.cli.machine import cores, port_error, shared_memory_error
from diptych.cli.model import names_of
from diptych.cli.options import HttpFlags
from diptych.cli.result import PHASES, timeline
from diptych.domain.cluster import ModelSpec, WeightFormat
from diptych.domain.errors import SpecError
from diptych.domain.ids import RequestId, WorkerId
from diptych.domain.lifecycle import State
from diptych.domain.report import HandoffKind, HandoffReport, Moment, Placement, RequestReport
from diptych.domain.worker import Role
from diptych.runtime.topology import Topology, WorkerPlace
from diptych.server.observe import timeline_of

if TYPE_CHECKING:
    from diptych.server.choice import Choice


@pytest.mark.parametrize(
    ("given", "text"),
    [((), "any"), ((3,), "3"), ((0, 1, 2, 5), "0-2,5"), ((6, 4, 5, 1), "1,4-6")],
)
def test_cores_are_shown_as_runs(given: tuple[int, ...], text: str) -> None:
    assert cores_text(given) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (2048, "2.0 KiB"), (3 << 19, "1.5 MiB"), (5 << 30, "5.0 GiB")]
)
def test_sizes_for_readers(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize("needs_key", [True, False])
def test_the_request_to_paste_is_valid(needs_key: bool) -> None:
    text = request_to_paste("http://127.0.0.1:1", "some/model", needs_key=needs_key)
    body = re.search(r"-d '(.*)'", text)
    assert body
    assert json.loads(body.group(1))["model"] == "some/model"
    assert ("Authorization" in text) is needs_key


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_hosts_that_only_this_machine_reaches(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", ""])
def test_hosts_that_others_reach(host: str) -> None:
    assert not is_loopback(host)


def test_an_open_address_needs_a_key_or_a_word() -> None:
    with pytest.raises(SpecError, match="--insecure"):
        server_config(HttpFlags(host="0.0.0.0"), {})
    with pytest.raises(SpecError, match="--insecure"):
        server_config(HttpFlags(http=("host=0.0.0.0",)), {"DIPTYCH_API_KEY": " , "})
    assert server_config(HttpFlags(host="0.0.0.0", insecure=True), {}).api_keys == ()
    assert server_config(HttpFlags(host="0.0.0.0"), {"DIPTYCH_API_KEY": "a, b"}).api_keys == ("a", "b")
    assert server_config(HttpFlags(api_key=("c",)), {"DIPTYCH_API_KEY": "a"}).api_keys == ("c",)


def test_any_setting_of_the_server() -> None:
    assert server_config(HttpFlags(http=("accept_any_model=true",)), {}).accept_any_model
    with pytest.raises(SpecError, match="did you mean keep_alive_s"):
        server_config(HttpFlags(http=("keep_alive=1",)), {})
    with pytest.raises(SpecError, match="port"):
        server_config(HttpFlags(port=70000), {})
    with pytest.raises(SpecError, match="KEY=VALUE"):
        server_config(HttpFlags(http=("keep_alive_s",)), {})


def test_a_key_is_never_part_of_an_error() -> None:
    with pytest.raises(SpecError) as caught:
        server_config(HttpFlags(api_key=("very-secret",), port=-1), {})
    assert "very-secret" not in str(caught.value)


def test_a_port_is_taken_once() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        assert url_of(first) == f"http://127.0.0.1:{port}"
        assert port_error("127.0.0.1", port) is not None
        with pytest.raises(CannotListen, match=f"--port {port + 1}"):
            listen("127.0.0.1", port)
    assert port_error("127.0.0.1", port) is None


def test_names_of_models() -> None:
    assert names_of(ModelSpec()) == (BUILTIN_MODEL_NAME,)
    assert names_of(ModelSpec(path="org/model")) == ("org/model",)
    assert names_of(ModelSpec(path="docs")) == ("docs",)
    assert names_of(ModelSpec(served_names=("a", "b"))) == ("a", "b")


def test_every_phase_up_to_the_last_token_is_shown() -> None:
    """A moment that is added to the table needs a place in the timeline, or phases would not add up."""
    moments = {moment: float(place) for place, moment in enumerate(Moment) if moment is not Moment.FLUSHED}
    report = RequestReport(request_id=RequestId("r"), state=State.FINISHED, moments=moments)
    assert set(timeline_of(report, 2).phases_s) == set(PHASES)


@pytest.mark.parametrize(
    ("handoff", "words"),
    [
        (HandoffReport(), "the same worker went on, nothing was handed over"),
        (
            HandoffReport(
                kind=HandoffKind.BORROW, blocks=3, bytes_lent=2048, bytes_copied=512, handoff_s=0.001
            ),
            "3 KV blocks in 1.00 ms, 2.0 KiB lent, 512 B copied",
        ),
        (
            HandoffReport(kind=HandoffKind.STREAM, blocks=1, bytes_streamed=3 << 19, handoff_s=0.25),
            "1 KV block in 250.00 ms, 1.5 MiB streamed",
        ),
    ],
    ids=["none", "borrow", "stream"],
)
def test_the_timeline_tells_what_the_handoff_moved(handoff: HandoffReport, words: str) -> None:
    moments = {moment: float(place) for place, moment in enumerate(Moment) if moment is not Moment.FLUSHED}
    placement = Placement(attempt=1, prefill_worker=WorkerId("p"), decode_worker=WorkerId("d"))
    report = RequestReport(
        request_id=RequestId("r"),
        state=State.FINISHED,
        moments=moments,
        placements=(placement,),
        handoff=handoff,
    )
    choice = cast("Choice", SimpleNamespace(report=report, token_ids=[1, 2], finish_reason="length"))
    console = Console(file=io.StringIO(), width=100, record=True)
    console.print(timeline(Answered(text="", choice=choice)))
    assert f"p → d: {words}" in [line.rstrip() for line in console.export_text().splitlines()]


def test_this_machine_can_run_workers() -> None:
    assert shared_memory_error() is None
    assert cores()


async def test_a_signal_cancels_what_runs_and_the_second_hurries() -> None:
    stopper, hurried, cleaned = Stopper(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    with stopper.listening():
        stopper.on_second(hurried.set)
        assert not await stopper.completes(work())
        assert cleaned.is_set()
        assert not hurried.is_set()
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.wait_for(hurried.wait(), timeout=10)


async def test_what_ends_before_a_signal_is_left_alone() -> None:
    stopper = Stopper()
    with stopper.listening():
        assert await stopper.completes(asyncio.sleep(0))
        with pytest.raises(CannotListen):
            await stopper.completes(_failing())


async def _failing() -> None:
    raise CannotListen("no")


def test_the_banner_says_each_thing_once() -> None:
    worker = WorkerPlace(
        worker_id=WorkerId("prefill-0"), pool="prefill", role=Role.PREFILL, up=True, pid=7, incarnation=1,
        restarts=0, last_end=None, cores=(0,), threads=1, kv_tokens=64, token_budget=512, max_running=4,
        engine={"engine": "native", "kernels": "invariant kernels (of ours)"},
        start_s={"process": 0.25, "warm_up": 1.0},
    )  # fmt: skip
    topology = Topology(
        model_dir="/m", engine="native", domain_id="host", domain_bytes=1 << 20, block_tokens=16,
        block_bytes=64, kv_dtype="float32", kv_tokens=64, max_model_tokens=64, workers=(worker,),
        domain_huge_bytes=1 << 19, start_s={"workers": 1.5, "first_token": 0.5},
    )  # fmt: skip
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(banner("tiny", topology, "http://127.0.0.1:1"))
    shown = console.export_text()
    assert "native, invariant kernels (of ours)" in shown
    assert shown.count("kernels") == 1 and shown.count("native") == 1
    assert "50% on large pages" in shown
    words = " ".join(shown.replace("│", " ").split())
    assert "first token after 2.0 s: workers 1.5 s, first token 0.5 s (process 0.2 s, warm up 1.0 s)" in words
    assert "weights" not in shown


def test_the_banner_shows_weights_where_a_pool_rounds_them() -> None:
    pools: dict[str, WeightFormat] = {"prefill": "same", "decode": "int4"}
    workers = tuple(
        WorkerPlace(
            worker_id=WorkerId(name), pool=name, role=Role(name), up=True, pid=7, incarnation=1, restarts=0,
            last_end=None, cores=(0,), threads=1, kv_tokens=64, token_budget=512, max_running=4,
            weights=weights, engine={},
        )
        for name, weights in pools.items()
    )  # fmt: skip
    topology = Topology(
        model_dir="/m", engine="native", domain_id="host", domain_bytes=1 << 20, block_tokens=16,
        block_bytes=64, kv_dtype="bfloat16", kv_tokens=64, max_model_tokens=64, workers=workers,
    )  # fmt: skip
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(banner("tiny", topology, "http://127.0.0.1:1"))
    lines = {line.split()[1]: line for line in console.export_text().splitlines() if len(line.split()) > 1}
    assert "weights" in lines["worker"]
    assert "bfloat16" in lines["prefill"] and "int4" in lines["decode"]


def test_the_banner_shows_devices_and_what_is_chosen_on_each() -> None:
    kernels = {"cpu": "invariant kernels", "cuda:0": "CUDA kernels (torch's; FlashInfer is not installed)"}
    workers = tuple(
        WorkerPlace(
            worker_id=WorkerId(f"m{i}-0"), pool=f"m{i}", role=Role.MIXED, up=True, pid=7, incarnation=1,
            restarts=0, last_end=None, cores=(0,), threads=1, kv_tokens=64, token_budget=512, max_running=4,
            torch_device=device, engine={"kernels": kernels[device]},
        )
        for i, device in enumerate(kernels)
    )  # fmt: skip
    both = Topology(
        model_dir="/m", engine="native", domain_id="host", domain_bytes=1 << 20, block_tokens=16,
        block_bytes=64, kv_dtype="bfloat16", kv_tokens=64, max_model_tokens=64, workers=workers,
    )  # fmt: skip
    shown: list[str] = []
    for topology in (both, msgspec.structs.replace(both, workers=workers[1:])):
        console = Console(width=140, record=True, file=io.StringIO())
        console.print(banner("tiny", topology, "http://127.0.0.1:1"))
        shown.append(" ".join(console.export_text().replace("│", " ").split()))
    assert all(words in shown[0] for words in (*kernels.values(), "domain host", "device memory", "cuda:0"))
    assert "domain host" not in shown[1] and "handoff" not in shown[1] and "device memory" in shown[1]


def test_doctor_names_devices_and_misses_flashinfer_only_where_there_are_some(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from diptych.kernels.cuda_device import CudaDevice
    from diptych.kernels.flashinfer_paged import NoFlashInfer

    monkeypatch.setattr("diptych.kernels.cuda_device.cuda_devices", lambda: ())
    monkeypatch.setattr("diptych.kernels.cuda_device.why_no_cuda", lambda: "built without")
    none = doctor_cuda()
    assert (none.status, none.detail) == (Status.OK, "none (built without)")

    def missing() -> None:
        raise NoFlashInfer("FlashInfer is not installed: do this")

    device = CudaDevice(0, "Some GPU", 80 << 30, (9, 0))
    monkeypatch.setattr("diptych.kernels.cuda_device.cuda_devices", lambda: (device,))
    monkeypatch.setattr("diptych.kernels.flashinfer_paged.load_flashinfer", missing)
    monkeypatch.setattr("diptych.kernels.choose.load_flashinfer", missing)
    found = doctor_cuda()
    assert found.status is Status.WARN and found.remedy == "pip install 'diptych[cuda]'"
    assert found.detail.startswith("cuda:0 Some GPU, 80 GiB, capability 9.0; bfloat16: CUDA kernels (torch's")
    assert "FlashInfer is not installed" in found.detail
