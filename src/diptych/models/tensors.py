"""Where the tensors of a model come from, and how a layer's are asked for.

Knows: names, expected shapes, merging maps of one input. Does not know: files, what tensors are for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from diptych.kernels.seam import PackedLinear
from diptych.models.family import Family, TensorShapes
from diptych.models.packing import Packing
from diptych.performance.model_shape import ModelShape


class TensorSource:
    """Where a decoder's tensors come from; one at a time, in the wanted dtype and on the wanted device."""

    def take(self, name: str, expected: tuple[int, ...]) -> Tensor:
        """The tensor ``name`` of shape ``expected``. Raises `SpecError` if there is no such tensor."""
        raise NotImplementedError


class FamilyWeights(TensorSource):
    """The tensors of another source, made what the shared operations expect."""

    def __init__(self, source: TensorSource, shape: ModelShape, family: Family) -> None:
        self._source = source
        self._shape = shape
        self._family = family

    def take(self, name: str, expected: tuple[int, ...]) -> Tensor:
        """See `TensorSource.take`."""
        return self._family.weight(self._shape, name, self._source.take(name, expected))


class LayerTensors(Mapping[str, Tensor]):
    """The tensors of one layer, by their names within it.

    Each is taken when it is asked for, and not kept: what has been packed need not stay as it was.
    """

    def __init__(self, source: TensorSource, prefix: str, shapes: TensorShapes) -> None:
        self._source = source
        self._prefix = prefix
        self._shapes = {name.removeprefix(prefix): size for name, size in shapes.items()}

    def __getitem__(self, name: str) -> Tensor:
        return self._source.take(self._prefix + name, self._shapes[name])

    def __contains__(self, name: object) -> bool:
        return name in self._shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def merge(packing: Packing, tensors: Mapping[str, Tensor], names: Sequence[str]) -> PackedLinear:
    """Several linear maps of one input as one."""
    weight = torch.cat([tensors[f"{name}.weight"] for name in names])
    biases = [tensors[f"{name}.bias"] for name in names if f"{name}.bias" in tensors]
    return packing.linear(weight, torch.cat(biases) if biases else None)
