"""`diptych workload` as a user types it: files, figures, plots, and messages for what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from diptych.cli.main import main
from diptych.planning.traces import open_workload
from diptych.workload.formats import Reading

Run = Callable[..., tuple[int, str, str]]
pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")
SMALL = "synthetic:poisson,rate=5,input=uniform(600,3000),output=80,requests=60,cached=0.5,seed=1"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """`diptych workload` with these arguments, in an empty folder: exit code, output, messages."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["diptych", "workload", *arguments])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


@pytest.mark.parametrize("command", ["inspect", "convert", "scale", "mix", "make", "plot"])
def test_every_command_has_help(run: Run, command: str) -> None:
    code, out, _ = run(command, "--help")
    assert code == 0
    assert f"diptych workload {command}" in out


def test_make_then_inspect(run: Run) -> None:
    code, _, said = run("make", SMALL, "w.jsonl")
    assert (code, "wrote 60 requests to w.jsonl" in said) == (0, True)
    code, out, _ = run("inspect", "w.jsonl", "--json", "--cache-tokens", "5k,1M")
    found = json.loads(out)
    assert (code, found["requests"], found["output_tokens"]["mean"]) == (0, 60, 80)
    assert found["prefix_ceiling"]["lru_token_share"]["1000000"] == found["prefix_ceiling"]["hit_token_share"]
    assert set(found["dispersion"]) == {"1", "10", "60"}
    assert "prefill_share" not in found
    for name in ("make", "inspect"):
        assert not list(Path().glob("*.part")), name


def test_what_is_made_is_what_is_read(run: Run) -> None:
    run("make", SMALL.removeprefix("synthetic:"), "w.jsonl")
    made, read = list(open_workload(SMALL)), list(open_workload("w.jsonl"))
    assert [(a.input_tokens, a.output_tokens, a.hash_ids) for a in made] == [
        (a.input_tokens, a.output_tokens, a.hash_ids) for a in read
    ]
    assert all(abs(a.t_s - b.t_s) < 1e-9 for a, b in zip(made, read, strict=True))


def test_standard_output_can_be_written(run: Run) -> None:
    code, out, said = run("make", SMALL, "-")
    assert (code, len(out.splitlines())) == (0, 60)
    assert json.loads(out.splitlines()[0])["output_length"] == 80
    assert "wrote 60 requests" in said


def test_inspect_prints_tables(run: Run) -> None:
    code, out, _ = run("inspect", SMALL, "--prefill-rate", "15k", "--decode-rate", "1000")
    assert code == 2
    code, out, _ = run("inspect", SMALL, "--prefill-rate", "15000", "--decode-rate", "1000")
    assert code == 0
    for word in ("requests", "burstiness", "prefix ceiling", "prefill share", "rigid split", "p99", "note:"):
        assert word in out


def test_convert_says_what_is_lost(run: Run) -> None:
    Path("a.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.5,10,2\n")
    code, _, said = run("convert", "a.csv", "a.jsonl")
    assert code == 0
    assert "no prefixes" in said
    assert json.loads(Path("a.jsonl").read_text()) == {
        "timestamp": 0, "input_length": 10, "output_length": 2, "hash_ids": [],
    }  # fmt: skip


def test_convert_sorts_on_demand(run: Run) -> None:
    rows = [{"timestamp": t, "input_length": 5, "output_length": 1} for t in (0, 2000, 1000)]
    Path("a.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    code, _, said = run("convert", "a.jsonl", "b.jsonl")
    assert (code, Path("b.jsonl").exists()) == (2, False)
    assert "a.jsonl, line 3: timestamp" in said
    assert "diptych workload convert --sort" in said
    assert run("convert", "--sort", "a.jsonl", "b.jsonl")[0] == 0
    assert [arrival.t_s for arrival in open_workload("b.jsonl")] == [0, 1, 2]


def test_convert_changes_blocks(run: Run) -> None:
    run("make", SMALL, "w.jsonl")
    assert run("convert", "w.jsonl", "fine.jsonl", "--to-block-tokens", "16")[0] == 0
    assert Path("fine.jsonl").read_text().startswith("# block_tokens: 16\n")
    assert open_workload("fine.jsonl").block_tokens == 16
    code, _, said = run("convert", "fine.jsonl", "x.jsonl", "--block-tokens", "512")
    assert code == 2
    assert "--block-tokens" in said


def test_scale_in_all_ways(run: Run) -> None:
    code, _, said = run(
        "scale", SMALL, "s.jsonl", "--input-tokens", "1000:", "--requests", "20", "--factor", "2",
        "--output-factor", "0.5", "--repeat", "50", "--no-sessions",
    )  # fmt: skip
    assert code == 0, said
    found = list(open_workload("s.jsonl"))
    assert len(found) == 50
    assert min(arrival.input_tokens for arrival in found) >= 1000
    assert {arrival.output_tokens for arrival in found} == {40}


def test_mix_with_a_shift(run: Run) -> None:
    code, _, said = run(
        "mix", "m.jsonl", f"{SMALL}=1:0", "synthetic:constant,rate=5,input=7,output=1,requests=60=0:1",
        "--shift-s", "10:20", "--requests", "300",
    )  # fmt: skip
    assert code == 0, said
    share = [arrival.input_tokens == 7 for arrival in open_workload("m.jsonl")]
    assert not any(share[:60])
    assert all(share[-80:])


@pytest.mark.parametrize(
    ("ending", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("html", b"<!doctype")]
)
def test_plot(run: Run, ending: str, start: bytes) -> None:
    pytest.importorskip("matplotlib")
    code, _, said = run("plot", SMALL, f"p.{ending}")
    assert code == 0, said
    drawn = Path(f"p.{ending}").read_bytes()
    assert drawn.startswith(start)
    assert len(drawn) > 10_000


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("inspect", "nowhere.jsonl"), "no such file"),
        (("inspect", "synthetic:poisson"), "rate is missing"),
        (("inspect", SMALL, "--prefill-rate", "5"), "--decode-rate"),
        (("inspect", SMALL, "--cache-tokens", "5"), "smaller than one block"),
        (("inspect", SMALL, "--cache-tokens", "x"), "not a number"),
        (("inspect", SMALL, "--block-tokens", "0"), "--block-tokens"),
        (("plot", SMALL, "p.jpg"), "one of: .png, .svg, .html"),
        (("plot", SMALL, "nowhere/p.svg"), "cannot be written"),
        (("convert", SMALL, "nowhere/w.jsonl"), "cannot be written"),
        (("scale", SMALL, "w.jsonl", "--factor", "0"), "factor"),
        (("scale", SMALL, "w.jsonl", "--factor", "2", "--rate", "3"), "leave one out"),
        (("scale", SMALL, "w.jsonl", "--input-tokens", "9"), "100:2000"),
        (("scale", SMALL, "w.jsonl", "--input-tokens", "9999999:"), "no requests"),
        (("convert", SMALL, "--srot"), "unknown option '--srot'"),
        (("mix", "w.jsonl", "a.jsonl"), "SPEC=SHARE"),
        (("mix", "w.jsonl"), "names no workload"),
        (("mix", "w.jsonl", f"{SMALL}=1", "--shift-s", "5"), "600:1200"),
        (("convert", "--characters-per-token", "0", SMALL, "w.jsonl"), "characters per token"),
    ],
)
def test_bad_usage_exits_with_2_and_one_line(run: Run, arguments: tuple[str, ...], word: str) -> None:
    code, _, said = run(*arguments)
    assert code == 2
    assert word in said
    assert said.startswith("diptych: ")
    assert len(said.splitlines()) == 1
    assert not Path("w.jsonl").exists()


def test_a_source_is_not_overwritten(run: Run) -> None:
    run("make", SMALL, "w.jsonl")
    before = Path("w.jsonl").read_bytes()
    code, _, said = run("scale", "w.jsonl", "./w.jsonl", "--factor", "2")
    assert (code, Path("w.jsonl").read_bytes()) == (2, before)
    assert "also read" in said


def test_files_that_are_no_traces(run: Run) -> None:
    Path("packed.jsonl.gz").write_bytes(b"\x1f\x8b\x08\x00\xff")
    Path("late.jsonl").write_bytes(
        b'{"timestamp": 0, "input_length": 5, "output_length": 1}\n' * 3000 + b"\xff\n"
    )
    Path("empty.jsonl").write_text("\n")
    Path("folder").mkdir()
    Path("trace.jsonl").write_text("x")
    for name, word in (
        ("packed.jsonl.gz", "unpack it first"),
        ("late.jsonl", "not text"),
        ("empty.jsonl", "no requests"),
        ("folder", "name a file in it"),
        ("trcae.jsonl", "did you mean 'trace.jsonl'"),
    ):
        code, _, said = run("inspect", name)
        assert (code, word in said) == (2, True), said


def test_texts_are_counted_by_what_the_caller_gives(tmp_path: Path) -> None:
    path = tmp_path / "share.json"
    turns = [{"from": "human", "value": "x" * 40}, {"from": "gpt", "value": "y" * 8}]
    path.write_text(json.dumps([{"conversations": turns}], indent=1))
    (estimated,) = open_workload(str(path))
    (counted,) = open_workload(str(path), Reading(count_tokens=len, count_note="characters"))
    assert (estimated.input_tokens, estimated.output_tokens) == (10, 2)
    assert (counted.input_tokens, counted.output_tokens) == (40, 8)


def test_a_file_can_be_read_twice_at_once(tmp_path: Path) -> None:
    path = tmp_path / "w.jsonl"
    path.write_text('{"timestamp": 0, "input_length": 5, "output_length": 1}\n' * 5)
    source = open_workload(str(path))
    assert sum(1 for _ in zip(source, source, strict=True)) == 5


def test_looking_at_workloads_loads_neither_torch_nor_numpy() -> None:
    code = (
        "import sys\nfrom diptych.cli.main import main\n"
        f"sys.argv = ['diptych', 'workload', 'inspect', {SMALL!r}, '--json']\nmain()\n"
        "heavy = {'torch', 'numpy', 'matplotlib', 'scipy', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
