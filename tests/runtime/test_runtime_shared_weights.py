"""Worker processes of one host hold one copy of the weights, and a restarted worker finds it packed."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from diptych.domain.cluster import ClusterSpec, KVSpec, LimitsSpec, ModelSpec, PoolSpec
from diptych.domain.ids import WorkerId
from diptych.domain.worker import Role
from diptych.runtime.cluster import Cluster
from diptych.runtime.topology import WorkerPlace
from support.smaps import MappedFile, mapped
from support.tiny_models import save_random_model, write_config
from support.toy_cluster import send_signal, until

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]

WEIGHTS = "diptych-weights"
STAGES = ["process", "kv_memory", "libraries", "weights", "warm_up"]


def middling(model_dir: Path) -> ClusterSpec:
    """Two workers of a model with about 80 MB of weights."""
    write_config(
        model_dir,
        "Qwen3ForCausalLM",
        vocab_size=16_000,
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=64,
        tie_word_embeddings=True,
    )
    return ClusterSpec(
        model=ModelSpec(path=str(model_dir), load_format="dummy"),
        kv=KVSpec(memory_bytes=32 << 20),
        pools=(
            PoolSpec(name="prefill", role=Role.PREFILL, workers=1, threads=1),
            PoolSpec(name="decode", role=Role.DECODE, workers=1, threads=1),
        ),
        limits=LimitsSpec(restart_backoff_s=0.05),
    )


async def test_two_workers_hold_one_copy_and_a_restarted_one_finds_it(tmp_path: Path) -> None:
    async with Cluster(middling(tmp_path)) as cluster:
        first = assert_one_copy(cluster)
        (_, before) = places = cluster.topology().workers
        assert all(list(place.start_s) == STAGES for place in places)
        assert list(cluster.topology().start_s) == ["kv_memory", "workers", "first_token"]
        send_signal(cluster, "decode-0", signal.SIGKILL)
        await until(lambda: _decode(cluster).up and _decode(cluster).incarnation == 2, "started again")
        assert assert_one_copy(cluster).inodes == first.inodes
        assert _decode(cluster).pid != before.pid
    assert cluster.pid(WorkerId("decode-0")) is None


async def test_a_worker_that_finds_another_checkpoint_says_so_and_does_not_serve(tmp_path: Path) -> None:
    save_random_model(tmp_path, "Llama")
    spec = middling(tmp_path / "unused")
    spec = spec.model_copy(update={"model": ModelSpec(path=str(tmp_path))})
    async with Cluster(spec) as cluster:
        checkpoint = tmp_path / "model.safetensors"
        checkpoint.write_bytes(checkpoint.read_bytes()[:-1] + b"\x40")
        send_signal(cluster, "decode-0", signal.SIGKILL)
        await until(lambda: "changed since" in (_decode(cluster).last_end or ""), "refused")
        assert "model.safetensors" in (_decode(cluster).last_end or "")
        assert not _decode(cluster).up


def assert_one_copy(cluster: Cluster) -> MappedFile:
    """Both processes have all of one file mapped, read-only, and no page of it is anybody's own."""
    one, other = (mapped(place.pid, WEIGHTS) for place in cluster.topology().workers if place.pid is not None)
    for seen in (one, other):
        assert seen.rights == {"r--s"}
        assert seen.bytes["Rss"] > 70 << 20
        assert seen.bytes["Private_Clean"] + seen.bytes["Private_Dirty"] < 1 << 20
        assert seen.bytes["Pss"] <= 0.51 * seen.bytes["Rss"]
    assert one.inodes == other.inodes and len(one.inodes) == 1
    return one


def _decode(cluster: Cluster) -> WorkerPlace:
    return cluster.topology().workers[1]
