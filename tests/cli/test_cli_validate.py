"""What `diptych validate` prints, on a terminal of the usual width; the measuring itself is left out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from diptych.bench.house.anchor import Drift
from diptych.bench.house.steps import Step
from diptych.bench.house.validate import LOADS, Comparison, Look, Piece, Side, Validation
from diptych.cli.main import main
from diptych.domain.ids import WorkerId
from diptych.performance.steps import Chunk

WIDTH = 80
USUAL = Comparison(
    topology="1 mixed", load=f"{LOADS[-1]:.0%} load", requests=725, rate_rps=9.0, metric="TTFT p50",
    measured_s=0.0123, simulated_s=0.0125,
)  # fmt: skip
LARGE = Comparison(
    topology="1P+1D", load="shared", requests=123_456, rate_rps=9.0, metric="TPOT p90",
    measured_s=123.45678, simulated_s=1358.02458,
)  # fmt: skip

PIECE = Piece(
    topology="1P+1D", load="shared", rate_rps=9.0, seed=3, speeds=(Drift(1.1, 0.9),),
    measured=Side(prefill_s=1.5, decode_s=2.5, ttft_s=(0.1, 0.2), tpot_s=(0.01, None)),
    simulated=Side(prefill_s=1.4, decode_s=2.6, ttft_s=(0.1, 0.3), tpot_s=(0.02, None)),
)  # fmt: skip
LOOK = Look(
    topology="1P+1D", speed=Drift(1.2, 0.8),
    steps=[Step(WorkerId("prefill-0"), 12.5, (Chunk(512, 0), Chunk(3, 64)), 2, 0.1, None)],
)  # fmt: skip

OTHER = Look(topology="1P+1D", speed=Drift(0.9, 1.0), steps=[])

Run = Callable[..., str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """What the command prints with these flags, had it found the two rows."""

    async def compare(*_: object, **__: object) -> Validation:
        return Validation(rows=[USUAL, LARGE], pieces=[PIECE], looks=[LOOK, OTHER], calibrations={})

    def call(*flags: str) -> str:
        monkeypatch.setattr("diptych.bench.house.validate.validate", compare)
        monkeypatch.setattr("sys.argv", ["diptych", "validate", *flags])
        monkeypatch.setenv("COLUMNS", str(WIDTH))
        with pytest.raises(SystemExit, match=r"^1$"):
            main()
        return capsys.readouterr().out

    return call


def test_every_percentile_is_one_whole_line(run: Run) -> None:
    title, headings, _, usual, large, _ = [line.rstrip() for line in run().splitlines() if line.strip()]
    assert title == "simulated against measured, ms"
    assert headings.split() == ["topology", "load", "requests", "metric", "measured", "simulated", "error"]
    assert usual.split("  ")[0].strip() == "1 mixed"
    assert "75% load" in usual
    assert usual.split()[4:] == ["725", "TTFT", "p50", "12.30", "12.50", "+1.6%", "ok"]
    assert " ".join(large.split()) == "1P+1D shared 123456 TPOT p90 123456.78 1358024.58 +1000.0% off"
    assert max(map(len, (headings, usual, large))) <= WIDTH


def test_how_steady_the_machine_was_is_said(run: Run) -> None:
    said = run().strip().splitlines()[-1]
    assert said.startswith(
        "1P+1D: in the middle 80 % of the looks, prompts took 0.93 to 1.17 and decodes 0.82 to 0.98"
    )


def test_scripts_get_every_figure(run: Run) -> None:
    document = json.loads(run("--json"))
    assert document["passed"] is False
    assert document["provenance"]["cores"] >= 1
    assert document["steadiness"] == {
        "1P+1D": {"prefill": pytest.approx([0.93, 1.17]), "decode": pytest.approx([0.82, 0.98])}
    }
    assert document["rows"][1] == {
        "topology": "1P+1D",
        "load": "shared",
        "requests": 123_456,
        "rate_rps": 9.0,
        "metric": "TPOT p90",
        "measured_s": 123.45678,
        "simulated_s": 1358.02458,
        "error": LARGE.error,
        "passed": False,
    }


def test_a_directory_keeps_every_piece_and_every_step_of_the_looks(run: Run, tmp_path: Path) -> None:
    there = tmp_path / "found"
    run("--output", str(there))
    assert json.loads((there / "validation.json").read_text())["rows"][0]["load"] == USUAL.load
    (line,) = (there / "pieces.jsonl").read_text().splitlines()
    piece = json.loads(line)
    assert piece["speeds"] == [[1.1, 0.9]]
    assert piece["simulated"] == {
        "prefill_s": 1.4, "decode_s": 2.6, "ttft_s": [0.1, 0.3], "tpot_s": [0.02, None]
    }  # fmt: skip
    line, _ = (there / "looks.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "topology": "1P+1D", "speed": [1.2, 0.8],
        "steps": [["prefill-0", 12.5, [[512, 0], [3, 64]], 2, 0.1, None]],
    }  # fmt: skip
