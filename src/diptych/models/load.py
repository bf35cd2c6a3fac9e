"""A decoder from a directory.

Knows: the steps of loading. Does not know: who runs the model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from diptych.kernels.seam import Kernels
from diptych.models.decoder import Decoder, build_decoder
from diptych.models.dummy import DummyWeights
from diptych.models.registry import FAMILIES
from diptych.models.weights import Checkpoint
from diptych.performance.model_shape import ModelShape

LoadFormat = Literal["auto", "dummy"]


def load_decoder(
    model_dir: Path,
    shape: ModelShape,
    kernels: Kernels,
    *,
    dtype: torch.dtype,
    device: torch.device,
    load_format: LoadFormat = "auto",
    seed: int = 0,
) -> tuple[Decoder, tuple[str, ...]]:
    """The model and the names of checkpoint tensors that it has no use for.

    Raises:
        SpecError: a tensor is missing, misshapen or unreadable.
    """
    family = FAMILIES[shape.architecture]
    if load_format == "dummy":
        return build_decoder(shape, family, kernels, DummyWeights(seed, dtype, device)), ()
    with Checkpoint(model_dir, dtype, device) as checkpoint:
        decoder = build_decoder(shape, family, kernels, checkpoint)
        unused = checkpoint.unused()
    tied_copy = {"lm_head.weight"} if shape.tie_embeddings else set[str]()
    return decoder, tuple(name for name in unused if name not in tied_copy)
