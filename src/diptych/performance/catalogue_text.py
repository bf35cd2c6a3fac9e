"""The hardware catalogue's data files: TOML text to chips.

Knows: the form below, units, what is an error. Does not know: where the files lie.

One file holds one or more chips:

    [chips."H100-SXM"]
    aliases = ["h100", "h100_sxm"]
    vendor = "NVIDIA"
    unit = "chip"                # chip, card, socket or system
    role = "both"
    source = "…"                 # source, date and confidence of every figure that does not name its own
    date = "2026-11"
    confidence = "high"
    bf16 = { value = 989, unit = "TFLOP/s", note = "…" }
    fp4 = { supported = false }  # a fact: the hardware lacks the format
    scaleup_kind = "NVLink node"
    notes = ["…"]
    [[chips."H100-SXM".tiers]]
    level = "hbm"
    kind = "HBM3"
    main = true
    capacity = { value = 80, unit = "GB" }
    visible = { value = 81559, unit = "MiB", source = "…", confidence = "medium" }

A figure that is not there is unknown.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Any, cast, get_args

from diptych.domain.errors import SpecError
from diptych.performance.catalogue import Catalogue
from diptych.performance.chip import Chip, Level, Tier, Unit
from diptych.performance.figures import UNITS, Confidence, Figure, NotSupported

_RATES = ("bf16", "fp8", "fp4")
_FIGURES = {
    "bf16": "FLOP/s",
    "fp8": "FLOP/s",
    "fp4": "FLOP/s",
    "scaleup": "B/s",
    "scaleup_domain": "chips",
    "nic": "B/s",
    "tdp": "W",
    "prompt_power": "W",
    "token_power": "W",
    "idle_power": "W",
    "price_low": "USD",
    "price_high": "USD",
    "rent_low": "USD/h",
    "rent_high": "USD/h",
}
"""Figure of a chip -> base unit that it must have."""

_TEXTS = ("vendor", "unit", "role", "source", "date", "confidence")
_CHIP_KEYS = {*_FIGURES, *_TEXTS, "aliases", "scaleup_kind", "notes", "tiers"}
_TIER_KEYS = {"level", "kind", "main", "capacity", "visible", "bandwidth", "note"}
_FIGURE_KEYS = {"value", "unit", "supported", "source", "date", "confidence", "note"}
_LEVELS: tuple[Level, ...] = get_args(Level)
_UNITS: tuple[Unit, ...] = get_args(Unit)


def parse_catalogue(texts: Mapping[str, str]) -> Catalogue:
    """The catalogue of TOML ``texts`` by file name.

    Raises:
        SpecError: bad TOML, an unknown key, a wrong unit, a name given twice; names file, chip and key.
    """
    chips: list[Chip] = []
    for file, text in texts.items():
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise SpecError(f"{file}: not TOML: {error}") from error
        entries = _table(document.get("chips"), f"{file}: 'chips'")
        for name, entry in entries.items():
            chips.append(_chip(name, _table(entry, f"{file}: {name}"), f"{file}: {name}"))
    return Catalogue(chips)


def _chip(name: str, entry: Mapping[str, object], where: str) -> Chip:
    _refuse_unknown(entry, _CHIP_KEYS, where)
    for key in _TEXTS:
        if not isinstance(entry.get(key), str):
            raise SpecError(f"{where}: needs the text {key!r}")
    figures: dict[str, Any] = {key: _figure(entry, key, base, entry, where) for key, base in _FIGURES.items()}
    for key, figure in figures.items():
        if isinstance(figure, NotSupported) and key not in _RATES:
            raise SpecError(f"{where}: {key!r} cannot be 'supported = false'; only {', '.join(_RATES)} can")
    rows = entry.get("tiers", [])
    tables = [_table(row, f"{where}: tiers") for row in cast("list[object]", rows)]
    main: list[Level] = [_level(row, where) for row in tables if row.get("main")]
    if len(main) != 1:
        raise SpecError(f"{where}: exactly one tier must say 'main = true', not {len(main)}")
    return Chip(
        name=name,
        aliases=_strings(entry, "aliases"),
        vendor=str(entry["vendor"]),
        unit=_unit(entry["unit"], where),
        role=str(entry["role"]),
        tiers=tuple(_tier(row, entry, where) for row in tables),
        main_level=main[0],
        scaleup_kind=str(entry.get("scaleup_kind", "")),
        notes=_strings(entry, "notes"),
        **figures,
    )


def _tier(row: Mapping[str, object], entry: Mapping[str, object], where: str) -> Tier:
    _refuse_unknown(row, _TIER_KEYS, f"{where}: tiers")
    return Tier(
        level=_level(row, where),
        kind=str(row.get("kind", "")),
        capacity=_known(row, "capacity", "B", entry, where),
        visible=_known(row, "visible", "B", entry, where),
        bandwidth=_known(row, "bandwidth", "B/s", entry, where),
        note=str(row.get("note", "")),
    )


def _unit(value: object, where: str) -> Unit:
    for unit in _UNITS:
        if value == unit:
            return unit
    raise SpecError(f"{where}: unit {value!r} is not one of {', '.join(_UNITS)}")


def _level(row: Mapping[str, object], where: str) -> Level:
    for level in _LEVELS:
        if row.get("level") == level:
            return level
    raise SpecError(f"{where}: tier level {row.get('level')!r} is not one of {', '.join(_LEVELS)}")


def _known(
    row: Mapping[str, object], key: str, base: str, entry: Mapping[str, object], where: str
) -> Figure | None:
    figure = _figure(row, key, base, entry, where)
    if isinstance(figure, NotSupported):
        raise SpecError(f"{where}: {key!r} cannot be 'supported = false'")
    return figure


def _figure(
    row: Mapping[str, object], key: str, base: str, entry: Mapping[str, object], where: str
) -> Figure | NotSupported | None:
    if key not in row:
        return None
    item = _table(row[key], f"{where}: {key!r}")
    _refuse_unknown(item, _FIGURE_KEYS, f"{where}: {key}")
    source, date = (str(item.get(name, entry[name])) for name in ("source", "date"))
    confidence = _confidence(item.get("confidence", entry["confidence"]), where)
    note = str(item.get("note", ""))
    if item.get("supported") is False:
        return NotSupported(source=source, date=date, confidence=confidence, note=note)
    value, unit = item.get("value"), item.get("unit")
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise SpecError(f"{where}: {key!r} needs a positive 'value' (leave it out if it is unknown)")
    if not isinstance(unit, str) or UNITS.get(unit, ("", 0.0))[0] != base:
        fitting = ", ".join(name for name, (of, _) in UNITS.items() if of == base)
        raise SpecError(f"{where}: {key!r} has the unit {unit!r}; it must be one of {fitting}")
    return Figure(value=float(value), unit=unit, source=source, date=date, confidence=confidence, note=note)


def _confidence(value: object, where: str) -> Confidence:
    for confidence in Confidence:
        if value == confidence:
            return confidence
    raise SpecError(f"{where}: confidence {value!r} is not one of {', '.join(Confidence)}")


def _strings(entry: Mapping[str, object], key: str) -> tuple[str, ...]:
    value = entry.get(key, [])
    if not isinstance(value, list):
        raise SpecError(f"{key!r} must be a list of texts")
    return tuple(str(item) for item in cast("list[object]", value))


def _table(value: object, where: str) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise SpecError(f"{where} must be a table")
    return cast("Mapping[str, object]", value)


def _refuse_unknown(row: Mapping[str, object], known: set[str], where: str) -> None:
    for key in row:
        if key not in known:
            raise SpecError(f"{where}: unknown key {key!r} (known: {', '.join(sorted(known))})")
