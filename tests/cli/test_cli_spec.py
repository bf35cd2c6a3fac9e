"""Flag > environment > file > default, and errors that say what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from diptych.cli.options import ClusterFlags
from diptych.cli.spec import Resolved, parse_bytes, resolve
from diptych.domain.cluster import BUILTIN_MODEL, ClusterSpec, PoolSpec
from diptych.domain.errors import SpecError
from diptych.domain.worker import Role

FILE = """
model: {path: some/model, dtype: bfloat16}
pools:
  - {name: fast, role: prefill, workers: 3}
  - {name: slow, role: decode}
kv: {block_tokens: 32}
"""


@pytest.fixture
def spec_file(tmp_path: Path) -> str:
    path = tmp_path / "cluster.yaml"
    path.write_text(FILE)
    return str(path)


def _workers(spec: ClusterSpec) -> dict[Role, int]:
    return {pool.role: pool.workers for pool in spec.pools}


def _pool(resolved: Resolved, name: str) -> PoolSpec:
    return next(pool for pool in resolved.spec.pools if pool.name == name)


def test_nothing_given_is_the_default_spec() -> None:
    resolved = resolve(None, ClusterFlags(), {})
    assert resolved.spec == ClusterSpec()
    assert resolved.spec.model.path == BUILTIN_MODEL
    assert resolved.origins == {}


def test_flag_beats_environment_beats_file_beats_default(spec_file: str) -> None:
    environ = {"DIPTYCH_DTYPE": "float32", "DIPTYCH_BLOCK_TOKENS": "64"}
    resolved = resolve(spec_file, ClusterFlags(block_tokens=8), environ)
    assert resolved.spec.kv.block_tokens == 8
    assert resolved.spec.model.dtype == "float32"
    assert resolved.spec.model.path == "some/model"
    assert resolved.spec.seed == 0
    assert resolved.origins["kv.block_tokens"] == "flag --block-tokens"
    assert resolved.origins["model.dtype"] == "environment DIPTYCH_DTYPE"
    assert resolved.origins["model.path"] == f"file {spec_file}"
    assert "seed" not in resolved.origins


def test_any_key_by_environment_and_by_set() -> None:
    resolved = resolve(
        None,
        ClusterFlags(set=("limits.max_losses=2", "pools.decode.token_budget=7", "slo.ttft_s=0.5")),
        {"DIPTYCH_LIMITS__QUEUE_REQUESTS": "9", "DIPTYCH_LIMITS__MAX_LOSSES": "8"},
    )
    assert resolved.spec.limits.queue_requests == 9
    assert resolved.spec.limits.max_losses == 2
    assert resolved.spec.slo.ttft_s == 0.5
    assert _pool(resolved, "decode").token_budget == 7
    assert _pool(resolved, "prefill").token_budget == 512


@pytest.mark.parametrize(
    ("flags", "environ", "workers"),
    [
        (ClusterFlags(), {}, {Role.PREFILL: 1, Role.DECODE: 1}),
        (ClusterFlags(decode=3), {}, {Role.PREFILL: 1, Role.DECODE: 3}),
        (ClusterFlags(mixed=2), {}, {Role.MIXED: 2}),
        (ClusterFlags(mixed=1, prefill=1), {}, {Role.MIXED: 1, Role.PREFILL: 1}),
        (ClusterFlags(), {"DIPTYCH_MIXED": "1"}, {Role.MIXED: 1}),
        (ClusterFlags(decode=2), {"DIPTYCH_DECODE": "5"}, {Role.PREFILL: 1, Role.DECODE: 2}),
    ],
)
def test_worker_counts_make_pools(
    flags: ClusterFlags, environ: dict[str, str], workers: dict[Role, int]
) -> None:
    assert _workers(resolve(None, flags, environ).spec) == workers


def test_worker_counts_change_the_pools_of_a_file(spec_file: str) -> None:
    resolved = resolve(spec_file, ClusterFlags(prefill=2, mixed=1), {})
    assert [(pool.name, pool.workers) for pool in resolved.spec.pools] == [
        ("fast", 2),
        ("slow", 1),
        ("mixed", 1),
    ]


def test_settings_of_all_pools() -> None:
    resolved = resolve(None, ClusterFlags(threads=2, chunk_tokens=64), {})
    assert [(pool.threads, pool.token_budget) for pool in resolved.spec.pools] == [(2, 64), (2, 64)]


def test_served_names_from_every_source() -> None:
    assert resolve(None, ClusterFlags(served_model_name=("a", "b")), {}).spec.model.served_names == ("a", "b")
    environ = {"DIPTYCH_SERVED_MODEL_NAME": "a, b"}
    assert resolve(None, ClusterFlags(), environ).spec.model.served_names == ("a", "b")


@pytest.mark.parametrize(
    ("flags", "environ", "parts"),
    [
        (
            ClusterFlags(set=("limits.queue_request=1",)),
            {},
            ("limits.queue_request", "did you mean queue_requests?"),
        ),
        (ClusterFlags(set=("kv.xyz=1",)), {}, ("kv.xyz", "block_tokens, memory_bytes, prompt_cache")),
        (
            ClusterFlags(set=("pools.prefill.thread=1",)),
            {},
            ("pools.prefill.thread", "did you mean threads?"),
        ),
        (ClusterFlags(block_tokens=0), {}, ("kv.block_tokens", "greater than or equal to 1", "it is 0")),
        (ClusterFlags(prefill=0), {}, ("a cluster needs a prefill and a decode pool",)),
        (ClusterFlags(prefill=-1), {}, ("--prefill -1",)),
        (ClusterFlags(kv_memory="lots"), {}, ("'lots'", "512MiB")),
        (ClusterFlags(set=("seed",)), {}, ("KEY=VALUE",)),
        (ClusterFlags(set=("pools.gpu.threads=1",)), {}, ("no pool 'gpu'", "prefill, decode")),
        (ClusterFlags(set=("seed.x=1", "seed.x.y=2")), {}, ("seed.x.y", "holds no keys")),
        (ClusterFlags(), {"DIPTYCH_KV__BLOCK_TOKEN": "1"}, ("kv.block_token", "did you mean block_tokens?")),
        (ClusterFlags(), {"DIPTYCH_DECODE": "two"}, ("DIPTYCH_DECODE='two'",)),
    ],
)
def test_errors_name_key_reason_and_remedy(
    flags: ClusterFlags, environ: dict[str, str], parts: tuple[str, ...]
) -> None:
    with pytest.raises(SpecError) as caught:
        resolve(None, flags, environ)
    assert [part for part in parts if part not in str(caught.value)] == []


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[1, 2]", "mapping"),
        ("a: [", "not valid YAML"),
        ("pools: 3", "pools"),
        ("modell: {}", "did you mean model?"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, part: str) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    with pytest.raises(SpecError, match=part.replace("?", r"\?")):
        resolve(str(path), ClusterFlags(), {})


def test_missing_file() -> None:
    with pytest.raises(SpecError, match="No such file"):
        resolve("nowhere.yaml", ClusterFlags(), {})


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("512MiB", 512 << 20), ("2 GiB", 2 << 30), ("2gb", 2_000_000_000), ("1.5KiB", 1536)],
)
def test_parse_bytes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


def test_weights_are_a_key_of_each_pool(spec_file: str) -> None:
    resolved = resolve(spec_file, ClusterFlags(set=("pools.slow.weights=int8",)), {})
    assert [(_pool(resolved, name).weights) for name in ("fast", "slow")] == ["same", "int8"]
    assert {pool.weights for pool in resolve(spec_file, ClusterFlags(weights="int4"), {}).spec.pools} == {
        "int4"
    }
    with pytest.raises(SpecError, match=r"pools\.slow\.weights: .*'same', 'int8' or 'int4'"):
        resolve(spec_file, ClusterFlags(set=("pools.slow.weights=fp8",)), {})
