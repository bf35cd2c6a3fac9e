"""Catalogue hardware as pools use it: seconds of its steps, joules and money of a run.

Knows: how catalogue, model library, efficiencies, power and prices fit together. Does not know: formulas of
any of them, time, requests."""

from __future__ import annotations

from functools import lru_cache
from math import sqrt

from diptych.domain.cluster import PoolSpec
from diptych.domain.fleet import DeviceSpec
from diptych.domain.worker import Role
from diptych.performance.catalogue import Catalogue
from diptych.performance.cost import SECONDS_PER_HOUR, Rent, rent_of
from diptych.performance.efficiencies import Fitted
from diptych.performance.model_sizes import ModelSizes
from diptych.performance.power import UnknownPower, power_states, refuse_cap
from diptych.performance.roofline_steps import RooflineSteps, roofline_steps
from diptych.planning.library import load_catalogue, load_efficiencies, load_model


@lru_cache(maxsize=1)
def catalogue() -> Catalogue:
    """The package's hardware catalogue, read once a process."""
    return load_catalogue()


@lru_cache(maxsize=1)
def efficiencies() -> Fitted:
    """The package's fitted efficiencies, read once a process."""
    return load_efficiencies()


@lru_cache(maxsize=16)
def model_sizes(name_or_path: str) -> ModelSizes:
    """Sizes of a known model or of a `config.json`, read once a process."""
    return load_model(name_or_path)


def device_steps(model_name: str, device: DeviceSpec) -> RooflineSteps:
    """Seconds of the steps of one engine on catalogue hardware; also ``kv_token_bytes`` and ``layers``.

    Raises:
        SpecError: unknown model or chip (the nearest are named), weights that do not fit, or a figure that
        the
            vendor does not publish.
    """
    return _steps(model_name, device.model_dump_json())


@lru_cache(maxsize=512)
def _steps(model_name: str, device_text: str) -> RooflineSteps:
    device = DeviceSpec.model_validate_json(device_text)
    return roofline_steps(model_sizes(model_name), catalogue().chip(device.chip), device, efficiencies())


def device_consumption(
    pool: PoolSpec, prefill_s: float, decode_s: float, makespan_s: float
) -> tuple[float | None, float | None]:
    """(joules, USD) of one pool over a run; None where power or rent is not published.

    ``prefill_s`` and ``decode_s`` are busy seconds summed over the workers; a worker's chips are busy
    together. Raises `SpecError` for a power cap on a pool that prefills."""
    device = pool.device
    if device is None:
        return None, None
    chip = catalogue().chip(device.chip)
    refuse_cap(Role(pool.role), device.power_cap_w)
    power = power_states(chip)
    if device.power_cap_w is not None:
        power = power.capped(device.power_cap_w)
    idle_s = max(0.0, makespan_s * pool.workers - prefill_s - decode_s)
    joules = None
    if not isinstance(power, UnknownPower):
        joules = device.chips * power.energy_j(prefill_s, decode_s, idle_s)
    rent = rent_of(chip)
    if not isinstance(rent, Rent):
        return joules, None
    hours = makespan_s * pool.workers * device.chips / SECONDS_PER_HOUR
    return joules, middle_rent(rent) * hours


def middle_rent(rent: Rent) -> float:
    """One figure out of a range of offers: the geometric mean, as prices differ by factors."""
    return sqrt(rent.low * rent.high)
