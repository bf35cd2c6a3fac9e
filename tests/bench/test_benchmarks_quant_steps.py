"""The benchmark of whole decode steps: floors count the bytes that kernels hold, and formats take turns."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
from benchmarks import floors, quant_steps
from rich.console import Console

from diptych.domain.cluster import WeightFormat

FORMATS: tuple[WeightFormat, ...] = ("same", "int8", "int4")
STREAM_BYTES_PER_S = 20e9
TAKES_S = {"diptych": 0.08, "diptych int8": 0.05, "diptych int4": 0.04}


@pytest.mark.parametrize("weights", FORMATS)
def test_a_map_has_as_many_bytes_as_the_kernels_hold(weights: WeightFormat) -> None:
    torch = pytest.importorskip("torch")
    from diptych.models.packing import Packing
    from support.native_library import native_kernels

    outputs, width_in = 96, 256
    packed = Packing(native_kernels(), weights).linear(torch.ones(outputs, width_in).bfloat16())
    assert floors.map_bytes(outputs, width_in, weights) == packed.weight.nbytes


def test_bytes_of_the_shape_by_hand() -> None:
    """596.0 million weights, 155.6 million in the head; a token of KV has 28 · 2 · 8 · 128 · 2 bytes."""
    assert [round(floors.weight_bytes(it) / 1e6) for it in FORMATS] == [1192, 598, 405]
    kv_bytes = floors.decode_bytes(8, 512, "int4") - floors.weight_bytes("int4")
    assert kv_bytes == 8 * 512 * 114_688


class Told:
    """A contender that takes as long as it is told, and the first time ten times as long."""

    asked: ClassVar[list[str]] = []

    def __init__(self, name: str) -> None:
        self.name, self.start, self._times = name, {"start_s": 1.0, "resident_bytes": 1}, 10

    @classmethod
    async def begin(cls, name: str, _: int) -> Told:
        return cls(name)

    async def ask(self, step: list[Any]) -> float:
        assert step == ["decode", 8, 512]
        self.asked.append(self.name)
        taken_s, self._times = self._times * TAKES_S[self.name], 1
        return taken_s

    async def end(self) -> None:
        self.asked.append(f"{self.name} ended")


class Steady:
    """A machine of a known speed."""

    def __init__(self, _: int) -> None:
        self.stream: list[float] = []

    def look(self) -> None:
        self.stream.append(STREAM_BYTES_PER_S)


async def test_formats_take_turns_and_are_told_beside_their_floors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("benchmarks.quant_steps.library", lambda: None)
    monkeypatch.setattr("benchmarks.quant_steps.Contender", Told)
    monkeypatch.setattr("benchmarks.quant_steps.Machine", Steady)
    monkeypatch.setattr("benchmarks.engine.REST_S", 0.0)
    monkeypatch.setattr("benchmarks.provenance.RESULTS_DIR", tmp_path)
    monkeypatch.setattr(Told, "asked", [])
    console = Console(file=io.StringIO(), width=120, record=True)
    await quant_steps.main(console, batches=(8,), rounds=3)

    names = list(TAKES_S)
    assert Told.asked == names * 3 + [f"{name} ended" for name in names]
    (written,) = tmp_path.glob("quant-steps-*.json")
    result = json.loads(written.read_text(encoding="utf-8"))
    (row,) = result["rows"]
    assert row["p50_s"] == dict(zip(FORMATS, TAKES_S.values(), strict=True))
    assert row["floor_s"]["int8"] == pytest.approx((598e6 + 8 * 512 * 114_688) / 20e9, rel=1e-3)
    assert {"commit", "command", "cpu", "date"} <= set(result["provenance"])
    shown = console.export_text()
    assert "8 × 512" in shown
    assert f"50.0 ({0.05 / row['floor_s']['int8']:.2f})" in shown
    assert "1.60" in shown and "2.00" in shown, "what int8 and int4 gain"
