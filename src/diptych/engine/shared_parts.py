"""Parts of a model in a sealed memory file: packed by the first worker that comes, mapped by all.

Knows: how parts are written down and read back. Does not know: what the parts are for, processes.

The index is JSON: the key (what the weights were made from), and each part with its tensors' places. Types of
parts are found from their declarations, so nothing else can come out of an index.
"""

from __future__ import annotations

import ctypes
import typing
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import msgspec
import torch
from torch import Tensor

from diptych.domain.errors import Bug, SpecError
from diptych.models.family import Part
from diptych.models.mixture import Mixture
from diptych.models.mlp import GatedMlp
from diptych.transfer.sealed import Appender, DamagedFile, fill_once, map_sealed

Json = Any
"""What `msgspec.json` makes of JSON."""

Key = dict[str, str]
"""What weights are made from, subject by subject: equal keys, equal bytes."""

_PLACES = ("at", "dtype", "shape")


class _Index(msgspec.Struct, frozen=True):
    key: Key
    parts: list[Json]


@dataclass(frozen=True)
class SharedParts:
    """The parts of a model, all tensors in one read-only mapping."""

    parts: tuple[Part, ...]
    packed_here: bool
    """Whether this process wrote them."""
    size_bytes: int
    huge_bytes: int


def share_parts(fd: int, key: Key, parts: Iterable[Part]) -> SharedParts:
    """The parts in the memory file ``fd``. Only if nobody has written them yet, ``parts`` is read.

    Raises:
        SpecError: the file holds weights that were made from something else.
        DamagedFile: what it holds makes no sense.
    """
    packed_here = fill_once(fd, lambda appender: _write(appender, key, parts))
    mapping, encoded = map_sealed(fd)
    index = _decode(encoded)
    _check(index.key, key)
    read = _Reader(mapping.buffer)
    found = tuple(read.value(part) for part in index.parts)
    return SharedParts(found, packed_here, mapping.size_bytes, mapping.huge_bytes())


def _write(appender: Appender, key: Key, parts: Iterable[Part]) -> bytes:
    return msgspec.json.encode(_Index(key, [_Writer(appender).value(part) for part in parts]))


def _decode(encoded: bytes) -> _Index:
    try:
        return msgspec.json.decode(encoded, type=_Index)
    except msgspec.DecodeError as error:
        raise DamagedFile(f"the index of the shared weights cannot be read: {error}") from None


def _check(found: Key, wanted: Key) -> None:
    changed = sorted({subject for subject, _ in found.items() ^ wanted.items()})
    if changed:
        raise SpecError(
            f"changed since the other workers packed their weights: {', '.join(changed)}; start the cluster "
            "again to serve what is there now"
        )


class _Writer:
    """One part. A tensor that it holds twice is written once."""

    def __init__(self, appender: Appender) -> None:
        self._appender = appender
        self._written: dict[tuple[object, ...], int] = {}

    def value(self, value: object) -> Json:
        match value:
            case None | bool() | int() | float() | str():
                return value
            case Tensor():
                places = (self._place(value), str(value.dtype).removeprefix("torch."), tuple(value.shape))
                return dict(zip(_PLACES, places, strict=True))
            case tuple() | list():
                return [self.value(item) for item in typing.cast(Sequence[object], value)]
            case _ if type(value).__name__ in _TYPES and is_dataclass(value):
                return {
                    "is": type(value).__name__,
                    **{field.name: self.value(getattr(value, field.name)) for field in fields(value)},
                }
            case _:
                raise Bug(f"a {type(value).__name__} in the parts of a model cannot be shared")

    def _place(self, tensor: Tensor) -> int:
        same = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if same not in self._written:
            self._written[same] = self._appender.append(_bytes(tensor.contiguous()))
        return self._written[same]


class _Reader:
    """Parts over a mapping."""

    def __init__(self, buffer: memoryview) -> None:
        self._buffer = buffer

    def value(self, value: Json) -> Any:
        match value:
            case {"is": str(name), **values} if name in _TYPES:
                return _TYPES[name](**{field: self.value(item) for field, item in values.items()})
            case {"at": int(at), "dtype": str(dtype), "shape": list(shape)}:
                return self._tensor(at, dtype, typing.cast(list[int], shape))
            case dict():
                raise DamagedFile(f"the shared weights hold something unknown: {sorted(value)}")
            case list():
                return tuple(self.value(item) for item in typing.cast(list[Json], value))
            case _:
                return value

    def _tensor(self, at: int, dtype: str, shape: Sequence[int]) -> Tensor:
        count = torch.Size(shape).numel()
        with warnings.catch_warnings():  # torch cannot mark a tensor as read-only; the mapping can
            warnings.filterwarnings("ignore", "The given buffer is not writable")
            return torch.frombuffer(
                self._buffer, dtype=getattr(torch, dtype), count=count, offset=at
            ).reshape(shape)


def _bytes(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor; only while the tensor lives."""
    return memoryview((ctypes.c_char * tensor.nbytes).from_address(tensor.data_ptr()))


def _types_within(declared: object, found: dict[str, type]) -> Mapping[str, type]:
    """All dataclasses that ``declared`` names, by name, however deep."""
    if isinstance(declared, type) and is_dataclass(declared):
        if found.setdefault(declared.__name__, declared) is not declared:
            raise Bug(f"two types of parts are called {declared.__name__}")
        for kind in typing.get_type_hints(declared).values():
            _types_within(kind, found)
    for kind in typing.get_args(declared):
        _types_within(kind, found)
    return found


_TYPES = _types_within(Part | GatedMlp | Mixture, {})
