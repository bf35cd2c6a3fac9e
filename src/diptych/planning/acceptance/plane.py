"""The same tests on diptych's own control plane: specs, and what a run in virtual time shows of each request.

Knows: which limits of a spec the tests do not have (queues without end, no prompt cache). Does not know: the
tests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from diptych.domain.cluster import ClusterSpec, KVSpec, LimitsSpec, PoolSpec, SloSpec
from diptych.domain.fleet import LinkSpec, ProfileSpec
from diptych.domain.worker import Role
from diptych.performance.steps import StepModel
from diptych.planning.acceptance.rules.requests import Asked, Served, as_workload
from diptych.planning.result import SimulationResult
from diptych.planning.simulate import simulate

PATIENT = LimitsSpec(
    queue_requests=1_000_000,
    queue_tokens=10**12,
    queue_timeout_s=1e7,
    placing_timeout_s=1e7,
    handoff_timeout_s=1e7,
    no_worker_timeout_s=1e7,
)
"""The tests let every request wait for as long as it takes."""
SEATS = 512


def instant_link(handoff_s: float = 0.0) -> LinkSpec:
    """Memory domains of their own, so that each worker's KV is its own; KV crosses in ``handoff_s``."""
    return LinkSpec(bandwidth_bytes_per_s=1e18, latency_s=0.0, residual_s=handoff_s, shared=False)


def pool(
    name: str,
    role: Role,
    workers: int = 1,
    profile: ProfileSpec | None = None,
    *,
    budget: int = 2048,
    chunked: bool = True,
    seats: int = SEATS,
) -> PoolSpec:
    """Workers with a measured profile, or with a step model that is handed to the run."""
    return PoolSpec(
        name=name,
        role=role,
        workers=workers,
        token_budget=budget,
        max_running=seats,
        chunked_prefill=chunked,
        profile=profile,
    )


def split_spec(
    prefill: ProfileSpec | None,
    prefills: int,
    decode: ProfileSpec | None,
    decodes: int,
    *,
    handoff_s: float = 0.0,
    budget: int = 2048,
) -> ClusterSpec:
    """Whole prompts on some workers, decodes on others."""
    whole = spec(
        pool("prefill", Role.PREFILL, prefills, prefill, chunked=False, budget=budget),
        pool("decode", Role.DECODE, decodes, decode),
    )
    return whole.model_copy(update={"link": instant_link(handoff_s)})


def spec(*pools: PoolSpec, slo: SloSpec | None = None) -> ClusterSpec:
    """A cluster of these pools, by the tests' limits."""
    return ClusterSpec(pools=pools, kv=KVSpec(prompt_cache=False), limits=PATIENT, slo=slo or SloSpec())


def with_slo(cluster: ClusterSpec, ttft_s: float, tpot_s: float) -> ClusterSpec:
    """Placement weighs its targets, as in service."""
    return cluster.model_copy(update={"slo": SloSpec(ttft_s=ttft_s, tpot_s=tpot_s)})


def run(
    cluster: ClusterSpec,
    asked: Sequence[Asked],
    step_models: Mapping[str, StepModel] | None = None,
    *,
    keep: bool = False,
) -> SimulationResult:
    """The requests through the control plane."""
    return simulate(
        cluster, as_workload("acceptance", lambda: asked), step_models=step_models, keep_requests=keep
    )


def served(result: SimulationResult) -> list[Served]:
    """Each request of a run that kept them, by number. Worst gaps are not kept in virtual time."""
    found: list[Served] = []
    for it in sorted(result.records, key=lambda record: record.number):
        assert it.first_token_s is not None and it.last_token_s is not None, (
            f"request {it.number}: {it.state}"
        )
        gaps = it.output_tokens - 1
        mean_s = (it.last_token_s - it.first_token_s) / gaps if gaps > 0 else None
        found.append(Served(it.first_token_s - it.arrival_s, mean_s, None, it.last_token_s - it.arrival_s))
    return found
