"""`diptych bench` as a user types it: bad usage, and one load on toy engines behind real HTTP."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from benchmarks.served import serve

from diptych.builtin import builtin_model_dir
from diptych.cli.bench import EXIT_VOID, workload_for
from diptych.cli.durations import parse_seconds
from diptych.metrics.definitions import REQUESTS
from support.source import REPOSITORY

HEAD = REPOSITORY / "tests" / "support" / "live_toy_head.py"
WORKLOAD = "synthetic:poisson,rate=20,input=60,output=8,requests=30"
NOBODY = "http://127.0.0.1:9"
DISTRIBUTION = {"p50", "p90", "p99", "mean", "count", "requests", "of", "p50_interval"}


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DIPTYCH_")}
    return subprocess.run(
        [sys.executable, "-m", "diptych", "bench", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**kept, "NO_COLOR": "1", "COLUMNS": "100"},
    )


# ---------------------------------------------------------------- usage


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((NOBODY,), "workload"),
        (("nowhere", "--workload", WORKLOAD), "http://127.0.0.1:8000"),
        ((NOBODY, "--workload", WORKLOAD, "--rate", "0"), "--rate"),
        ((NOBODY, "--workload", WORKLOAD, "--ttft", "soon"), "500ms"),
        ((NOBODY, "--workload", WORKLOAD, "--rate", "2", "--concurrency", "4"), "--concurrency"),
        ((NOBODY, "--workload", WORKLOAD, "--seeds", "1", "--repeat", "4"), "--repeat"),
        (("compare", "/nonexistent/a", "/nonexistent/b"), "summary.json"),
    ],
)
def test_bad_usage_exits_with_2(arguments: tuple[str, ...], word: str) -> None:
    done = bench(*arguments)
    assert done.returncode == 2, done.stderr
    assert word in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_nobody_there_exits_with_1() -> None:
    done = bench(NOBODY, "--workload", WORKLOAD)
    assert done.returncode == 1
    assert "does not answer" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "value"), [("0.5", 0.5), ("500ms", 0.5), ("30s", 30), ("2m", 120), (".5 s", 0.5)]
)
def test_durations(text: str, value: float) -> None:
    assert parse_seconds(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "-1", "5 parsecs", "1e3", "nan"])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        parse_seconds(text)


def test_a_made_workload_is_made_anew_for_each_seed() -> None:
    times = [[arrival.t_s for arrival in workload_for(WORKLOAD, seed)] for seed in (1, 1, 2)]
    assert times[0] == times[1] != times[2]
    fixed = [[arrival.t_s for arrival in workload_for(f"{WORKLOAD},seed=5", seed)] for seed in (1, 2)]
    assert fixed[0] == fixed[1]


# ---------------------------------------------------------------- live


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    model = shutil.copytree(builtin_model_dir(), tmp_path_factory.mktemp("bench") / "tales")
    with serve(str(model), command=(sys.executable, str(HEAD))) as served:
        yield served.url


@pytest.fixture(scope="module")
def results(url: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """A busy machine may make the client late: the figures are then void, and the counts still exact."""
    out = tmp_path_factory.mktemp("out")
    targets = ("--ttft", "60s", "--tpot", "60s")
    done = bench(f"{url}/v1", "--workload", WORKLOAD, *targets, "--json", "--output", str(out))
    assert done.returncode in (0, EXIT_VOID), done.stderr
    found = json.loads(done.stdout)
    assert found["void"] is (done.returncode == EXIT_VOID)
    return found, out


@pytest.mark.live
def test_one_object_on_stdout(results: tuple[dict[str, Any], Path]) -> None:
    found, out = results
    assert (found["requests"], found["completed"], found["rejected"], found["failed"]) == (30, 30, 0, 0)
    assert all(set(found[name]) >= DISTRIBUTION for name in ("ttft_s", "tpot_s", "itl_s", "e2e_s"))
    assert found["slo_attainment"] == 1.0 and found["goodput_rps"] > 0
    assert found["mismatches"] == {"output_tokens": 0, "prompt_tokens": 0, "no_usage": 0}
    assert found["provenance"]["server"]["owned_by"] == "diptych"
    assert {worker["role"] for worker in found["provenance"]["server"]["workers"]} == {"prefill", "decode"}
    assert json.loads((out / "summary.json").read_text()) == found


@pytest.mark.live
def test_the_servers_own_timeline_is_beside_ours(results: tuple[dict[str, Any], Path]) -> None:
    """Both clocks are of one machine, and the server's request begins later and its tokens leave earlier."""
    found, out = results
    records = [json.loads(line) for line in (out / "requests.jsonl").read_text().splitlines()]
    assert len(records) == 30
    assert all(record["server"]["ttft_s"] < record["ttft_s"] for record in records)
    assert all(record["server"]["cached_tokens"] == 0 for record in records)
    assert found["server"]["ttft_s"]["p50"] < found["ttft_s"]["p50"]


@pytest.mark.live
def test_compare(results: tuple[dict[str, Any], Path]) -> None:
    _, out = results
    found = json.loads(bench("compare", str(out), str(out), "--json").stdout)
    assert {name: row["ratio"] for name, row in found["metrics"].items()} == dict.fromkeys(
        found["metrics"], 1.0
    )
    assert "B ÷ A" in bench("compare", str(out), str(out)).stdout


@pytest.mark.live
def test_the_table_says_what_a_reader_must_know(url: str) -> None:
    done = bench(url, "--workload", WORKLOAD, "--requests", "5", "--concurrency", "2")
    assert "closed loop (saturation only)" in done.stdout
    assert "TTFT ms" in done.stdout and "p99 needs 1,000 requests" in done.stdout


def ended(url: str) -> int:
    """Requests that the server has answered."""
    return sum(
        int(float(n))
        for n in re.findall(rf"^{REQUESTS.name}{{.*}} (\S+)$", httpx.get(f"{url}/metrics").text, re.M)
    )


@pytest.mark.live
def test_ctrl_c_reports_what_there_is(url: str) -> None:
    long = "synthetic:constant,rate=5,input=20,output=4,requests=1000"
    command = [sys.executable, "-m", "diptych", "bench", url, "--workload", long, "--json"]
    before = ended(url)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and ended(url) < before + 4:  # one of them is the trial
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    found = json.loads(out)
    assert found["partial"] is True
    assert 0 < found["completed"] < 1000 == found["requests"] + found["not_sent"]
