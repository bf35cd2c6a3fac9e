"""What workers are told to build: each pool its own numbers, and a plain word where an engine has none."""

from __future__ import annotations

import pytest

from diptych.adapters.build import NativeEngine
from diptych.adapters.toy import ToyEngine
from diptych.domain.cluster import ClusterSpec, PoolSpec, WeightFormat
from diptych.domain.errors import SpecError
from diptych.domain.fleet import DecodeFit, PrefillFit, ProfileSpec
from diptych.domain.worker import Role
from diptych.runtime.engines import EngineName, ModelledPools, choose_engine


def _spec(decode: WeightFormat) -> ClusterSpec:
    pools = (
        PoolSpec(name="prefill", role=Role.PREFILL),
        PoolSpec(name="decode", role=Role.DECODE, weights=decode),
    )
    return ClusterSpec(pools=pools)


def test_each_pool_holds_its_weights_in_its_own_numbers() -> None:
    choice = choose_engine(_spec("int8"), "native")
    engines = {name: engine for name, engine in choice.engines.items() if isinstance(engine, NativeEngine)}
    assert {name: engine.weights for name, engine in engines.items()} == {"prefill": "same", "decode": "int8"}
    assert choice.layout == choose_engine(_spec("same"), "native").layout


@pytest.mark.parametrize(
    "engine",
    [
        "toy",
        ToyEngine(),
        ModelledPools(
            profiles=dict.fromkeys(
                ("prefill", "decode"),
                ProfileSpec(prefill=PrefillFit(), decode=(DecodeFit(),), kv_tokens=1000),
            ),
            max_model_tokens=100,
        ),
    ],
    ids=["toy by name", "toy", "modelled"],
)
def test_engines_without_weights_refuse_the_key(engine: EngineName) -> None:
    choose_engine(_spec("same"), engine)
    with pytest.raises(SpecError, match=r"pools\.decode\.weights: the \w+ engine cannot hold .* int8; \w+"):
        choose_engine(_spec("int8"), engine)
