"""Long prompts prefilled elsewhere: the best threshold and the best split of the local instances.

Knows: rates of instances, a link, lengths; what limits their throughput together. Does not know: what the
instances
are, queues. Equations: latency model §9, after *Prefill-as-a-Service* (PrfaaS, 2026).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, inf, log

from diptych.planning.closed.checks import count, not_negative, positive
from diptych.planning.closed.lengths import LogNormalLengths
from diptych.planning.closed.polynomial import Polynomial


@dataclass(frozen=True, slots=True)
class OffloadFleet:
    """Remote instances prefill only; local ones are divided between prefill and decode."""

    lengths: LogNormalLengths
    remote_prefill_s: Polynomial
    """Seconds of one prompt on a remote instance, over its tokens."""
    local_prefill_s: Polynomial
    decode_rps: float
    """Requests per second that one local decode instance carries."""
    kv_bytes: Polynomial
    """KV of a prompt over its tokens."""
    link_bytes_per_s: float
    remote_instances: int
    local_instances: int

    def __post_init__(self) -> None:
        positive(decode_rps=self.decode_rps, link_bytes_per_s=self.link_bytes_per_s)
        count(remote_instances=self.remote_instances, local_instances=self.local_instances)


@dataclass(frozen=True, slots=True)
class OffloadPlan:
    """One threshold and split, and what they carry."""

    threshold_tokens: float
    local_prefill: int
    local_decode: int
    throughput_rps: float
    binding: str
    """Which of remote prefill, local prefill, decode, link is full first."""
    egress_bytes_per_s: float


def offload_plan(fleet: OffloadFleet, threshold_tokens: float, local_prefill: int) -> OffloadPlan:
    """``Λ = min(Θ_remote/p, Θ_local_prefill/(1−p), Θ_decode, link/(p·E[S | long]))``, p = P(length > t)."""
    not_negative(threshold_tokens=threshold_tokens, local_prefill=local_prefill)
    lengths = fleet.lengths
    p = lengths.share_beyond(threshold_tokens)
    decode = fleet.local_instances - local_prefill
    long_bytes = p * lengths.mean(fleet.kv_bytes, low=threshold_tokens)
    limits = {
        "remote prefill": _rate(
            fleet.remote_instances, p * lengths.mean(fleet.remote_prefill_s, low=threshold_tokens)
        ),
        "local prefill": _rate(
            local_prefill, (1 - p) * lengths.mean(fleet.local_prefill_s, high=threshold_tokens)
        ),
        "decode": fleet.decode_rps * decode,
        "link": _rate(fleet.link_bytes_per_s, long_bytes),
    }
    binding = min(limits, key=lambda name: limits[name])
    rps = limits[binding]
    return OffloadPlan(threshold_tokens, local_prefill, decode, rps, binding, rps * long_bytes)


def best_threshold(fleet: OffloadFleet, local_prefill: int) -> OffloadPlan:
    """The best threshold for a split. Remote prefill's bound rises with the threshold and local prefill's
    falls, so their minimum has one peak: golden-section search over the logarithm of the length."""
    low, high = log(fleet.lengths.shortest), log(fleet.lengths.longest)
    ratio = (5**0.5 - 1) / 2
    for _ in range(60):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        # On the flat top of a bound by decode both are equal; either side holds an optimum.
        if _prefill_rps(fleet, exp(left), local_prefill) < _prefill_rps(fleet, exp(right), local_prefill):
            low = left
        else:
            high = right
    return offload_plan(fleet, exp((low + high) / 2), local_prefill)


def best_offload(fleet: OffloadFleet) -> OffloadPlan:
    """The best threshold and split."""
    plans = [best_threshold(fleet, prefill) for prefill in range(fleet.local_instances)]
    return max(plans, key=lambda plan: plan.throughput_rps)


def all_remote_rps(fleet: OffloadFleet) -> float:
    """The naive use of both kinds: every prompt prefilled remotely, every local instance decodes."""
    prefill = _rate(fleet.remote_instances, fleet.lengths.mean(fleet.remote_prefill_s))
    link = _rate(fleet.link_bytes_per_s, fleet.lengths.mean(fleet.kv_bytes))
    return min(prefill, link, fleet.decode_rps * fleet.local_instances)


def best_homogeneous(fleet: OffloadFleet, instances: int) -> tuple[int, float]:
    """(prefill instances, throughput) of the best split of ``instances`` local ones without a remote."""
    count(instances=instances)
    prompt_s = fleet.lengths.mean(fleet.local_prefill_s)
    found = [
        (min(_rate(n, prompt_s), fleet.decode_rps * (instances - n)), -n) for n in range(1, instances)
    ] or [(0.0, 0)]
    rps, prefill = max(found)
    return -prefill, rps


def _prefill_rps(fleet: OffloadFleet, threshold: float, local_prefill: int) -> float:
    p = fleet.lengths.share_beyond(threshold)
    remote = _rate(fleet.remote_instances, p * fleet.lengths.mean(fleet.remote_prefill_s, low=threshold))
    link = _rate(fleet.link_bytes_per_s, p * fleet.lengths.mean(fleet.kv_bytes, low=threshold))
    local = _rate(local_prefill, (1 - p) * fleet.lengths.mean(fleet.local_prefill_s, high=threshold))
    return min(remote, link, local)


def _rate(amount: float, each: float) -> float:
    return amount / each if each > 0 else inf
