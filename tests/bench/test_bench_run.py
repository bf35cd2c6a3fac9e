"""A whole benchmark against a scripted server: what is asked, sent, refused, cut off and written."""

from __future__ import annotations

import asyncio
import csv
import json
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from diptych.bench import folder
from diptych.bench.run import Result, Settings, run
from diptych.bench.schedule import Limits
from diptych.bench.target import Unusable
from diptych.domain.cluster import SloSpec
from diptych.domain.errors import SpecError
from diptych.workload.record import Arrival, Workload
from support.scripted_server import DONE, Script, ScriptedServer, Step, chunk, event, scripted, usage

Answer = Callable[[dict[str, Any]], Script]


def workload(requests: int = 5, tokens: int = 20) -> Workload:
    """Five requests, one every 10 ms."""
    arrivals = [
        Arrival(t_s=index / 100, input_tokens=tokens + index, output_tokens=3, hash_ids=(1,))
        for index in range(requests)
    ]
    return Workload("five", lambda: iter(arrivals), block_tokens=8)


def good(body: dict[str, Any]) -> Script:
    """As many tokens as asked for."""
    asked = body["max_tokens"]
    prompt = len(body["prompt"]) if "prompt" in body else 5 + len(body["messages"][0]["content"].split())
    parts = [chunk("x", finish="length" if number == asked else None) for number in range(1, asked + 1)]
    return Script([Step(0.0, part) for part in (*parts, usage(prompt, asked), DONE)])


async def bench(
    answer: Answer, *, prepare: Callable[[ScriptedServer], None] = lambda _: None, **given: Any
) -> tuple[Result, ScriptedServer]:
    async with scripted(answer) as (url, server):
        prepare(server)
        settings = replace(Settings(url=url, slo=SloSpec(ttft_s=60.0)), **given)
        return await run(settings, lambda _: workload(), asyncio.Event()), server


async def test_what_is_sent() -> None:
    result, server = await bench(good)
    trial, *sent = server.bodies
    assert trial["max_tokens"] == 2
    assert sorted(len(body["prompt"]) for body in sent) == [20, 21, 22, 23, 24]
    assert len({tuple(body["prompt"][:8]) for body in sent}) == 1  # the block that they share
    assert len({tuple(body["prompt"][8:]) for body in sent}) == 5
    assert all("cache_salt" not in body and "include_metrics" not in body for body in sent)
    summary = result.summary
    assert (summary["completed"], summary["errors"], summary["partial"]) == (5, {}, False)
    assert summary["mismatches"] == {"output_tokens": 0, "prompt_tokens": 0, "no_usage": 0}
    assert summary["slo_attainment"] == 1.0
    assert summary["provenance"]["server"]["max_model_tokens"] == 1000
    assert len(summary["provenance"]["config_hash"]) == 16


async def test_a_server_of_ours_is_asked_for_its_timeline_and_keeps_runs_apart() -> None:
    def own(server: ScriptedServer) -> None:
        server.pages["/v1/models"]["data"][0]["owned_by"] = "diptych"
        server.pages["/load"] = {"workers": [{"worker_id": "p-0", "role": "prefill", "stats": {}}]}
        server.pages["/tokenizer_info"] = {"vocab_size": 50}

    result, server = await bench(good, prepare=own, seeds=(0, 1))
    salts = [body["cache_salt"] for body in server.bodies]
    assert [salts.count(salt) for salt in dict.fromkeys(salts)] == [1, 5, 5]
    assert all(body["include_metrics"] for body in server.bodies)
    assert max(max(body["prompt"]) for body in server.bodies) < 50
    assert result.summary["provenance"]["server"]["workers"] == [{"worker_id": "p-0", "role": "prefill"}]
    assert [one["seed"] for one in result.summary["runs"]] == [0, 1]
    assert result.summary["completed"] == 10


async def test_chat_finds_out_how_long_words_are() -> None:
    result, server = await bench(good, endpoint="chat")
    assert result.summary["mismatches"]["prompt_tokens"] == 0
    assert [body["messages"][0]["role"] for body in server.bodies] == ["user"] * 7
    assert "tokens a word" in result.summary["notes"][0]


async def test_failures_are_counted_by_code_and_shed_requests_are_misses() -> None:
    calls = iter(range(100))

    def answer(body: dict[str, Any]) -> Script:
        match next(calls):
            case 1:
                error = event({"error": {"code": "server_overloaded", "message": "full"}})[6:]
                return Script([Step(0.0, error)], status=503, content_type="application/json")
            case 2:
                return Script([Step(0.0, chunk("x"))], cut=True)
            case _:
                return good(body)

    result, _ = await bench(answer)
    summary = result.summary
    assert (summary["completed"], summary["rejected"], summary["failed"]) == (3, 1, 1)
    assert summary["errors"] == {"server_overloaded": 1, "truncated_stream": 1}
    assert summary["slo_attainment"] == 3 / 5


async def test_lengths_that_the_server_does_not_heed() -> None:
    result, _ = await bench(lambda body: good({**body, "max_tokens": 4}))
    assert result.summary["mismatches"]["output_tokens"] == 5
    assert "does not heed" in result.summary["notes"][0]


async def test_too_long_for_the_model() -> None:
    result, server = await bench(good, max_model_tokens=25)
    assert (result.summary["refused_too_long"], result.summary["clamped"], result.summary["requests"]) == (
        2,
        0,
        3,
    )
    result, server = await bench(good, max_model_tokens=25, clamp=True)
    assert (result.summary["refused_too_long"], result.summary["clamped"], result.summary["requests"]) == (
        0,
        2,
        5,
    )
    assert max(len(body["prompt"]) for body in server.bodies[1:]) == 22


async def test_an_interrupted_run_keeps_what_it_has() -> None:
    stop = asyncio.Event()
    calls = iter(range(100))

    def answer(body: dict[str, Any]) -> Script:
        if next(calls) < 4:
            return good(body)
        asyncio.get_running_loop().call_later(0.2, stop.set)
        return Script(silent=True)

    async with scripted(answer) as (url, _):
        result = await run(Settings(url=url, seeds=(0, 1)), lambda _: workload(), stop)
    summary = result.summary
    assert result.partial and len(result.runs) == 1
    assert (summary["completed"], summary["unfinished"] + summary["not_sent"]) == (3, 2)


async def test_a_closed_loop() -> None:
    result, _ = await bench(good, concurrency=2)
    assert result.summary["mode"].startswith("closed loop")
    assert (result.summary["completed"], result.summary["goodput_rps"]) == (5, None)


# ---------------------------------------------------------------- what can not be


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"model": "other"}, "--model other: not served here; there are: m"),
        ({"concurrency": 2, "limits": Limits(rate_rps=1.0)}, "--concurrency"),
        ({"seeds": ()}, "--seeds"),
        ({"max_model_tokens": 10}, "--clamp"),
    ],
)
async def test_settings_that_do_not_fit(given: dict[str, Any], word: str) -> None:
    with pytest.raises(SpecError, match=word):
        await bench(good, **given)


async def test_a_server_that_refuses_the_first_request() -> None:
    body = event({"error": {"code": "invalid_value", "message": "prompt has token ids outside of 0..99"}})[6:]
    refusing = Script([Step(0.0, body)], status=400, content_type="application/json")
    with pytest.raises(SpecError, match="--vocabulary"):
        await bench(lambda _: refusing)


async def test_a_server_that_names_no_model() -> None:
    with pytest.raises(SpecError, match="--model"):
        await bench(good, prepare=lambda server: server.pages.pop("/v1/models"))


async def test_nobody_there() -> None:
    with pytest.raises(Unusable, match="does not answer"):
        await run(Settings(url="http://127.0.0.1:9"), lambda _: workload(), asyncio.Event())


# ---------------------------------------------------------------- files


class _Page(HTMLParser):
    """Collects what would be fetched from elsewhere, and counts drawings."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.drawings = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.drawings += tag == "svg"
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href")]


async def test_files(tmp_path: Path) -> None:
    result, _ = await bench(good, api_key="sesame")
    out = tmp_path / "deep" / "out"
    folder.check(out)
    folder.write(out, result)
    assert folder.read_summary(out) == json.loads(json.dumps(result.summary))
    records = folder.read_requests(out)
    assert [record["index"] for record in records] == [0, 1, 2, 3, 4]
    assert all(len(record["chunk_s"]) == 3 for record in records)
    with (out / folder.TABLE).open() as file:
        assert [row["outcome"] for row in csv.DictReader(file)] == ["completed"] * 5
    page = _Page()
    page.feed((out / folder.PAGE).read_text())
    assert (page.fetched, page.drawings) == ([], 2)
    assert not any("sesame" in path.read_text() for path in out.iterdir())


def test_a_folder_without_a_result(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"summary\.json"):
        folder.read_summary(tmp_path)


def test_a_folder_that_can_not_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpecError, match="--output"):
        folder.check(tmp_path / "file")
