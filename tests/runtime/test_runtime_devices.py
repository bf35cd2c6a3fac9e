"""A pool on a CUDA device: its KV is its own, so nobody borrows from it and nobody pays for it."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest
from pydantic import ValidationError

from diptych.adapters.build import EngineMemory, NativeEngine, build_engine, owns_kv_memory
from diptych.adapters.toy import ToyEngine
from diptych.domain.cluster import ClusterSpec, KVSpec, PoolSpec
from diptych.domain.errors import Bug, SpecError
from diptych.domain.fleet import DecodeFit, PrefillFit, ProfileSpec
from diptych.domain.ids import DomainId
from diptych.domain.kv import KVLayout
from diptych.domain.worker import Arena, Role, WorkerInfo
from diptych.runtime.cluster import DOMAIN, Cluster
from diptych.runtime.dealing import deal
from diptych.runtime.engines import EngineName, ModelledPools, choose_engine
from diptych.runtime.incarnation import Incarnation, Setup
from diptych.runtime.wire import Welcome
from diptych.runtime.worker_main import _map
from support.tiny_models import write_config

LAYOUT = KVLayout(layers=1, kv_heads=1, head_dim=4, block_tokens=4, dtype="float32")


def _mixed(*devices: str) -> ClusterSpec:
    pools = tuple(
        PoolSpec(name=f"p{i}", role=Role.MIXED, workers=2, torch_device=device)
        for i, device in enumerate(devices)
    )
    return ClusterSpec(pools=pools, kv=KVSpec(memory_bytes=40 * LAYOUT.block_bytes))


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "CUDA", "meta", ""])
def test_only_names_of_devices_are_taken(device: str) -> None:
    with pytest.raises(ValidationError, match="torch_device"):
        PoolSpec(name="p", role=Role.MIXED, torch_device=device)


@pytest.mark.parametrize("role", [Role.PREFILL, Role.DECODE])
def test_a_pool_that_hands_kv_over_cannot_have_it_on_a_device(role: Role) -> None:
    other = Role.DECODE if role is Role.PREFILL else Role.PREFILL
    pools = (PoolSpec(name="a", role=role, torch_device="cuda"), PoolSpec(name="b", role=other))
    with pytest.raises(SpecError, match=rf"pools\.a\.torch_device: a {role.value} worker .* role to mixed"):
        choose_engine(ClusterSpec(pools=pools), "native")


def test_each_pool_computes_on_its_own_device() -> None:
    choice = choose_engine(_mixed("cpu", "cuda:1"), "native")
    engines = [choice.engines[name] for name in ("p0", "p1")]
    assert [engine.device for engine in engines if isinstance(engine, NativeEngine)] == ["cpu", "cuda:1"]
    assert [owns_kv_memory(engine) for engine in engines] == [False, True]


@pytest.mark.parametrize(
    "engine",
    [
        "toy",
        ToyEngine(),
        ModelledPools(
            profiles={"p0": ProfileSpec(prefill=PrefillFit(), decode=(DecodeFit(),), kv_tokens=1000)},
            max_model_tokens=100,
        ),
    ],
    ids=["toy by name", "toy", "modelled"],
)
def test_engines_that_compute_nothing_refuse_the_key(engine: EngineName) -> None:
    with pytest.raises(SpecError, match=r"pools\.p0\.torch_device: the \w+ engine has no use for 'cuda'"):
        choose_engine(_mixed("cuda"), engine)


def test_workers_on_devices_have_all_of_their_memory_and_take_none_of_the_others() -> None:
    alone = [share.arena for share in deal(_mixed("cpu"), LAYOUT, (0,))]
    together = [share.arena for share in deal(_mixed("cuda", "cpu"), LAYOUT, (0,))]
    assert together[:2] == [Arena(start=0, blocks=40)] * 2
    assert together[2:] == alone == [Arena(start=0, blocks=20), Arena(start=20, blocks=20)]


def _info(cluster: Cluster, index: int) -> WorkerInfo:
    """What the orchestrator hears of a worker."""
    setup = Setup(
        engines=cluster.choice.engines,
        layout=cluster.choice.layout,
        domain_id=DOMAIN,
        domain_blocks=cluster._domain_blocks,
        kv_fd=-1,
        weights_fds={},
        prompt_cache=True,
        seed=0,
        heartbeat_interval_s=1.0,
    )

    class Sink:
        @staticmethod
        def now_s() -> float:
            return 0.0

    share = cluster.shares[index]
    return Incarnation(0, share, setup, None, Sink())._info()  # type: ignore[arg-type]


def test_a_worker_on_a_device_is_a_memory_domain_of_its_own() -> None:
    """So its cached blocks are never offered to others, nor theirs to it."""
    cluster = Cluster(_mixed("cuda", "cpu").model_copy(update={"kv": KVSpec()}))
    domains = [_info(cluster, index).domain_id for index in range(4)]
    assert domains == [DomainId("p0-0"), DomainId("p0-1"), DomainId("host"), DomainId("host")]
    assert cluster._domain_blocks == sum(share.arena.blocks for share in cluster.shares[2:])


def test_a_cluster_of_devices_alone_maps_next_to_nothing() -> None:
    assert Cluster(_mixed("cuda").model_copy(update={"kv": KVSpec()}))._domain_blocks == 1


def test_a_worker_on_a_device_is_given_no_segment() -> None:
    welcome = Welcome(
        engine=NativeEngine(model_dir="/m", device="cuda"),
        layout=LAYOUT,
        domain_blocks=1,
        arena=Arena(start=0, blocks=7),
        prompt_cache=True,
        token_budget=8,
        max_running=4,
        chunked_prefill=True,
        cores=(0,),
        threads=1,
        seed=0,
        heartbeat_interval_s=1.0,
    )
    assert _map(Namespace(kv_fd=-1, weights_fd=None), welcome) == EngineMemory(None, 7, 4)


def test_a_device_that_is_not_there_is_a_plain_word_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.version.cuda", None)
    spec = NativeEngine(model_dir=str(write_config(tmp_path)), load_format="dummy", device="cuda")
    with pytest.raises(SpecError, match=r"torch_device 'cuda': this torch .* was built without CUDA"):
        build_engine(spec, EngineMemory(None, 8, 8), seed=0, threads=1, max_running=4)


def test_a_toy_needs_its_segment() -> None:
    with pytest.raises(Bug, match="without its segment"):
        build_engine(ToyEngine(), EngineMemory(None, 8, 8), seed=0, threads=1, max_running=4)
