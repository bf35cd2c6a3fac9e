"""What `diptych calibrate` measured, put into a spec.

Knows: the form of a profile file. Does not know: how it was measured.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import ValidationError

from diptych.domain.cluster import ClusterSpec
from diptych.domain.errors import SpecError
from diptych.domain.fleet import ProfileSpec


def with_profile(spec: ClusterSpec, path: Path | None) -> ClusterSpec:
    """``spec`` with the measured profile of each pool's role. Pools that have one keep theirs.

    Raises:
        SpecError: the file cannot be read, is no profile, or lacks a role that the spec has.
    """
    if path is None:
        return spec
    profiles = read_profiles(path)
    pools = []
    for pool in spec.pools:
        if pool.profile is None:
            if pool.role.value not in profiles:
                raise SpecError(
                    f"{path} has no profile for role {pool.role.value!r}, only for {', '.join(profiles)}; "
                    "calibrate with the pools that you want to run"
                )
            measured = profiles[pool.role.value]
            pool = pool.model_copy(update={"profile": measured, "device": None, "rates": None})
        pools.append(pool)
    return spec.model_copy(update={"pools": tuple(pools)})


def read_profiles(path: Path) -> dict[str, ProfileSpec]:
    """Profiles by role. Raises `SpecError`."""
    try:
        loaded: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"cannot read the profile {path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise SpecError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(loaded, dict) or not isinstance(loaded.get("profiles"), dict):
        raise SpecError(f"{path} has no 'profiles'; `diptych calibrate --output {path}` writes them")
    profiles = cast("dict[str, Any]", loaded["profiles"])
    try:
        return {role: ProfileSpec.model_validate(profile) for role, profile in profiles.items()}
    except ValidationError as error:
        raise SpecError(f"{path}: {error}") from None
