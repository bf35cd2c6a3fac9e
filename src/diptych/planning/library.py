"""The package's data files, and a user's own: hardware catalogue and model sizes by name.

Knows: where the files lie. Does not know: their form (`diptych.performance` does).
"""

from __future__ import annotations

from importlib.resources import files

from diptych.performance.catalogue import Catalogue
from diptych.performance.catalogue_text import parse_catalogue

_DATA = files("diptych.performance").joinpath("data")


def load_catalogue() -> Catalogue:
    """The hardware catalogue that ships with the package."""
    folder = _DATA.joinpath("hardware")
    found = sorted((item for item in folder.iterdir() if item.name.endswith(".toml")), key=lambda it: it.name)
    return parse_catalogue({item.name: item.read_text(encoding="utf-8") for item in found})
