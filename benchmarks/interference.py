"""What a long prompt does to the tokens of those who are decoding already.

Eight sequences decode; then a 2,048-token prompt arrives. The same two cores serve it (a) as one mixed worker
with chunked prefill and (b) as one prefill and one decode worker with a core each. A and B alternate within
one run.
Knows: the Qwen3-0.6B shape with random weights. Does not know: text, quality.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.load import Run, random_request, run
from benchmarks.provenance import save
from diptych.domain.cluster import ClusterSpec, KVSpec, ModelSpec, PoolSpec
from diptych.domain.worker import Role
from diptych.runtime.cluster import Cluster
from diptych.runtime.streams import Frontend

SHAPE_DIR = Path(__file__).parent / "shapes" / "qwen3-0.6b"
DECODES = 8
DECODE_PROMPT_TOKENS = 512
DECODE_OUTPUT_TOKENS = 120
LONG_PROMPT_TOKENS = 2048
IDLE_TOKENS = 12
"""Gaps measured before the long prompt arrives."""
CHUNK_TOKENS = 512
ROUNDS = 3


def specs() -> dict[str, ClusterSpec]:
    """The two ways of using two cores."""
    model = ModelSpec(path=str(SHAPE_DIR), load_format="dummy", max_model_tokens=4096)
    kv = KVSpec(memory_bytes=2 << 30)
    mixed = PoolSpec(name="mixed", role=Role.MIXED, cores=((0, 1),), token_budget=CHUNK_TOKENS)
    prefill = PoolSpec(name="prefill", role=Role.PREFILL, cores=((0,),), token_budget=CHUNK_TOKENS)
    decode = PoolSpec(name="decode", role=Role.DECODE, cores=((1,),), token_budget=CHUNK_TOKENS)
    return {
        "1 mixed worker, 2 cores": ClusterSpec(model=model, kv=kv, pools=(mixed,)),
        "1P+1D, 1 core each": ClusterSpec(model=model, kv=kv, pools=(prefill, decode)),
    }


async def main(console: Console) -> None:
    """Measure, print a table, write the result file."""
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in specs()}
    for round_number in range(ROUNDS):
        for name, spec in specs().items():
            console.print(f"round {round_number + 1}/{ROUNDS}: {name}")
            rounds[name].append(await _one_round(spec, round_number))
    rows = [{"topology": name, **_medians(results)} for name, results in rounds.items()]
    console.print(_table(rows))
    console.print(f"written to {save('interference', {'rows': rows, 'rounds': rounds})}")


async def _one_round(spec: ClusterSpec, seed: int) -> dict[str, float]:
    async with Cluster(spec) as cluster:
        vocabulary, frontend = cluster.model_shape.vocab, cluster.frontend

        def request(name: str, prompt_tokens: int, output_tokens: int) -> Any:
            return random_request(
                name,
                prompt_tokens=prompt_tokens,
                output_tokens=output_tokens,
                vocabulary=vocabulary,
                block_tokens=spec.kv.block_tokens,
                seed=seed,
            )

        await run(frontend, request("warm-up", CHUNK_TOKENS, 4))
        decodes = [
            request(f"decode-{index}", DECODE_PROMPT_TOKENS, DECODE_OUTPUT_TOKENS) for index in range(DECODES)
        ]
        return await _interfere(frontend, decodes, request("long", LONG_PROMPT_TOKENS, 2))


async def _interfere(frontend: Frontend, decodes: list[Any], long_request: Any) -> dict[str, float]:
    watched = [Run(sent_s=frontend.now_s()) for _ in decodes]
    tasks = [
        asyncio.create_task(run(frontend, request, into=result))
        for request, result in zip(decodes, watched, strict=True)
    ]
    while min(len(result.token_s) for result in watched) < IDLE_TOKENS:
        await asyncio.sleep(0.01)
    long_run = await run(frontend, long_request)
    await asyncio.gather(*tasks)
    sent_s, first_s = long_run.sent_s, long_run.token_s[0]
    all_running_s = max(result.token_s[1] for result in watched)
    idle = _gaps_between(watched, all_running_s, sent_s)
    during = _gaps_between(watched, sent_s, first_s)
    return {
        "idle_itl_p50_s": median(idle),
        "itl_p50_s": median(during),
        "itl_max_s": max(during),
        "ttft_s": long_run.ttft_s,
    }


def _gaps_between(runs: list[Run], start_s: float, end_s: float) -> list[float]:
    """Gaps that overlap the window: one that began before it is felt in it too."""
    return [
        later - sooner
        for result in runs
        for sooner, later in zip(result.token_s, result.token_s[1:], strict=False)
        if later > start_s and sooner < end_s
    ]


def _medians(results: list[dict[str, float]]) -> dict[str, float]:
    return {key: median(result[key] for result in results) for key in results[0]}


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table("topology", "ITL p50 ms, idle", "ITL p50 ms", "ITL max ms", "TTFT of the long prompt s")
    for row in rows:
        table.add_row(
            row["topology"],
            f"{row['idle_itl_p50_s'] * 1e3:.0f}",
            f"{row['itl_p50_s'] * 1e3:.0f}",
            f"{row['itl_max_s'] * 1e3:.0f}",
            f"{row['ttft_s']:.2f}",
        )
    return table
