"""Tensors from safetensors files, one at a time.

Knows: single and sharded checkpoints, and how to say what is wrong with one. Does not know: what the tensors
are for.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from diptych.domain.errors import SpecError
from diptych.models.tensors import TensorSource

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
REMEDY = "fetch the checkpoint again, or check that config.json belongs to it"

_IGNORED_SUFFIXES = ("rotary_emb.inv_freq",)
"""Buffers that old checkpoints carry and that follow from the config."""


class Checkpoint(TensorSource):
    """The tensors of a model directory. A context manager: files stay open while it is."""

    def __init__(self, model_dir: Path, dtype: torch.dtype, device: torch.device) -> None:
        self._dir = model_dir
        self._dtype = dtype
        self._device = device
        self._stack = ExitStack()
        self._open: dict[Path, Any] = {}
        self._taken: set[str] = set()
        self._file_of: dict[str, Path] = {}

    def __enter__(self) -> Checkpoint:
        self._file_of = _locate(self._dir, self._names)
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()
        self._open.clear()

    def take(self, name: str, expected: tuple[int, ...]) -> Tensor:
        """The tensor ``name``, cast and moved.

        Raises:
            SpecError: it is missing, has another shape than ``expected``, or its file is damaged.
        """
        path = self._file_of.get(name)
        if path is None:
            raise SpecError(f"{self._dir} lacks tensor {name!r} of shape {list(expected)}; {REMEDY}")
        found = tuple(self._read(path, lambda file: file.get_slice(name).get_shape()))
        if found != expected:
            raise SpecError(
                f"{path}: tensor {name!r} has shape {list(found)}, expected {list(expected)}; {REMEDY}"
            )
        self._taken.add(name)
        tensor: Tensor = self._read(path, lambda file: file.get_tensor(name))
        return tensor.to(device=self._device, dtype=self._dtype)

    def unused(self) -> tuple[str, ...]:
        """Tensors that the files hold and nobody took, sorted."""
        rest = set(self._file_of) - self._taken
        return tuple(sorted(name for name in rest if not name.endswith(_IGNORED_SUFFIXES)))

    def _names(self, path: Path) -> list[str]:
        return self._read(path, lambda file: list(file.keys()))

    def _read(self, path: Path, read: Callable[[Any], Any]) -> Any:
        try:
            if path not in self._open:
                self._open[path] = self._stack.enter_context(safe_open(path, framework="pt"))
            return read(self._open[path])
        except FileNotFoundError:
            raise SpecError(f"{path} is missing; {REMEDY}") from None
        except SafetensorError as error:
            raise SpecError(f"{path} is damaged or lacks a tensor ({error}); {REMEDY}") from None


def _locate(model_dir: Path, names: Callable[[Path], list[str]]) -> dict[str, Path]:
    """Tensor name → file that holds it."""
    index = model_dir / INDEX_FILE
    if index.is_file():
        return {name: model_dir / file for name, file in _weight_map(index).items()}
    single = model_dir / SINGLE_FILE
    if not single.is_file():
        raise SpecError(
            f"{model_dir} holds neither {SINGLE_FILE} nor {INDEX_FILE} (only safetensors is read)"
        )
    return dict.fromkeys(names(single), single)


def _weight_map(index: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(index.read_text())["weight_map"]
    except (ValueError, KeyError, TypeError):
        raise SpecError(f"{index} has no readable 'weight_map'; {REMEDY}") from None
    if not isinstance(weight_map, dict) or any("/" in str(file) for file in weight_map.values()):
        raise SpecError(f"{index}: 'weight_map' must map tensor names to files beside it")
    return weight_map
