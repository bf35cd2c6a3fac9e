"""`diptych plan` as a user types it: what it prints and writes, and what wrong input gets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diptych.cli.main import build_app, main
from diptych.cli.spec import load_file

QUESTION = {
    "--model": "llama-3.1-8b",
    "--hardware": "L40S",
    "--workload": "synthetic:poisson,rate=4,input=600,output=40",
    "--ttft": "1",
    "--tpot": "0.06",
    "--budget-devices": "2",
}
ROW = '{"timestamp": %d, "input_length": 600, "output_length": 5, "hash_ids": [0, %d]}\n'


def arguments(**changes: str | None) -> list[str]:
    """The question's flags with some changed (`budget_watts="3"`) or left out (None)."""
    given: dict[str, str | None] = dict(QUESTION)
    given.update({f"--{name.replace('_', '-')}": value for name, value in changes.items()})
    return [part for flag, value in given.items() if value is not None for part in (flag, value)]


def failing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: list[str]) -> str:
    """What the command as a whole says of bad usage: one line and exit code 2."""
    monkeypatch.setattr("sys.argv", ["diptych", "plan", *given])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err
    return said.err


# ---------------------------------------------------------------- what it gives


def test_one_object_with_the_promised_keys_and_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*arguments(), "--no-regret", "--processes", "1", "--output", str(tmp_path), "--json"]
    build_app()(["plan", *given], exit_on_error=False, result_action="return_value")
    data = json.loads(capsys.readouterr().out)
    promised = {"verdict", "best", "candidates", "baseline", "break_even", "regret", "assumptions"}
    assert promised <= set(data)
    assert data["verdict"] in ("split", "do not split", "hybrid", "undecided")
    names = {one["name"] for one in data["candidates"]}
    assert {data["best"]["name"], data["baseline"]["name"]} <= names
    assert data["baseline"]["kind"] == "unsplit"
    assert {one["quantity"] for one in data["break_even"]} >= {"link bandwidth", "load"}
    assert data["regret"] is None
    assert data["assumptions"]
    assert json.loads((tmp_path / "result.json").read_text(encoding="utf-8")) == data
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    spec = str(tmp_path / "spec.yaml")
    assert load_file(Path(spec)).spec.slo.ttft_s == 1.0
    run = ["simulate", spec, "--workload", QUESTION["--workload"] + ",requests=40", "--json"]
    build_app()(run, exit_on_error=False, result_action="return_value")
    assert json.loads(capsys.readouterr().out)["completed"] == 40


def test_the_catalogue_needs_no_question(capsys: pytest.CaptureFixture[str]) -> None:
    build_app()(["plan", "--list-hardware"], exit_on_error=False, result_action="return_value")
    out = capsys.readouterr().out
    assert "H100-SXM" in out
    assert "Gaudi" in out


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": None, "tpot": None}, ("--model and --tpot", "such as")),
        ({"model": "llama-3.1-71b"}, ("llama-3.1-71b", "did you mean llama-3.1-70b")),
        ({"hardware": "L400S"}, ("--hardware", "'L400S'", "did you mean L40S", "--list-hardware")),
        ({"hardware": ","}, ("--hardware", "missing")),
        ({"hardware": "absent.yaml"}, ("--hardware absent.yaml", "No such file", "diptych calibrate")),
        ({"engine": "vlmm"}, ("--engine", "vllm")),
        ({"budget_devices": None}, ("no budget", "--budget-devices")),
        ({"budget_money": "5"}, ("--budget-devices and --budget-money", "one budget")),
        ({"budget_devices": "0"}, ("--budget-devices 0", "positive", "such as")),
        ({"budget_devices": "2.5"}, ("--budget-devices", "whole", "2 and 3")),
        ({"budget_devices": None, "budget_watts": "nan"}, ("--budget-watts nan", "positive")),
        ({"budget_devices": None, "budget_watts": "100"}, ("--budget-watts 100", "L40S TP1", "at least")),
        ({"model": "llama-3.1-70b", "budget_devices": "1"}, ("--budget-devices 1", "at least", "TP2")),
        ({"ttft": "0.001"}, ("--ttft 0.001", "physical floor", "L40S", "feasible: --ttft 0.0")),
        ({"tpot": "0.001"}, ("--tpot 0.001", "physical floor", "feasible: --tpot 0.0")),
        ({"ttft": "0"}, ("--ttft 0", "positive")),
        ({"tpot": "inf"}, ("--tpot inf", "positive")),
        ({"share": "90"}, ("--share 90", "0.9")),
        ({"seeds": "1"}, ("--seeds 1", "3 or more")),
        ({"processes": "0"}, ("--processes 0", "at least 1")),
        ({"link": "fast"}, ("--link fast", "400G", "rdma-4x200g")),
        ({"link": "1.2.3G"}, ("--link 1.2.3G", "400G")),
        ({"rent": "L40S=free"}, ("--rent L40S=free", "H20=1.2")),
        ({"rent": "L400S=1"}, ("--rent", "did you mean L40S")),
        ({"workload": "synthetic:poison,rate=4"}, ("poison", "poisson")),
    ],
    ids=lambda value: (
        " ".join(f"{name}={text}" for name, text in value.items()) if isinstance(value, dict) else ""
    ),
)
def test_a_wrong_flag(
    changes: dict[str, str | None],
    words: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = failing(monkeypatch, capsys, arguments(**changes))
    plain = " ".join(error.replace("│", " ").split())
    assert all(word in plain for word in words), plain


def test_a_cap_alone_does_not_make_a_plan(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Capped engines only decode, so a budget must pay for one at full power."""
    error = failing(monkeypatch, capsys, arguments(budget_devices=None, budget_watts="300"))
    assert "--budget-watts 350" in error
    assert "capped" in error


@pytest.mark.parametrize(
    ("trace", "words"),
    [
        (None, ("trace.jsonl", "no such file")),
        (b"", ("no requests",)),
        (b"\x80\x81\x82", ("not text", "UTF-8")),
        ((ROW % (0, 1) + '{"timestamp": 10, "input_length": }\n').encode(), ("line 2", "not JSON")),
        ((ROW % (1000, 1) + ROW % (500, 2)).encode(), ("line 2", "timestamp", "--sort")),
        (
            (ROW % (0, 1)).replace("600", "32").encode(),
            ("line 1", "`diptych workload convert --block-tokens 16"),
        ),
        ((ROW % (0, 1)).encode(), ("--workload", "at least 2")),
    ],
    ids=["missing", "empty", "binary", "bad line", "out of order", "small blocks", "one request"],
)
def test_a_wrong_trace(
    trace: bytes | None,
    words: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "trace.jsonl"
    if trace is not None:
        path.write_bytes(trace)
    error = failing(monkeypatch, capsys, arguments(workload=str(path)))
    assert len(error.splitlines()) == 1
    assert all(word in error for word in words), error
