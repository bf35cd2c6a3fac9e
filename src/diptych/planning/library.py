"""The package's data files, and a user's own: the hardware catalogue, model sizes by name or path,
efficiencies.

Knows: where the files lie. Does not know: their form (`diptych.performance` does).
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from diptych.builtin import builtin_model_dir
from diptych.domain.cluster import BUILTIN_MODEL
from diptych.domain.errors import SpecError
from diptych.performance.catalogue import Catalogue
from diptych.performance.catalogue_text import parse_catalogue
from diptych.performance.efficiencies import Fitted, parse_efficiencies
from diptych.performance.model_config import parse_model_sizes
from diptych.performance.model_file import ModelLibrary, parse_config_text
from diptych.performance.model_sizes import ModelSizes


def load_catalogue() -> Catalogue:
    """The hardware catalogue that ships with the package."""
    return parse_catalogue(_texts("hardware", ".toml"))


def load_efficiencies() -> Fitted:
    """The named efficiencies that ship with the package."""
    ((name, text),) = _texts("efficiencies", ".toml").items()
    return parse_efficiencies(text, name)


def load_model_library() -> ModelLibrary:
    """The known models that ship with the package."""
    return ModelLibrary(_texts("models", ".json"))


def load_model(name_or_path: str) -> ModelSizes:
    """Sizes of a known model, of 'builtin', or of a `config.json` (its path, or its directory's).

    Raises:
        SpecError: neither a known name (the nearest ones are named) nor a readable config.
    """
    if name_or_path == BUILTIN_MODEL:
        return _of_path(builtin_model_dir(), BUILTIN_MODEL)
    path = Path(name_or_path).expanduser()
    if path.exists():
        return _of_path(path, path.parent.name if path.name == "config.json" else path.stem)
    library = load_model_library()
    known = library.file(name_or_path)
    if known is not None:
        return known.sizes
    raise SpecError(
        f"unknown model {name_or_path!r}: {library.nearest(name_or_path)} "
        "Or give the path of a config.json or of its directory"
    )


def _of_path(path: Path, name: str) -> ModelSizes:
    file = path / "config.json" if path.is_dir() else path
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"cannot read the model's {file}: {error}") from error
    return parse_model_sizes(parse_config_text(text, str(file)), name, str(file))


def _texts(folder: str, ending: str) -> dict[str, str]:
    """Texts of the package's data files by name, in the order of their names."""
    found = files("diptych.performance").joinpath("data", folder).iterdir()
    wanted = sorted((item for item in found if item.name.endswith(ending)), key=lambda item: item.name)
    return {item.name: item.read_text(encoding="utf-8") for item in wanted}
