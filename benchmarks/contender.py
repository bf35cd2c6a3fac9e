"""One engine in a process of its own, timing steps: ``python -m benchmarks.contender NAME THREADS``.

Each line of stdin is a JSON list, ``["decode", batch, context]`` or ``["prefill", tokens]``; each answer is a
line with the seconds of one such step. The first line of the answer says how long the start took and how much
memory it left. Engines that compute on the same cores must not share a process: the threads of one would wait
in the way of the other.

Knows: the built-in engine and Hugging Face's, on one shape with dummy weights. Does not know: other engines
(`peers`), what for.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.peers import PEERS, SHAPE

if TYPE_CHECKING:
    from diptych.domain.cluster import WeightFormat

BLOCKS = 1100
"""Room for 16,384 tokens, and some."""

Step = Callable[[], object]
Timed = Callable[[list[Any]], Step]


def main(name: str, threads: int) -> None:
    """Start, then answer until stdin ends."""
    began_s = time.perf_counter()
    prepared = CONTENDERS[name](threads)
    answer({"start_s": time.perf_counter() - began_s, "resident_bytes": _resident_bytes()})
    for line in sys.stdin:
        step = prepared(json.loads(line))
        start_s = time.perf_counter()
        step()
        answer(time.perf_counter() - start_s)


def answer(value: object) -> None:
    """One line."""
    print(json.dumps(value), flush=True)


def _built_in(threads: int, weights: WeightFormat = "same") -> Timed:
    from benchmarks.steps import BLOCK_TOKENS, decode_step, prefill_step
    from diptych.adapters.native import NativeOptions, build_native_engine

    options = NativeOptions(
        dtype="bfloat16",
        numerics="auto",
        weights=weights,
        block_tokens=BLOCK_TOKENS,
        threads=threads,
        load_format="dummy",
    )
    engine = build_native_engine(SHAPE, options, total_blocks=BLOCKS)
    engine.warm_up()

    def prepared(asked: list[Any]) -> Step:
        plan = decode_step(*asked[1:]) if asked[0] == "decode" else prefill_step(*asked[1:])
        return lambda: engine.execute(plan)

    return prepared


def _torch(threads: int) -> Timed:
    os.environ["DIPTYCH_KERNELS"] = "torch"
    return _built_in(threads)


def _transformers(threads: int) -> Timed:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

    torch.set_num_threads(threads)
    config = AutoConfig.from_pretrained(SHAPE)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()

    def cache(batch: int, context: int) -> DynamicCache:
        filled = DynamicCache()
        size = (batch, config.num_key_value_heads, context, config.head_dim)
        for layer in range(config.num_hidden_layers):
            filled.update(
                torch.zeros(size, dtype=torch.bfloat16), torch.zeros(size, dtype=torch.bfloat16), layer
            )
        return filled

    @torch.inference_mode()
    def run(token_ids: torch.Tensor, filled: DynamicCache | None) -> object:
        found = model(input_ids=token_ids, past_key_values=filled, use_cache=True, logits_to_keep=1)
        return found.logits.argmax(-1).tolist()

    def prepared(asked: list[Any]) -> Step:
        if asked[0] == "decode":
            batch, context = asked[1:]
            filled, token_ids = cache(batch, context - 1), torch.zeros((batch, 1), dtype=torch.int64)
            return lambda: run(token_ids, filled)
        token_ids = (7 * torch.arange(asked[1]) % 1000).unsqueeze(0)
        return lambda: run(token_ids, None)

    return prepared


CONTENDERS: dict[str, Callable[[int], Timed]] = {
    "diptych": _built_in,
    "diptych int8": partial(_built_in, weights="int8"),
    "diptych int4": partial(_built_in, weights="int4"),
    "diptych on torch": _torch,
    "transformers": _transformers,
    **PEERS,
}


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
