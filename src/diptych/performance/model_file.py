"""The library of known models: one JSON file each, found by name.

Knows: the form of the files (below), names, aliases and the suffixes that change no size. Does not know:
where the files lie (`diptych.planning.library` does).

    {"name": "llama-3.1-70b", "aliases": [...], "source": "...", "date": "2026-11", "confidence": "high",
     "note": "...", "published": {"parameters_b": 70.6, "active_b": ..., "source": "..."},
     "config": {the keys of config.json that decide sizes}}
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import cast

import msgspec

from diptych.domain.errors import SpecError
from diptych.performance.catalogue import nearest, plain_name
from diptych.performance.figures import Confidence
from diptych.performance.model_config import parse_model_sizes
from diptych.performance.model_sizes import ModelSizes

_SUFFIX = re.compile(
    r"[-_](instruct|chat|it|base|hf|fp8|nvfp4|mxfp4|fp4|awq|gptq|int4|int8|bf16|thinking|2507)$"
)
"""Endings of checkpoint names that say how a model was trained or is stored, not how large it is."""


class Published(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the publisher says, in billions: a check on the sizes, not an input to them."""

    parameters_b: float
    source: str
    active_b: float | None = None


class ModelFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of the library."""

    name: str
    source: str
    date: str
    confidence: Confidence
    published: Published
    config: dict[str, object]
    aliases: tuple[str, ...] = ()
    note: str = ""

    @property
    def sizes(self) -> ModelSizes:
        """The model's sizes, with the file's source and confidence."""
        sizes = parse_model_sizes(self.config, self.name, self.source)
        return msgspec.structs.replace(sizes, confidence=self.confidence.value)


class ModelLibrary:
    """Known models by name. Look-ups ignore case, publisher, separators and suffixes such as '-Instruct'."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._files: dict[str, ModelFile] = {}
        self._by_name: dict[str, str] = {}
        for file, text in texts.items():
            model = _parse(file, text)
            self._files[model.name] = model
            for name in (model.name, *model.aliases):
                other = self._by_name.setdefault(plain_name(name), model.name)
                if other != model.name:
                    raise SpecError(f"{file}: {name!r} names both {other} and {model.name}")

    @property
    def names(self) -> tuple[str, ...]:
        """Canonical names."""
        return tuple(self._files)

    def file(self, name: str) -> ModelFile | None:
        """The file of the model called ``name``, or None."""
        for spelling in _spellings(name):
            found = self._by_name.get(plain_name(spelling))
            if found is not None:
                return self._files[found]
        return None

    def nearest(self, name: str) -> str:
        """Words for an error: the known names nearest to ``name``."""
        known = {alias: file.name for file in self._files.values() for alias in (file.name, *file.aliases)}
        return nearest(_spellings(name)[-1], known)


def _spellings(name: str) -> list[str]:
    """``name`` without its publisher, and then without one suffix after the other."""
    spellings = [name.rstrip("/").rsplit("/", 1)[-1]]
    while match := _SUFFIX.search(spellings[-1].casefold()):
        spellings.append(spellings[-1][: match.start()])
    return spellings


def _parse(file: str, text: str) -> ModelFile:
    try:
        return msgspec.json.decode(text, type=ModelFile)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise SpecError(f"{file}: {error}") from error


def parse_config_text(text: str, source: str) -> Mapping[str, object]:
    """A `config.json` as a dictionary; SpecError if it is not a JSON object."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise SpecError(f"{source}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise SpecError(f"{source}: must be a JSON object")
    return cast("Mapping[str, object]", value)
