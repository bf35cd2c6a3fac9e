"""Energy and money of a simulated run.

Knows: what a spec or the catalogue says of power and price. Does not know: how the run went.
"""

from __future__ import annotations

from diptych.domain.cluster import PoolSpec


def consumption(
    pool: PoolSpec, prefill_s: float, decode_s: float, makespan_s: float
) -> tuple[float | None, float | None]:
    """(energy in joules, money) of one pool; None where a figure is not known."""
    hours = makespan_s * pool.workers / 3600
    if pool.profile is not None:
        busy_w, idle_w = pool.profile.power_busy_w, pool.profile.power_idle_w
        idle_s = max(0.0, makespan_s * pool.workers - prefill_s - decode_s)
        energy_j = None
        if busy_w is not None and idle_w is not None:
            energy_j = busy_w * (prefill_s + decode_s) + idle_w * idle_s
        rent = pool.profile.cost_per_hour
        return energy_j, None if rent is None else rent * hours
    if pool.rates is not None:
        rent = pool.rates.cost_per_hour
        return None, None if rent is None else rent * hours
    if pool.device is not None:
        from diptych.planning.devices import device_consumption

        return device_consumption(pool, prefill_s, decode_s, makespan_s)
    return None, None
