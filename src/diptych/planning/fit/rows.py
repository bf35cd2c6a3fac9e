"""Measured silicon rows: what each says about its engine and load.

Knows: columns of `silicon_sample_train.csv`. Does not know: efficiencies, the fit.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from diptych.domain.errors import SpecError
from diptych.performance.catalogue import Catalogue
from diptych.performance.chip import PRECISIONS, Chip, Precision
from diptych.performance.model_sizes import ModelSizes
from diptych.performance.work import Layout, Recipe, recipe
from diptych.planning.library import load_catalogue, load_model

FILE = "validation/silicon_sample_train.csv"

STANDARD = frozenset({("1024", "1024"), ("1024", "8192"), ("8192", "1024")})
"""Prompt and output lengths of InferenceMAX, whose bench is published. Rows of other lengths come from
benches
that nobody describes; they are taken as of fixed lengths."""

MEAN_LENGTH = 0.9
"""Mean over nominal length there: uniform from 0.8 of it (InferenceMAX README, RANDOM_RANGE_RATIO 0.8; a
copy read
in 2026-11)."""

ROUNDS = 10.0
"""Requests per client there (the same README: --num-prompts 10 · concurrency)."""


@dataclass(frozen=True, slots=True)
class Row:
    """One measured point of one engine."""

    row_id: str
    group: str
    engine: str
    version: str
    model: ModelSizes
    chip: Chip
    layout: Layout
    recipe: Recipe
    clients: float
    prompt: float
    output: float
    workers: float
    """Engines of the stage, one for aggregated rows."""
    rounds: float | None
    """Requests per client, where known."""
    ttft_s: float
    tpot_s: float
    fields: dict[str, str]


def read_csv(path: Path) -> list[dict[str, str]]:
    """All rows as text.

    Raises:
        SpecError: no such file, or a column is missing.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise SpecError(f"--data: cannot read {path}: {error}") from error
    if not rows or "tpot_ms" not in rows[0]:
        raise SpecError(f"{path}: no rows, or no column 'tpot_ms'")
    return rows


def aggregated(path: Path) -> list[Row]:
    """Rows of engines that do both phases, quality ok."""
    return _rows(path, "agg", "")


def disaggregated(path: Path) -> tuple[list[Row], list[Row]]:
    """Prefill and decode engines of rows with worker counts, quality ok; ``clients`` are those of one
    worker."""
    return _rows(path, "disagg", "prefill_"), _rows(path, "disagg", "decode_")


def _rows(path: Path, mode: str, stage: str) -> list[Row]:
    chips, models = load_catalogue(), dict[str, ModelSizes]()
    found: list[Row] = []
    for fields in read_csv(path):
        if fields["mode"] != mode or fields["quality"] != "ok":
            continue
        name = fields["arch"]
        if name not in models:
            models[name] = load_model(name)
        found.append(_row(fields, models[name], chips, stage))
    return found


def _row(it: dict[str, str], model: ModelSizes, chips: Catalogue, stage: str) -> Row:
    chip = chips.chip(it["system"])
    layout = layout_of(it, stage)
    weight_only = it["precision"] == "int4"
    precision = "fp4" if weight_only else it["precision"]
    if precision not in PRECISIONS:
        raise SpecError(f"{it['row_id']}: precision {precision!r} is none of {', '.join(PRECISIONS)}, int4")
    stored = cast("Precision", precision)
    kv = "bf16" if stored == "bf16" else "fp8"
    standard = (it["isl"], it["osl"]) in STANDARD
    length = MEAN_LENGTH if standard else 1.0
    workers = float(it[f"{stage}workers"] or 1) if stage else 1.0
    return Row(
        row_id=it["row_id"],
        group=it["group"],
        engine=it["backend"],
        version=it["backend_version"],
        model=model,
        chip=chip,
        layout=layout,
        recipe=recipe(model, chip, stored, kv, weight_only=weight_only),
        clients=float(it["concurrency"]) / workers,
        prompt=float(it["isl"]) * length,
        output=float(it["osl"]) * length,
        workers=workers,
        rounds=ROUNDS if standard else None,
        ttft_s=float(it["ttft_ms"]) / 1e3,
        tpot_s=float(it["tpot_ms"]) / 1e3,
        fields=it,
    )


def layout_of(it: dict[str, str], stage: str = "") -> Layout:
    """Chips are the larger of attention's and the experts' product; tensor ranks are what dp leaves of
    them."""
    tp, dp, moe_tp, ep = (int(it[f"{stage}{key}"] or 1) for key in ("tp", "attn_dp", "moe_tp", "moe_ep"))
    chips = max(tp * dp, moe_tp * ep)
    return Layout(tp=chips // dp, pp=int(it[f"{stage}pp"] or 1), dp=dp, ep=ep)
