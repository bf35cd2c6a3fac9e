"""Start a cluster, measure its steps, write a profile.

Knows: the form of a profile file. Does not know: experiments and fits in detail.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import yaml

from diptych.bench.house.ask import House
from diptych.bench.house.experiments import Experiments, Samples
from diptych.bench.house.fit import Fitted, fit_profile
from diptych.bench.house.steps import StepWatch
from diptych.domain.cluster import ClusterSpec
from diptych.runtime.cluster import Cluster

Say = Callable[[str, float], None]
"""Told what happens now, and which share is done."""


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """Profiles by role, and where they come from."""

    fitted: dict[str, Fitted]
    origin: dict[str, Any]


async def calibrate(spec: ClusterSpec, say: Say) -> Calibration:
    """Measure the built-in engine as ``spec`` runs it: its pools, threads, numbers, chunk sizes.

    Raises:
        SpecError: the spec or the model is wrong.
        ClusterError: the cluster does not start, or answers too little to fit anything.
    """
    watch = StepWatch()
    async with Cluster(spec, journal=watch) as cluster:
        watch.take()
        samples = await Experiments(House(cluster, seed=spec.seed), watch, say).run()
        return Calibration(fitted=_fit(cluster, samples), origin=_origin(cluster))


def write(calibration: Calibration, path: Path) -> None:
    """As YAML that ``--profile`` reads."""
    document = {
        "calibration": calibration.origin,
        "residuals": {
            role: {kind: msgspec.to_builtins(residual) for kind, residual in fitted.residuals.items()}
            for role, fitted in calibration.fitted.items()
        },
        "profiles": {
            role: fitted.profile.model_dump(mode="json") for role, fitted in calibration.fitted.items()
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")


def with_fitted(spec: ClusterSpec, calibration: Calibration) -> ClusterSpec:
    """``spec`` with each pool's measured profile."""
    pools = tuple(
        pool.model_copy(update={"profile": calibration.fitted[pool.role.value].profile})
        for pool in spec.pools
    )
    return spec.model_copy(update={"pools": pools})


def _fit(cluster: Cluster, samples: Samples) -> dict[str, Fitted]:
    layout = cluster.choice.layout
    return {
        share.pool.role.value: fit_profile(
            samples,
            share.pool.role.value,
            kv_tokens=share.arena.blocks * layout.block_tokens,
            kv_bytes_per_token=layout.token_bytes,
        )
        for share in cluster.shares
    }


def _origin(cluster: Cluster) -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "model": cluster.spec.model.path,
        "engine": cluster.choice.name,
        "machine": platform.machine(),
        "pools": {
            share.worker_id: {
                "role": share.pool.role.value,
                "cores": list(share.cores),
                "threads": share.threads,
            }
            for share in cluster.shares
        },
        "chunk_tokens": {pool.name: pool.token_budget for pool in cluster.spec.pools},
        "block_tokens": cluster.spec.kv.block_tokens,
    }
