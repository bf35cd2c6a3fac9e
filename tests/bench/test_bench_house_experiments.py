"""Experiments on real processes with the toy engine: a batch is measured whole, also where another worker
prefills."""

from __future__ import annotations

from statistics import median

import pytest

from diptych.adapters.toy import ToyEngine
from diptych.bench.house import experiments
from diptych.bench.house.ask import House
from diptych.bench.house.experiments import Experiments
from diptych.bench.house.steps import StepWatch
from diptych.domain.cluster import ClusterSpec
from diptych.runtime.cluster import Cluster
from support.toy_cluster import toy_spec

SLOW_PROMPTS = ToyEngine(vocab_size=1000, prefill_s_per_token=0.001, decode_s_per_step=0.002)
"""A prompt takes longer than all outputs of a batch."""

BATCH, CONTEXT = 4, 96


@pytest.mark.parametrize(
    "spec", [toy_spec(1, 1, 0), toy_spec(0, 0, 1)], ids=["1 prefill + 1 decode", "1 mixed"]
)
async def test_all_sequences_of_a_batch_decode_together(
    spec: ClusterSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "PROMPTS": (1,),
        "BESIDE": (),
        "BEHIND": (),
        "BATCHES": (BATCH,),
        "CONTEXTS": (CONTEXT,),
        "VISITS": 1,
        "REPEATS": 1,
    }.items():
        monkeypatch.setattr(experiments, name, value)
    watch = StepWatch()
    async with Cluster(spec, engine=SLOW_PROMPTS, journal=watch) as cluster:
        samples = await Experiments(House(cluster), watch, lambda words, share: None).run()
    found = [it for it in samples.decode if it.batch == BATCH]
    assert len(found) >= experiments.FEW_TOKENS
    assert all(BATCH * CONTEXT <= it.context_tokens <= BATCH * (CONTEXT + 40) for it in found)


async def test_prompts_beside_a_batch_come_with_both_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "PROMPTS": (1,),
        "BESIDE": (29,),
        "BESIDE_BATCHES": ((2, 32),),
        "REST_S": 0.01,
        "BEHIND": (),
        "BATCHES": (),
        "VISITS": 1,
        "REPEATS": 1,
        "ROUNDS": 1,
    }.items():
        monkeypatch.setattr(experiments, name, value)
    watch = StepWatch()
    async with Cluster(toy_spec(0, 0, 1), engine=SLOW_PROMPTS, journal=watch) as cluster:
        samples = await Experiments(House(cluster), watch, lambda words, share: None).run()
    (found,) = samples.beside
    assert found.prompts and found.prompts_alone and found.decodes_alone
    assert all((it.new_tokens, it.decodes) == (29, 2) for it in found.prompts)
    assert all((it.new_tokens, it.decodes) == (29, 0) for it in found.prompts_alone)
    assert all(it.batch == 2 for it in found.decodes_alone)
    assert median(it.seconds for it in found.prompts_alone) >= 0.029
