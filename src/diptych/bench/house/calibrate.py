"""Start a cluster, measure its steps, write a profile.

Knows: the form of a profile file. Does not know: experiments and fits in detail.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import yaml

from diptych.bench.house.anchor import SEED, Anchor, Drift
from diptych.bench.house.ask import House
from diptych.bench.house.experiments import Experiments, Samples
from diptych.bench.house.fit import Fitted, fit_profile
from diptych.bench.house.loads import lengths_for, saturation_rps
from diptych.bench.house.steps import Step, StepWatch
from diptych.domain.cluster import ClusterSpec
from diptych.runtime.cluster import Cluster

LOADS = 4
"""Runs of a short load, for what steps in service cost beyond single steps. One is off by some hundredths."""

Say = Callable[[str, float], None]
"""Told what happens now, and which share is done."""


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """Profiles by role, and where they come from. ``in_service``: what a load showed beyond single steps; the
    profiles hold it already, the residuals do not."""

    fitted: dict[str, Fitted]
    in_service: Drift
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
        house = House(cluster, seed=spec.seed)
        fitted = _fit(cluster, await Experiments(house, watch, say).run())
        alone = _with_profiles(spec, fitted)
        lengths = lengths_for(cluster.max_model_tokens, spec.kv.block_tokens)
        most_rps = await asyncio.to_thread(saturation_rps, alone, lengths, SEED)
        anchor = Anchor(house, watch, lengths, most_rps)
        steps: list[Step] = []
        for number in range(LOADS):
            say(f"a load, {number + 1} of {LOADS}", 1.0)
            steps += await anchor.run()
        in_service = {
            pool.role.value: msgspec.structs.replace(fitted[pool.role.value], profile=pool.profile)
            for pool in anchor.service.profiled(alone, steps).pools
            if pool.profile is not None
        }
        return Calibration(
            fitted=in_service, in_service=anchor.service.drift(alone, steps), origin=_origin(cluster)
        )


def write(calibration: Calibration, path: Path) -> None:
    """As YAML that ``--profile`` reads."""
    document = {
        "calibration": calibration.origin,
        "in_service": calibration.in_service._asdict(),
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
    return _with_profiles(spec, calibration.fitted)


def _with_profiles(spec: ClusterSpec, fitted: dict[str, Fitted]) -> ClusterSpec:
    pools = tuple(pool.model_copy(update={"profile": fitted[pool.role.value].profile}) for pool in spec.pools)
    return spec.model_copy(update={"pools": pools})


def _fit(cluster: Cluster, samples: Samples) -> dict[str, Fitted]:
    layout = cluster.choice.layout
    return {
        share.pool.role.value: fit_profile(
            samples,
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
