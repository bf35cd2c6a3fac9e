"""The catalogue: its figures are those of the shared table or say why not; unknown is not unsupported."""

from __future__ import annotations

import csv

import msgspec
import pytest

from diptych.domain.errors import SpecError
from diptych.performance.catalogue import Catalogue
from diptych.performance.catalogue_text import parse_catalogue
from diptych.performance.chip import MATTERS_FOR, Chip
from diptych.performance.figures import Figure, FormatNotSupported, MissingFigure, NotSupported, Rate
from diptych.performance.work import Layout, recipe, room
from diptych.planning.library import load_catalogue, load_model
from support.shared_data import data_file

CATALOGUE = load_catalogue()

DEVIATIONS = {("TPU v5e", "scaleup_uni_gb_s"), ("TPU v6e", "scaleup_uni_gb_s")}
"""Cells of hardware.csv that the vendor's own pages contradict; the entries' notes say how."""


def figures(chip: Chip) -> dict[str, Rate]:
    """The chip's figures by column of hardware.csv, without the domain (a count)."""
    main, sram = chip.main, chip.tier("sram")
    return {
        "bf16_dense_tflops": chip.bf16,
        "fp8_dense_tflops": chip.fp8,
        "fp4_dense_tflops": chip.fp4,
        "mem_gb": main.capacity,
        "mem_bw_gb_s": main.bandwidth,
        "sram_mb": sram.capacity if sram and sram is not main else None,
        "scaleup_uni_gb_s": chip.scaleup,
        "scaleup_domain_chips": chip.scaleup_domain,
        "nic_gbit_s": chip.nic,
        "tdp_w": chip.tdp,
        "price_usd_low": chip.price_low,
        "price_usd_high": chip.price_high,
        "rent_usd_hr_low": chip.rent_low,
        "rent_usd_hr_high": chip.rent_high,
    }


def test_every_row_of_the_shared_table() -> None:
    with data_file("hardware.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 36
    for row in rows:
        chip = CATALOGUE.chip(row["name"])
        assert (chip.vendor, chip.unit) == (row["vendor"], row["unit"])
        for column, figure in figures(chip).items():
            cell, where = row[column], (row["name"], column)
            if column == "sram_mb" and chip.main_level == "sram":
                continue  # it is the main tier, in mem_gb
            if where in DEVIATIONS:
                assert isinstance(figure, Figure) and "hardware.csv" in figure.note, where
            elif cell == "":
                assert figure is None, where
            elif float(cell) == 0:
                assert isinstance(figure, NotSupported), where
            else:
                assert isinstance(figure, Figure) and figure.value == float(cell), where


def test_every_figure_says_where_it_comes_from() -> None:
    for chip in CATALOGUE:
        for figure in figures(chip).values():
            if figure is not None:
                assert figure.source and len(figure.date) == 7 and figure.confidence, chip.name


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("h100", "H100-SXM"),
        ("H100-SXM", "H100-SXM"),
        ("h100_sxm", "H100-SXM"),
        ("b200_sxm", "B200-SXM"),
        ("b300_sxm", "B300-SXM"),
        ("h200_sxm", "H200-SXM"),
        ("gb200", "GB200 (per GPU)"),
        ("gb300", "GB300 (per GPU)"),
        ("a100-80gb", "A100-80-SXM"),
        ("RTX4090", "RTX 4090"),
        ("RTXPRO6000", "RTX PRO 6000 Blackwell Server"),
        ("mi300x", "MI300X"),
        ("gaudi-3", "Gaudi 3 (OAM)"),
        ("tpu-v7", "TPU v7 (Ironwood)"),
        ("trn2", "Trainium2"),
        ("LP30", "LP30 (Groq 3 LPU)"),
        ("wse-3", "WSE-3 (CS-3)"),
        ("dgx spark", "DGX Spark (GB10)"),
    ],
)
def test_names_of_other_tools(name: str, canonical: str) -> None:
    assert CATALOGUE.chip(name).name == canonical


def test_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(SpecError, match=r"unknown hardware 'h1000'.*H100-SXM"):
        CATALOGUE.chip("h1000")
    with pytest.raises(SpecError, match="known: MI300X, "):
        CATALOGUE.chip("zzzzzz")


def test_units_by_hand() -> None:
    """H100: 989 TFLOP/s, 3.35 TB/s, 80 GB, 400 Gbit/s = 50 GB/s."""
    h100 = CATALOGUE.chip("h100")
    assert h100.peak_flops("bf16") == 989e12
    assert h100.bandwidth_bytes_per_s == 3.35e12
    assert h100.memory_bytes == 80e9
    assert h100.nic_bytes_per_s == 50e9
    assert h100.scaleup_bytes_per_s == 450e9 and h100.scaleup_chips == 8
    assert h100.tdp_w == 700


def test_unsupported_is_not_unknown() -> None:
    a100, sn50, lp30 = (CATALOGUE.chip(name) for name in ("a100", "sn50", "lp30"))
    assert a100.supports("fp8") is False and lp30.supports("bf16") is None
    with pytest.raises(FormatNotSupported, match=r"does not compute in fp8 .*bf16"):
        a100.peak_flops("fp8")
    with pytest.raises(
        MissingFigure, match="bf16_flops is not published; it matters for the time of prefill"
    ):
        lp30.peak_flops("bf16")
    with pytest.raises(MissingFigure, match="tdp_w is not published; it matters for power"):
        _ = sn50.tdp_w


def test_weights_are_multiplied_in_the_next_wider_format() -> None:
    assert CATALOGUE.chip("a100").compute_precision("fp4") == "bf16"
    assert CATALOGUE.chip("h100").compute_precision("fp4") == "fp8"
    assert CATALOGUE.chip("b200").compute_precision("fp4") == "fp4"
    a100 = CATALOGUE.chip("a100")
    with pytest.raises(FormatNotSupported, match="neither fp4 nor a wider"):
        msgspec.structs.replace(a100, bf16=a100.fp8).compute_precision("fp4")


def test_missing_figures_are_reported_with_their_reason() -> None:
    missing = {item.figure: item.matters_for for item in CATALOGUE.chip("sn50").missing()}
    assert {"tdp_w", "nic_bytes_per_s", "scaleup_bytes_per_s", "rent_usd_per_h"} == set(missing)
    assert all(missing[name] == MATTERS_FOR[name] for name in missing)
    assert CATALOGUE.chip("a100").missing() == ()


def test_tiers() -> None:
    sn40l, groq, b200 = (CATALOGUE.chip(name) for name in ("sn40l", "groq", "b200"))
    assert [tier.level for tier in sn40l.tiers] == ["sram", "hbm", "ddr"]
    ddr = sn40l.tier("ddr")
    assert ddr and ddr.capacity and ddr.capacity.base == 1.5e12
    assert groq.main_level == "sram" and groq.memory_bytes == 0.23e9
    assert b200.tier("ddr") is None


def test_what_programs_find_of_the_memory() -> None:
    """L40S: 48 GB on the sheet, 46,068 MiB to programs; of an H800 only the sheet is known."""
    l40s, b200, h800 = (CATALOGUE.chip(name) for name in ("L40S", "B200-SXM", "H800-SXM"))
    assert (l40s.memory_bytes, l40s.visible_bytes) == (48e9, 46_068 * 1024**2)
    assert b200.visible_bytes > b200.memory_bytes, "its 180 GB are binary ones"
    assert h800.main.visible is None and h800.visible_bytes == h800.memory_bytes
    for chip in CATALOGUE:
        for tier in chip.tiers:
            if (visible := tier.visible) is not None:
                assert tier.capacity is not None, chip.name
                assert 0.95 < visible.base / tier.capacity.base < 1.1, chip.name
                assert visible.source not in ("", tier.capacity.source), "a sheet does not say it"


def test_memory_that_programs_find_is_what_models_fill() -> None:
    l40s, model = CATALOGUE.chip("L40S"), load_model("llama-3.1-8b")
    space = room(model, l40s, Layout(), recipe(model, l40s, "bf16", "bf16"))
    assert space.memory_bytes == l40s.visible_bytes


GOOD = """
[chips.X]
vendor = "V"
unit = "chip"
role = "both"
source = "S"
date = "2026-11"
confidence = "high"
{figure}
[[chips.X.tiers]]
level = "hbm"
main = true
capacity = {{ value = 1, unit = "GB" }}
"""


def parse(figure: str) -> Catalogue:
    return parse_catalogue({"x.toml": GOOD.format(figure=figure)})


def test_a_figure_may_have_its_own_source() -> None:
    chip = parse('bf16 = { value = 1.5, unit = "TFLOP/s", source = "T", confidence = "low" }').chip("x")
    assert isinstance(chip.bf16, Figure)
    assert (chip.bf16.source, chip.bf16.confidence, chip.bf16.date) == ("T", "low", "2026-11")
    assert chip.peak_flops("bf16") == 1.5e12


@pytest.mark.parametrize(
    ("figure", "message"),
    [
        ('bf17 = { value = 1, unit = "TFLOP/s" }', "unknown key 'bf17'"),
        ('bf16 = { value = 1, unit = "GB/s" }', "'bf16' has the unit 'GB/s'; it must be one of TFLOP/s"),
        ('bf16 = { value = 0, unit = "TFLOP/s" }', "positive 'value'"),
        ("tdp = { supported = false }", "'tdp' cannot be"),
        ('bf16 = { value = 1, unit = "TFLOP/s", confidence = "sure" }', "confidence 'sure'"),
        ("bf16 = 3", "'bf16' must be a table"),
        ("= 3", "x.toml: not TOML"),
    ],
)
def test_bad_data_names_file_chip_and_key(figure: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse(figure)


def test_two_chips_cannot_share_a_name() -> None:
    text = GOOD.format(figure='aliases = ["y"]')
    other = text.replace("chips.X", "chips.Y")
    with pytest.raises(SpecError, match="names both"):
        parse_catalogue({"x.toml": text, "y.toml": other})
