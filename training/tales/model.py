"""The Llama-shaped network as it is trained.

Knows the mathematics of a Llama and the names its weights go by. Reads no file. Queries, keys and values
(and the two halves of the feed-forward) are one matrix each while training; `weights` takes them apart.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Rows up to this length are attended to with plain matrices, which is faster for them.
DENSE = 256


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of the network."""

    vocab: int = 2048
    width: int = 256
    layers: int = 5
    heads: int = 4
    kv_heads: int = 2
    head: int = 64
    inner: int = 608
    theta: float = 10_000.0
    eps: float = 1e-5
    longest: int = 4096


class Norm(nn.Module):
    """Root mean square norm with a gain."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """The normed input in full precision."""
        return F.rms_norm(x.float(), (x.shape[-1],), self.weight, self.eps)


def rotary(shape: Shape, length: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of every position, for halves side by side."""
    steps = torch.arange(0, shape.head, 2, dtype=torch.float32) / shape.head
    angles = torch.outer(torch.arange(length, dtype=torch.float32), shape.theta**-steps)
    both = torch.cat((angles, angles), dim=-1)
    return both.cos(), both.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Vectors turned by their positions."""
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-right, left), dim=-1) * sin


class Block(nn.Module):
    """One layer: attention and feed-forward, each behind a norm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.query = shape.heads * shape.head
        self.key = shape.kv_heads * shape.head
        self.norm_in = Norm(shape.width, shape.eps)
        self.norm_mid = Norm(shape.width, shape.eps)
        self.qkv = nn.Linear(shape.width, self.query + 2 * self.key, bias=False)
        self.out = nn.Linear(self.query, shape.width, bias=False)
        self.gate_up = nn.Linear(shape.width, 2 * shape.inner, bias=False)
        self.down = nn.Linear(shape.inner, shape.width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """The stream after this layer."""
        x = x + self.attend(self.norm_in(x), cos, sin)
        gate, up = self.gate_up(self.norm_mid(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)

    def attend(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Causal attention over the whole row."""
        rows, length, _ = x.shape
        parts = self.qkv(x).split((self.query, self.key, self.key), dim=-1)
        q, k, v = (part.view(rows, length, -1, self.shape.head).transpose(1, 2) for part in parts)
        q, k = rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype)
        share = self.shape.heads // self.shape.kv_heads
        if length > DENSE:
            k, v = k.repeat_interleave(share, 1), v.repeat_interleave(share, 1)
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            q = q.reshape(rows * self.shape.kv_heads, share * length, self.shape.head)
            k, v = k.reshape(-1, length, self.shape.head), v.reshape(-1, length, self.shape.head)
            scores = torch.bmm(q, k.transpose(1, 2)).float() * self.shape.head**-0.5
            hidden = torch.ones(length, length, dtype=torch.bool).triu(1).repeat(share, 1)
            chance = scores.masked_fill(hidden, -1e9).softmax(-1).to(v.dtype)
            mixed = torch.bmm(chance, v).view(rows, self.shape.heads, length, self.shape.head)
        return self.out(mixed.transpose(1, 2).reshape(rows, length, self.query))


class Llama(nn.Module):
    """Embedding, layers and a head that shares the embedding."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed = nn.Embedding(shape.vocab, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = Norm(shape.width, shape.eps)
        cos, sin = rotary(shape, shape.longest)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.apply(self._start)

    def _start(self, part: nn.Module) -> None:
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=0.03)

    def forward(self, tokens: Tensor) -> Tensor:
        """The normed stream at every position."""
        length = tokens.shape[1]
        cos, sin = self.cos[:length], self.sin[:length]
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, cos, sin)
        return self.norm(x)

    def head(self, x: Tensor) -> Tensor:
        """Scores over the vocabulary."""
        return F.linear(x, self.embed.weight)

    def weights(self) -> dict[str, Tensor]:
        """Every weight under the name that Llama checkpoints give it."""
        named = {"model.embed_tokens.weight": self.embed.weight, "model.norm.weight": self.norm.weight}
        for i, block in enumerate(self.blocks):
            q, k, v = block.qkv.weight.split((block.query, block.key, block.key))
            gate, up = block.gate_up.weight.chunk(2)
            layer = {
                "input_layernorm": block.norm_in.weight,
                "post_attention_layernorm": block.norm_mid.weight,
                "self_attn.q_proj": q,
                "self_attn.k_proj": k,
                "self_attn.v_proj": v,
                "self_attn.o_proj": block.out.weight,
                "mlp.gate_proj": gate,
                "mlp.up_proj": up,
                "mlp.down_proj": block.down.weight,
            }
            named |= {f"model.layers.{i}.{key}.weight": value for key, value in layer.items()}
        return {name: value.detach() for name, value in named.items()}
