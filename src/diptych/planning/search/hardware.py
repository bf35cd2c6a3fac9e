"""From names of hardware to the engines that can be built of it.

Knows: which parallel layouts are worth trying, what is left out and why. Does not know: how good they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import yaml
from pydantic import ValidationError

from diptych.domain.errors import SpecError
from diptych.domain.fleet import DeviceSpec, ProfileSpec
from diptych.performance.chip import Chip
from diptych.performance.cost import Rent, rent_of
from diptych.performance.figures import MissingFigure
from diptych.performance.model_sizes import ModelSizes
from diptych.performance.power import CAPPED_POWER_SHARE
from diptych.performance.steps import FittedSteps
from diptych.planning.devices import catalogue, device_steps, middle_rent, model_sizes
from diptych.planning.search.engine import Engine

TENSOR = (1, 2, 4, 8)
"""Tensor parallel sizes tried."""

PIPELINE = (1, 2, 4)
"""Pipeline stages tried where the model needs more chips than the largest tensor parallel group."""

WIDE = (2, 4, 8, 16, 32)
"""Attention data parallel ranks, with as many expert parallel chips, tried for mixtures of experts."""

Weights = Literal["auto", "bf16", "fp8", "fp4"]


@dataclass(frozen=True)
class Build:
    """What all engines have in common."""

    model: str
    weights: Weights = "auto"
    kv: Literal["bf16", "fp8"] = "bf16"
    engine: str = "vllm"
    rents: Mapping[str, float] = field(default_factory=dict)
    """USD per chip and hour by name; wins over the catalogue."""
    cap_decode: bool = False
    """Also try decode engines with capped power."""


@dataclass
class Found:
    """Engines, and everything that a reader of the plan must know about their figures."""

    engines: list[Engine] = field(default_factory=list[Engine])
    notes: list[str] = field(default_factory=list[str])

    def note(self, words: str) -> None:
        """Once each."""
        if words not in self.notes:
            self.notes.append(words)


def find_engines(names: Sequence[str], build: Build) -> Found:
    """All engines of the named hardware that hold the model; a name may be the file of a measured profile.

    Raises:
        SpecError: an unknown name (the nearest are given), or nothing that holds the model.
    """
    found = Found()
    refused: list[str] = []
    for name in names:
        if Path(name).suffix in (".yaml", ".yml", ".json"):
            found.engines.append(_measured(Path(name)))
            continue
        chip = _named(name, "--hardware")
        try:
            made = list(_of_chip(chip, build, found))
        except MissingFigure as missing:
            refused.append(f"{chip.name} is left out: {missing.missing}")
            continue
        if not made:
            why = f"no layout of up to {TENSOR[-1] * PIPELINE[-1]} chips holds the model"
            if chip.scaleup is None:
                why = "alone it does not hold the model, and its link to others is not published"
            refused.append(f"{chip.name} is left out: {why}")
        found.engines.extend(made)
    for words in refused:
        found.note(words)
    if not found.engines:
        raise SpecError(
            f"--hardware {','.join(names)}: nothing can serve {build.model}; " + "; ".join(refused)
        )
    return found


def _of_chip(chip: Chip, build: Build, found: Found) -> Iterator[Engine]:
    weights = build.weights
    if weights == "auto":
        weights = "fp8" if chip.supports("fp8") else "bf16"
        found.note(
            f"{chip.name}: weights in {weights} ({'it computes in fp8' if weights == 'fp8' else 'no fp8'})"
        )
    port = None if chip.nic is None else chip.nic_bytes_per_s
    if port is None:
        found.note(f"{chip.name}: nic_bytes_per_s is not published; a split with it needs --link")
    watts = None if chip.tdp is None else chip.tdp_w
    money = _money(chip, build.rents, found)
    model = model_sizes(build.model)
    for layout in _layouts(model, chip):
        device = DeviceSpec(chip=chip.name, engine=build.engine, weights=weights, kv=build.kv, **layout)
        try:
            steps = device_steps(build.model, device)
        except MissingFigure:
            raise
        except SpecError:
            continue  # the weights do not fit, or the layout does not suit the model
        if steps.kv_tokens < 1:
            continue
        count = device.chips
        plain = Engine(
            name=_name(chip.name, device),
            chip=chip.name,
            chips=count,
            steps=steps,
            kv_token_bytes=steps.kv_token_bytes,
            layers=steps.layers,
            device=device,
            watts=None if watts is None else watts * count,
            money_per_hour=None if money is None else money * count,
            port_bytes_per_s=None if port is None else port * count,
        )
        yield plain
        if build.cap_decode and watts is not None:
            yield _capped(plain, device, watts * CAPPED_POWER_SHARE)


def _capped(plain: Engine, device: DeviceSpec, cap_w: float) -> Engine:
    return Engine(
        name=f"{plain.name} capped at {cap_w:.0f} W",
        chip=plain.chip,
        chips=plain.chips,
        steps=plain.steps,
        kv_token_bytes=plain.kv_token_bytes,
        layers=plain.layers,
        device=device.model_copy(update={"power_cap_w": cap_w}),
        watts=cap_w * plain.chips,
        money_per_hour=plain.money_per_hour,
        port_bytes_per_s=plain.port_bytes_per_s,
        uncapped=plain,
    )


def _named(name: str, flag: str) -> Chip:
    try:
        return catalogue().chip(name)
    except SpecError as error:
        raise SpecError(f"{flag}: {error} (all: diptych plan --list-hardware)") from None


def _layouts(model: ModelSizes, chip: Chip) -> Iterator[dict[str, int]]:
    """Tensor parallel inside a scale-up domain; stages only where that is not enough; wide expert
    parallelism for mixtures of experts."""
    domain = int(chip.scaleup_domain.base) if chip.scaleup_domain is not None else TENSOR[-1]
    sizes = (1,) if chip.unit == "system" or chip.scaleup is None else tuple(t for t in TENSOR if t <= domain)
    for tp in sizes:
        yield {"tensor_parallel": tp, "expert_parallel": tp if model.experts and tp > 1 else 1}
    largest = {"tensor_parallel": sizes[-1]}
    if chip.scaleup is not None and not _fits(model, chip, sizes[-1]):
        for stages in PIPELINE[1:]:
            yield {**largest, "pipeline_parallel": stages}
    if model.experts and chip.scaleup is not None:
        for ranks in WIDE:
            if ranks <= domain:
                yield {"attention_data_parallel": ranks, "expert_parallel": ranks}


def _fits(model: ModelSizes, chip: Chip, tp: int) -> bool:
    """Roughly: weights in fp8 below 80 % of the memory."""
    return model.parameters < 0.8 * tp * (chip.main.capacity.base if chip.main.capacity is not None else 0.0)


def _name(chip: str, device: DeviceSpec) -> str:
    parts = [chip, f"TP{device.tensor_parallel}"]
    if device.pipeline_parallel > 1:
        parts.append(f"PP{device.pipeline_parallel}")
    if device.attention_data_parallel > 1:
        parts[1] = f"DP{device.attention_data_parallel}"
    if device.expert_parallel > 1:
        parts.append(f"EP{device.expert_parallel}")
    return " ".join(parts)


def _money(chip: Chip, rents: Mapping[str, float], found: Found) -> float | None:
    given = {_named(name, "--rent").name: value for name, value in rents.items()}
    rent = rent_of(chip, {name: value for name, value in given.items() if name == chip.name})
    if not isinstance(rent, Rent):
        found.note(f"{rent}; give --rent {chip.name}=USD_PER_HOUR to have it counted")
        return None
    middle = middle_rent(rent)
    if rent.low != rent.high:
        found.note(
            f"{chip.name}: rent {middle:.2f} USD per chip and hour, the geometric middle of {rent.low:g} to "
            f"{rent.high:g} ({rent.source})"
        )
    return middle


def _measured(path: Path) -> Engine:
    """A profile that somebody measured. Raises `SpecError`."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        if isinstance(data, dict) and isinstance(data.get("profile"), dict):
            data = data["profile"]
        profile = ProfileSpec.model_validate(data)
    except OSError as error:
        raise SpecError(
            f"--hardware {path}: cannot be read: {error.strerror}; give a profile that `diptych calibrate` "
            "wrote, or the name of catalogue hardware"
        ) from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise SpecError(f"--hardware {path}: is not YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "profile"
        raise SpecError(
            f"--hardware {path}: is not a measured profile: {where}: {first['msg']}; `diptych calibrate` "
            "writes one"
        ) from None
    return profile_engine(path.stem, profile)


def profile_engine(
    name: str, profile: ProfileSpec, layers: int = 32, port_bytes_per_s: float | None = None
) -> Engine:
    """An engine with a measured profile: its power is taken for its rated power."""
    return Engine(
        name=name,
        chip=name,
        chips=profile.chips,
        steps=FittedSteps(profile),
        kv_token_bytes=profile.kv_bytes_per_token,
        layers=layers,
        profile=profile,
        watts=profile.power_busy_w,
        money_per_hour=profile.cost_per_hour,
        port_bytes_per_s=port_bytes_per_s,
    )
