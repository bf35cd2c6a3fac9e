"""A decoder from a directory.

Knows: the steps of loading. Does not know: who runs the model, whether its parts are shared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

import torch

from diptych.domain.cluster import WeightFormat
from diptych.domain.errors import Bug
from diptych.kernels.seam import Kernels
from diptych.models.decoder import Decoder, decoder_parts
from diptych.models.dummy import DummyWeights
from diptych.models.family import Layer, Outer, Part, Unused
from diptych.models.packing import Packing
from diptych.models.registry import FAMILIES
from diptych.models.weights import Checkpoint
from diptych.performance.model_shape import ModelShape

LoadFormat = Literal["auto", "dummy"]

Through = Callable[[Iterator[Part]], Iterable[Part]]
"""Something between reading parts and using them. Reading begins when the first part is asked for."""


def load_decoder(
    model_dir: Path,
    shape: ModelShape,
    kernels: Kernels,
    *,
    dtype: torch.dtype,
    device: torch.device,
    load_format: LoadFormat = "auto",
    weights: WeightFormat = "same",
    seed: int = 0,
    through: Through = iter,
) -> tuple[Decoder, tuple[str, ...]]:
    """The model and the names of checkpoint tensors that it has no use for.

    Raises:
        SpecError: a tensor is missing, misshapen or unreadable.
    """
    packing = Packing(kernels, weights)
    if load_format == "dummy":
        parts = _dummy_parts(shape, packing, DummyWeights(seed, dtype, device))
    else:
        parts = _checkpoint_parts(shape, packing, Checkpoint(model_dir, dtype, device))
    return _assemble(shape, kernels, through(parts))


def _dummy_parts(shape: ModelShape, packing: Packing, source: DummyWeights) -> Iterator[Part]:
    yield from decoder_parts(shape, FAMILIES[shape.architecture], packing, source)


def _checkpoint_parts(shape: ModelShape, packing: Packing, source: Checkpoint) -> Iterator[Part]:
    with source as checkpoint:
        yield from decoder_parts(shape, FAMILIES[shape.architecture], packing, checkpoint)
        tied_copy = {"lm_head.weight"} if shape.tie_embeddings else set[str]()
        yield Unused(tuple(name for name in checkpoint.unused() if name not in tied_copy))


def _assemble(shape: ModelShape, kernels: Kernels, parts: Iterable[Part]) -> tuple[Decoder, tuple[str, ...]]:
    outer: Outer | None = None
    layers: list[Layer] = []
    unused: tuple[str, ...] = ()
    for part in parts:
        match part:
            case Outer():
                outer = part
            case Layer():
                layers.append(part)
            case Unused():
                unused = part.names
    if outer is None or len(layers) != shape.layers:
        raise Bug(f"parts of {len(layers)} layers for a model of {shape.layers}")
    family = FAMILIES[shape.architecture]
    return Decoder(shape, family, kernels, outer.embedding_VD, layers, outer.norm_D, outer.head), unused
