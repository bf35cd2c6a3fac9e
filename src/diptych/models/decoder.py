"""The decoder that all supported families share: pre-norm attention and MLP or experts, residual around each.
What they add to the residual may be normed, too.

Knows: the order of operations, merged weights. Does not know: what distinguishes the families (`Family` says
it), files, requests.

Shapes: T packed tokens, D model width, H query heads, K kv heads, E head width, B blocks, S slots per block,
V vocabulary, R wanted rows, P positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from diptych.kernels.seam import (
    AttentionShape,
    DrawRule,
    HeadNorms,
    Kernels,
    PackedLinear,
    Planes,
    Rotation,
    Span,
)
from diptych.models.family import USUAL_EXPERTS, ExpertNames, Family, Layer, Outer, TensorShapes
from diptych.models.feed_forward import build_feed_forward, feed_forward_tensors
from diptych.models.packing import Packing
from diptych.models.rotary import rotary_table
from diptych.models.tensors import FamilyWeights, LayerTensors, TensorSource, merge
from diptych.performance.model_rope import Rope
from diptych.performance.model_shape import ModelShape

# ---------------------------------------------------------------- tensor names that all families share


def shared_layer_tensors(shape: ModelShape, layer: int, experts: ExpertNames = USUAL_EXPERTS) -> TensorShapes:
    """The tensors that every family has in a layer."""
    prefix, width = f"model.layers.{layer}.", shape.hidden
    feed_forward = feed_forward_tensors(shape, layer, experts)
    return {
        f"{prefix}input_layernorm.weight": (width,),
        f"{prefix}self_attn.q_proj.weight": (shape.query_width, width),
        f"{prefix}self_attn.k_proj.weight": (shape.kv_width, width),
        f"{prefix}self_attn.v_proj.weight": (shape.kv_width, width),
        f"{prefix}self_attn.o_proj.weight": (width, shape.query_width),
        f"{prefix}post_attention_layernorm.weight": (width,),
        **{prefix + name: size for name, size in feed_forward.items()},
    }


def outer_tensors(shape: ModelShape) -> TensorShapes:
    """The tensors outside the layers."""
    names: TensorShapes = {
        "model.embed_tokens.weight": (shape.vocab, shape.hidden),
        "model.norm.weight": (shape.hidden,),
    }
    if not shape.tie_embeddings:
        names["lm_head.weight"] = (shape.vocab, shape.hidden)
    return names


# ---------------------------------------------------------------- forward


@dataclass(frozen=True)
class Wanted:
    """The rows of a step whose hidden states are asked for."""

    rows_R: Tensor
    """In packed order."""
    spans: tuple[Span, ...]
    """Theirs, packed without the other rows."""


@dataclass(frozen=True)
class DecoderInputs:
    """The packed tokens of one step."""

    token_ids_T: Tensor
    positions_T: Tensor
    slots_T: Tensor
    """Where each token's K and V go: block * S + slot."""
    spans: tuple[Span, ...]
    wanted: Wanted | None = None
    """None: all rows."""


class _View(NamedTuple):
    """How one layer attends in one step."""

    rotation: Rotation
    shape: AttentionShape
    plan: Any


Plans: TypeAlias = Mapping[int | None, Any]
"""Attention plans of one step by window (`Kernels.plan_attention`)."""


class Decoder:
    """A loaded model. Holds weights only; KV memory is handed in."""

    def __init__(
        self,
        shape: ModelShape,
        family: Family,
        kernels: Kernels,
        embedding_VD: Tensor,
        layers: Sequence[Layer],
        norm_D: Tensor,
        head: PackedLinear,
    ) -> None:
        self.shape = shape
        self._kernels = kernels
        self._embedding_VD = embedding_VD
        self._layers = tuple(layers)
        self._first_norm_D = layers[0].input_norm_D
        self._norms_after_D = [*(layer.input_norm_D for layer in layers[1:]), norm_D]
        self._head = head
        self._embedding_scale = _rounded(family.embedding_scale(shape), embedding_VD.dtype)
        self._tables = {rope: self._table(rope) for rope in dict.fromkeys(it.rope for it in shape.attention)}

    def forward(self, inputs: DecoderInputs, planes: Sequence[Planes], plans: Plans | None = None) -> Tensor:
        """Hidden states of the wanted rows after the final norm, [R, D]; writes K and V of all packed tokens.
        Of the last layer the other rows need no more than that.

        ``plans``: of these inputs' spans, one for each of `attention_shapes`; None: they are made here.
        """
        kernels, eps = self._kernels, self.shape.rms_eps
        x_TD = self._embed(inputs.token_ids_T)
        views = self._views(inputs, planes[0].k_BKSE.shape[2], plans)
        normed_TD = kernels.rms_norm(x_TD, self._first_norm_D, eps)
        for layer, view, memory, norm_after_D in zip(
            self._layers, views, planes, self._norms_after_D, strict=True
        ):
            qkv_TN = kernels.linear(normed_TD, layer.qkv)
            q_THE = kernels.place(qkv_TN, layer.head_norms, view.rotation, memory, inputs.slots_T, view.shape)
            plan = view.plan
            if inputs.wanted is not None and layer is self._layers[-1]:
                x_TD, q_THE = x_TD[inputs.wanted.rows_R], q_THE[inputs.wanted.rows_R]
                if not inputs.wanted.spans:
                    return x_TD
                plan = kernels.plan_attention(inputs.wanted.spans, view.shape)
            mixed_THE = kernels.attention(q_THE, memory.k_BKSE, memory.v_BKSE, plan)
            mixed_TD = kernels.linear(mixed_THE.flatten(1), layer.attention_out)
            mixed_TD = self._out(mixed_TD, layer.attention_out_norm_D)
            x_TD, normed_TD = kernels.add_norm(x_TD, mixed_TD, layer.mlp_norm_D, eps)
            mlp_TD = self._out(layer.mlp.forward(normed_TD, kernels), layer.mlp_out_norm_D)
            x_TD, normed_TD = kernels.add_norm(x_TD, mlp_TD, norm_after_D, eps)
        return normed_TD

    def attention_shapes(self, block_tokens: int) -> dict[int | None, AttentionShape]:
        """What attention must know, by window: layers with one window share a plan."""
        shape = self.shape
        return {
            window: AttentionShape(shape.heads, shape.kv_heads, shape.head_dim, block_tokens, window)
            for window in dict.fromkeys(layer.window for layer in shape.attention)
        }

    def logits(self, hidden_RD: Tensor) -> Tensor:
        """Raw next-token scores in the dtype of the model, [R, V]."""
        return self._kernels.linear(hidden_RD, self._head)

    def likeliest(self, logits_RV: Tensor) -> tuple[list[int], list[bool]]:
        """See `Kernels.likeliest`."""
        return self._kernels.likeliest(logits_RV)

    def draw(self, logits_RV: Tensor, rules: Sequence[DrawRule]) -> list[int]:
        """See `Kernels.draw`."""
        return self._kernels.draw(logits_RV, rules)

    def _embed(self, token_ids_T: Tensor) -> Tensor:
        x_TD = functional.embedding(token_ids_T, self._embedding_VD)
        return x_TD if self._embedding_scale == 1.0 else x_TD * self._embedding_scale

    def _out(self, x_TD: Tensor, norm_D: Tensor | None) -> Tensor:
        """What is added to the residual: normed, if the layer has a norm for it."""
        return x_TD if norm_D is None else self._kernels.rms_norm(x_TD, norm_D, self.shape.rms_eps)

    def _views(self, inputs: DecoderInputs, block_tokens: int, plans: Plans | None) -> list[_View]:
        """For each layer; layers that turn alike share a rotation."""
        at_T, shapes = inputs.positions_T, self.attention_shapes(block_tokens)
        rotations = {rope: Rotation(cos[at_T], sin[at_T]) for rope, (cos, sin) in self._tables.items()}
        if plans is None:
            plans = {window: self._kernels.plan_attention(inputs.spans, it) for window, it in shapes.items()}
        return [
            _View(rotations[layer.rope], shapes[layer.window], plans[layer.window])
            for layer in self.shape.attention
        ]

    def _table(self, rope: Rope) -> tuple[Tensor, Tensor]:
        dtype, device = self._embedding_VD.dtype, self._embedding_VD.device
        return rotary_table(rope, self.shape.head_dim, self.shape.max_positions, dtype=dtype, device=device)


def _rounded(value: float, dtype: torch.dtype) -> float:
    return torch.tensor(value, dtype=dtype).item()


# ---------------------------------------------------------------- building


def decoder_parts(
    shape: ModelShape, family: Family, packing: Packing, source: TensorSource
) -> Iterator[Outer | Layer]:
    """Load, merge and pack all weights, part by part and map by map, so that little is in memory twice."""
    source = FamilyWeights(source, shape, family)
    yield _build_outer(shape, packing, source)
    for index in range(shape.layers):
        yield _build_layer(shape, family, packing, source, index)


def _build_outer(shape: ModelShape, packing: Packing, source: TensorSource) -> Outer:
    outer = {name: source.take(name, size) for name, size in outer_tensors(shape).items()}
    embedding_VD = outer["model.embed_tokens.weight"]
    head_VD = embedding_VD if shape.tie_embeddings else outer.pop("lm_head.weight")
    return Outer(embedding_VD, outer["model.norm.weight"], packing.head(head_VD))


def _build_layer(
    shape: ModelShape, family: Family, packing: Packing, source: TensorSource, index: int
) -> Layer:
    tensors = LayerTensors(source, f"model.layers.{index}.", family.layer_tensors(shape, index))
    norms = family.norms
    return Layer(
        input_norm_D=tensors["input_layernorm.weight"],
        qkv=merge(packing, tensors, [f"self_attn.{name}_proj" for name in "qkv"]),
        head_norms=_head_norms(tensors, shape.rms_eps),
        attention_out=packing.linear(tensors["self_attn.o_proj.weight"]),
        attention_out_norm_D=_norm(tensors, norms.attention_out),
        mlp_norm_D=tensors[f"{norms.mlp}.weight"],
        mlp=build_feed_forward(shape, index, family, packing, tensors),
        mlp_out_norm_D=_norm(tensors, norms.mlp_out),
    )


def _norm(tensors: Mapping[str, Tensor], name: str | None) -> Tensor | None:
    return None if name is None else tensors[f"{name}.weight"]


def _head_norms(tensors: Mapping[str, Tensor], eps: float) -> HeadNorms | None:
    query_E, key_E = tensors.get("self_attn.q_norm.weight"), tensors.get("self_attn.k_norm.weight")
    return None if query_E is None or key_E is None else HeadNorms(query_E, key_E, eps)
