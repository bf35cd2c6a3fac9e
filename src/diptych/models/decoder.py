"""The decoder that all supported families share: pre-norm attention and MLP or experts, residual around each.

Knows: the order of operations, merged weights. Does not know: what distinguishes the families (`Family` says
it), files, requests.

Shapes: T packed tokens, D model width, H query heads, K kv heads, E head width, B blocks, S slots per block,
V vocabulary, R sampled rows, P positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from diptych.kernels.seam import AttentionShape, HeadNorms, Kernels, PackedLinear, Planes, Rotation, Span
from diptych.models.family import USUAL_EXPERTS, ExpertNames, Family, Layer, TensorShapes
from diptych.models.feed_forward import build_feed_forward, feed_forward_tensors
from diptych.models.rotary import rotary_table
from diptych.models.tensors import LayerTensors, TensorSource, merge
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
class DecoderInputs:
    """The packed tokens of one step."""

    token_ids_T: Tensor
    positions_T: Tensor
    slots_T: Tensor
    """Where each token's K and V go: block * S + slot."""
    spans: tuple[Span, ...]


class Decoder:
    """A loaded model. Holds weights only; KV memory is handed in."""

    def __init__(
        self,
        shape: ModelShape,
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
        cos_PE, sin_PE = rotary_table(shape, embedding_VD.device)
        self._cos_PE, self._sin_PE = cos_PE.to(embedding_VD.dtype), sin_PE.to(embedding_VD.dtype)

    def forward(self, inputs: DecoderInputs, planes: Sequence[Planes]) -> Tensor:
        """Hidden states of all packed tokens after the final norm, [T, D]; writes their K and V."""
        kernels, eps = self._kernels, self.shape.rms_eps
        x_TD = functional.embedding(inputs.token_ids_T, self._embedding_VD)
        rotation = Rotation(self._cos_PE[inputs.positions_T], self._sin_PE[inputs.positions_T])
        shape = self._attention_shape(planes[0].k_BKSE.shape[2])
        plan = kernels.plan_attention(inputs.spans, shape)
        normed_TD = kernels.rms_norm(x_TD, self._first_norm_D, eps)
        for layer, memory, norm_after_D in zip(self._layers, planes, self._norms_after_D, strict=True):
            qkv_TN = kernels.linear(normed_TD, layer.qkv)
            q_THE = kernels.place(qkv_TN, layer.head_norms, rotation, memory, inputs.slots_T, shape)
            mixed_THE = kernels.attention(q_THE, memory.k_BKSE, memory.v_BKSE, plan)
            mixed_TD = kernels.linear(mixed_THE.flatten(1), layer.attention_out)
            x_TD, normed_TD = kernels.add_norm(x_TD, mixed_TD, layer.mlp_norm_D, eps)
            x_TD, normed_TD = kernels.add_norm(x_TD, layer.mlp.forward(normed_TD, kernels), norm_after_D, eps)
        return normed_TD

    def logits(self, hidden_RD: Tensor) -> Tensor:
        """Raw next-token scores in the dtype of the model, [R, V]."""
        return self._kernels.linear(hidden_RD, self._head)

    def likeliest(self, logits_RV: Tensor) -> tuple[list[int], list[bool]]:
        """See `Kernels.likeliest`."""
        return self._kernels.likeliest(logits_RV)

    def _attention_shape(self, block_tokens: int) -> AttentionShape:
        shape = self.shape
        return AttentionShape(shape.heads, shape.kv_heads, shape.head_dim, block_tokens, shape.sliding_window)


# ---------------------------------------------------------------- building


def build_decoder(shape: ModelShape, family: Family, kernels: Kernels, source: TensorSource) -> Decoder:
    """Load, merge and pack all weights, map by map, so that little is in memory twice."""
    outer = {name: source.take(name, size) for name, size in outer_tensors(shape).items()}
    embedding_VD = outer["model.embed_tokens.weight"]
    layers = [_build_layer(shape, family, kernels, source, index) for index in range(shape.layers)]
    head_VD = embedding_VD if shape.tie_embeddings else outer.pop("lm_head.weight")
    return Decoder(shape, kernels, embedding_VD, layers, outer["model.norm.weight"], kernels.pack(head_VD))


def _build_layer(
    shape: ModelShape, family: Family, kernels: Kernels, source: TensorSource, index: int
) -> Layer:
    tensors = LayerTensors(source, f"model.layers.{index}.", family.layer_tensors(shape, index))
    return Layer(
        input_norm_D=tensors["input_layernorm.weight"],
        qkv=merge(kernels, tensors, [f"self_attn.{name}_proj" for name in "qkv"]),
        head_norms=_head_norms(tensors, shape.rms_eps),
        attention_out=kernels.pack(tensors["self_attn.o_proj.weight"]),
        mlp_norm_D=tensors["post_attention_layernorm.weight"],
        mlp=build_feed_forward(shape, index, family.experts, kernels, tensors),
    )


def _head_norms(tensors: Mapping[str, Tensor], eps: float) -> HeadNorms | None:
    query_E, key_E = tensors.get("self_attn.q_norm.weight"), tensors.get("self_attn.k_norm.weight")
    return None if query_E is None or key_E is None else HeadNorms(query_E, key_E, eps)
