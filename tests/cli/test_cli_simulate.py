"""`diptych simulate` as a user types it: the object that other tools rely on, and what wrong input gets."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from diptych.cli.main import build_app, main

KEYS = {
    "requests", "completed", "rejected", "ttft_s", "tpot_s", "itl_s", "e2e_s", "goodput_rps",
    "slo_attainment", "output_tokens_per_s", "pools", "prefix_hit_tokens", "handoff", "events", "wall_s",
}  # fmt: skip
SPEC = """
pools:
  - {name: prefill, role: prefill, token_budget: 2048, profile: &one {prefill: {fixed_s: 0.005,
     per_token_s: 1.0e-5}, decode: [{fixed_s: 0.01, per_context_token_s: 1.0e-8}], kv_tokens: 200000,
     kv_bytes_per_token: 1000, power_busy_w: 500, power_idle_w: 100, cost_per_hour: 4}}
  - {name: decode, role: decode, token_budget: 2048, profile: *one}
slo: {ttft_s: 0.5, tpot_s: 0.05}
"""
POISSON = "synthetic:poisson,rate=5,input=800,output=50,requests=60,seed=3"


@pytest.fixture
def spec(tmp_path: Path) -> str:
    """A split cluster with a measured profile."""
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC, encoding="utf-8")
    return str(path)


def run(*arguments: str) -> None:
    """The command in this process."""
    build_app()(["simulate", *arguments], exit_on_error=False, result_action="return_value")


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    """What ``--json`` prints."""
    run(*arguments, "--json")
    return json.loads(capsys.readouterr().out)


def test_one_object_with_the_promised_keys(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = shown(capsys, spec, "--workload", POISSON)
    assert set(data) == KEYS
    assert data["requests"] == data["completed"] == 60
    for metric in ("ttft_s", "tpot_s", "itl_s", "e2e_s"):
        assert set(data[metric]) == {"p50", "p90", "p99", "mean"}  # type: ignore[arg-type]
    pools = data["pools"]
    assert isinstance(pools, dict)
    assert set(pools) == {"prefill", "decode"}
    assert set(pools["decode"]) == {"utilisation", "busy_s", "kv_peak_fraction", "energy_j", "cost"}
    assert pools["decode"]["energy_j"] > 0
    handoff = data["handoff"]
    assert isinstance(handoff, dict)
    assert handoff["count"] == 60
    assert handoff["bytes"] > 0
    assert set(handoff["exposed_s"]) == {"p50", "p90", "p99", "mean"}


def test_a_trace_and_a_limit(spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "trace.jsonl"
    rows = [
        {"timestamp": 100 * i, "input_length": 600, "output_length": 5, "hash_ids": [0, i + 1]}
        for i in range(9)
    ]
    trace.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    data = shown(capsys, spec, "--workload", str(trace), "--requests", "4")
    assert data["completed"] == 4
    assert data["prefix_hit_tokens"] == 3 * 512


def test_faults_and_files(spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faults = tmp_path / "faults.yaml"
    faults.write_text("- {type: slow, t_s: 0, worker_id: prefill-0, factor: 4}\n", encoding="utf-8")
    out = tmp_path / "out"
    slow = shown(capsys, spec, "--workload", POISSON, "--faults", str(faults), "--output", str(out))
    fast = shown(capsys, spec, "--workload", POISSON)
    assert slow["ttft_s"]["mean"] > 3 * fast["ttft_s"]["mean"]  # type: ignore[index]
    assert json.loads((out / "result.json").read_text())["completed"] == 60
    assert len((out / "requests.jsonl").read_text().splitlines()) == 60


def test_tables_by_default(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(spec, "--workload", POISSON)
    out = capsys.readouterr().out
    assert "60 requests" in out
    assert "TTFT" in out
    assert "decode × 1" in out


@pytest.mark.parametrize(
    ("trace", "words"),
    [
        (None, ("no such file",)),
        ("", ("empty",)),
        ("{not json\n", ("trace.jsonl", "line 1", "is not JSON")),
        (
            '{"timestamp": 9000, "input_length": 600, "output_length": 5, "hash_ids": [0, 1]}\n'
            '{"timestamp": 1000, "input_length": 600, "output_length": 5, "hash_ids": [0, 2]}\n',
            ("line 2", "timestamp", "sort"),
        ),
    ],
    ids=["missing", "empty", "not json", "out of order"],
)
def test_a_wrong_trace(
    spec: str,
    tmp_path: Path,
    trace: str | None,
    words: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "trace.jsonl"
    if trace is not None:
        path.write_text(trace, encoding="utf-8")
    assert failing(monkeypatch, spec, "--workload", str(path)) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words), error
    assert "Traceback" not in error


def test_what_is_said_of_a_wrong_block_size_helps(
    spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command has no flag for it; the one that the message names makes a trace that it reads."""
    trace, better = tmp_path / "trace.jsonl", tmp_path / "better.jsonl"
    row = {"timestamp": 0, "input_length": 640, "output_length": 5, "hash_ids": list(range(40))}
    trace.write_text(f"{json.dumps(row)}\n" * 2, encoding="utf-8")
    assert failing(monkeypatch, spec, "--workload", str(trace)) == 2
    (named,) = re.findall(r"`diptych (.*) IN OUT`", capsys.readouterr().err)
    monkeypatch.setattr("sys.argv", ["diptych", *shlex.split(named), str(trace), str(better)])
    with pytest.raises(SystemExit, match=r"^0$"):
        main()
    capsys.readouterr()
    data = shown(capsys, spec, "--workload", str(better))
    assert data["completed"] == 2
    assert data["prefix_hit_tokens"] == 39 * 16


@pytest.mark.parametrize(
    ("faults", "words"),
    [
        ("- {type: kill, t_s: 1, worker_id: nobody}", ("nobody", "prefill-0")),
        ("- {type: burn, t_s: 1}", ("burn", "kill")),
        ("- {type: slow, t_s: -1, worker_id: prefill-0, factor: 2}", ("t_s",)),
        ("{", ("YAML",)),
    ],
)
def test_wrong_faults(
    spec: str,
    tmp_path: Path,
    faults: str,
    words: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "faults.yaml"
    path.write_text(faults, encoding="utf-8")
    assert failing(monkeypatch, spec, "--workload", POISSON, "--faults", str(path)) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words), error


def test_a_spec_that_says_nothing_of_speed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text("model: {path: builtin}\n", encoding="utf-8")
    assert failing(monkeypatch, str(path), "--workload", POISSON) == 2
    error = capsys.readouterr().err
    assert "profile" in error
    assert "device" in error


def failing(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of the command as a whole."""
    monkeypatch.setattr("sys.argv", ["diptych", "simulate", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    code = left.value.code
    assert isinstance(code, int)
    return code
