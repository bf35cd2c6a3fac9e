"""From a model's name to its directory and shape. Loads no torch.

Knows: the built-in model, directories, the Hugging Face hub. Does not know: weights.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diptych.builtin import builtin_model_dir
from diptych.domain.cluster import BUILTIN_MODEL
from diptych.domain.errors import SpecError
from diptych.performance.model_shape import ModelShape, parse_model_shape

HUB_FILES = ("*.safetensors", "*.json", "tokenizer.model", "*.jinja")
"""What is fetched from the hub: weights, configs, tokeniser, chat template. Never executable code."""


def resolve_model_dir(name: str) -> Path:
    """The local directory of a model: 'builtin', an existing directory, or a hub name (fetched if need be).

    The hub is asked with the token in `HF_TOKEN`, and not at all if `HF_HUB_OFFLINE` is set.

    Raises:
        SpecError: there is no such model, or it cannot be fetched; says what to do.
    """
    if name == BUILTIN_MODEL:
        return builtin_model_dir()
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise SpecError(f"model directory {name!r} does not exist")
    return _fetch(name)


def read_model_shape(model_dir: Path) -> ModelShape:
    """Shape of the model in a directory, EOS ids of its `generation_config.json` included.

    Raises:
        SpecError: config.json is missing, is not JSON, or describes a model that is not supported.
    """
    config = _read_json(model_dir / "config.json")
    generation = model_dir / "generation_config.json"
    return parse_model_shape(
        config, str(model_dir / "config.json"), _read_json(generation) if generation.is_file() else None
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        raise SpecError(f"{path} is missing: a model directory needs it") from None
    except OSError as error:
        raise SpecError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise SpecError(f"{path} must hold a JSON object")
    return value


def _fetch(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError:
        raise SpecError(
            f"model {name!r} is no directory, and the hub needs: pip install 'diptych[engine]'"
        ) from None
    try:
        return Path(snapshot_download(name, allow_patterns=list(HUB_FILES)))
    except HFValidationError:
        raise SpecError(f"model {name!r} is neither a directory nor a valid hub name") from None
    except HfHubHTTPError as error:
        raise SpecError(
            f"model {name!r} cannot be fetched from the hub: {_first_line(error)} "
            "(check the name; for a gated or private model set HF_TOKEN)"
        ) from None
    except OSError as error:  # no network, HF_HUB_OFFLINE without a cached copy, disk full
        raise SpecError(
            f"model {name!r} is no directory and cannot be fetched from the hub: {_first_line(error)} "
            "(give a local directory, or fetch it once while online)"
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]
