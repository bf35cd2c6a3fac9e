"""What a cluster spec accepts, and what it says of the rest."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from diptych.domain.cluster import BUILTIN_MODEL, ClusterSpec, KVSpec, LimitsSpec, PoolSpec
from diptych.domain.worker import Arena, Role


def test_the_default_is_one_prefill_and_one_decode_worker_of_the_builtin_model() -> None:
    spec = ClusterSpec()
    assert [(pool.name, pool.role, pool.workers) for pool in spec.pools] == [
        ("prefill", Role.PREFILL, 1),
        ("decode", Role.DECODE, 1),
    ]
    assert spec.model.path == BUILTIN_MODEL and spec.slo.ttft_s is None


def test_a_spec_survives_its_own_json() -> None:
    spec = ClusterSpec(
        pools=(PoolSpec(name="all", role=Role.MIXED, workers=2, cores=((0, 1), (2, 3))),), seed=7
    )
    assert ClusterSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    "roles", [("mixed",), ("prefill", "decode"), ("prefill", "decode", "mixed"), ("mixed", "prefill")]
)
def test_pools_that_can_serve(roles: tuple[str, ...]) -> None:
    pools = [{"name": role, "role": role} for role in roles]
    assert len(ClusterSpec.model_validate({"pools": pools}).pools) == len(roles)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"pools": []}, "a prefill and a decode pool, or a mixed one"),
        ({"pools": [{"name": "p", "role": "prefill"}]}, "a prefill and a decode pool, or a mixed one"),
        ({"pools": [{"name": "a", "role": "mixed"}, {"name": "a", "role": "mixed"}]}, "must differ"),
        ({"pools": [{"name": "a", "role": "mixed", "workers": 2, "cores": [[0]]}]}, "cores for 1"),
        ({"pools": [{"name": "", "role": "mixed"}]}, "pools.0.name"),
        ({"pools": [{"name": "a", "role": "boss"}]}, "pools.0.role"),
        ({"pools": [{"name": "a", "role": "mixed", "workers": 0}]}, "pools.0.workers"),
        ({"limits": {"queue_timeout": 1.0}}, "limits.queue_timeout"),
        ({"limits": {"heartbeat_timeout_s": 0}}, "limits.heartbeat_timeout_s"),
        ({"kv": {"block_tokens": 0}}, "kv.block_tokens"),
        ({"slo": {"ttft_s": -1.0}}, "slo.ttft_s"),
        ({"model": {"dtype": "int8"}}, "model.dtype"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_what_is_wrong_is_named(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ClusterSpec.model_validate(spec)


def test_specs_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        LimitsSpec().max_losses = 9
    with pytest.raises(ValidationError, match="frozen"):
        KVSpec().block_tokens = 9


def test_every_limit_and_size_says_what_it_is_for_or_is_named_with_its_unit() -> None:
    units = ("_s", "_tokens", "_bytes", "_requests", "workers", "_losses")
    for spec in (LimitsSpec, KVSpec, PoolSpec):
        for name, field in spec.model_fields.items():
            assert field.description or name.endswith(units) or name in ("name", "role"), (
                f"{spec.__name__}.{name}"
            )


def test_an_arena_contains_its_own_blocks_only() -> None:
    arena = Arena(10, 5)
    assert [block for block in range(20) if block in arena] == [10, 11, 12, 13, 14]
