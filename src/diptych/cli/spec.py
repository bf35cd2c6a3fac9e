"""From a file, the environment and flags to one `ClusterSpec`: flag > environment > file > default.

Knows: where each setting of the spec can come from, and how to say what is wrong with it. Does not know:
what a setting does; the pydantic model in `diptych.domain.cluster` is the only list of keys.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, get_args

import yaml
from pydantic import BaseModel, ValidationError

from diptych.cli.options import ClusterFlags
from diptych.domain.cluster import ClusterSpec
from diptych.domain.errors import SpecError
from diptych.domain.worker import Role

Path_: TypeAlias = tuple[str, ...]

ENV_PREFIX = "DIPTYCH_"
SPEC_SUFFIXES = (".yaml", ".yml")
ROLE_FLAGS = {"prefill": Role.PREFILL, "decode": Role.DECODE, "mixed": Role.MIXED}

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_bytes(text: str) -> int:
    """Bytes of ``512MiB``, ``2GB`` or a plain number. Raises `SpecError`."""
    number = text.strip().rstrip("BbIiKkMmGg").strip()
    unit = text.strip()[len(number) :].strip().upper()
    try:
        return int(float(number) * _UNITS[unit])
    except (KeyError, ValueError):
        raise SpecError(f"{text!r} is no size in bytes; write it like 512MiB, 2GiB or 1000000000") from None


@dataclass(frozen=True)
class Shorthand:
    """A flag (and `DIPTYCH_…` variable) that stands for one key of the spec; ``*`` means every pool."""

    key: str
    parse: Callable[[Any], Any] = lambda value: value


SHORTHANDS: dict[str, Shorthand] = {
    "dtype": Shorthand("model.dtype"),
    "load_format": Shorthand("model.load_format"),
    "numerics": Shorthand("model.numerics"),
    "weights": Shorthand("pools.*.weights"),
    "max_model_tokens": Shorthand("model.max_model_tokens"),
    "served_model_name": Shorthand("model.served_names", lambda value: _as_names(value)),
    "kv_memory": Shorthand("kv.memory_bytes", lambda value: parse_bytes(str(value))),
    "block_tokens": Shorthand("kv.block_tokens"),
    "chunk_tokens": Shorthand("pools.*.token_budget"),
    "threads": Shorthand("pools.*.threads"),
}


@dataclass(frozen=True)
class Resolved:
    """A valid spec, and where every setting that is not a default came from."""

    spec: ClusterSpec
    origins: dict[str, str] = field(default_factory=dict)
    """Dotted key → 'file NAME', 'environment NAME' or 'flag --name'."""


def resolve(target: str | None, flags: ClusterFlags, environ: Mapping[str, str]) -> Resolved:
    """The spec that a command runs. ``target`` is a model or a spec file; None is the built-in model.

    Raises `SpecError` naming the key, the reason and, for an unknown key, the nearest valid one.
    """
    draft = _Draft()
    if target is not None and target.endswith(SPEC_SUFFIXES):
        draft.put_file(Path(target))
    elif "DIPTYCH_MODEL" in environ and target is None:
        draft.put("model.path", environ["DIPTYCH_MODEL"], "environment DIPTYCH_MODEL")
    elif target is not None:
        draft.put("model.path", target, "argument")
    draft.put_counts(flags, environ)
    draft.put_environment(environ)
    draft.put_flags(flags)
    return Resolved(validate(draft.data), draft.origins)


def load_file(path: Path) -> Resolved:
    """A spec file alone, without environment and flags. Raises `SpecError`."""
    draft = _Draft()
    draft.put_file(path)
    return Resolved(validate(draft.data), draft.origins)


def validate(data: Mapping[str, Any]) -> ClusterSpec:
    """``data`` as a spec. Raises `SpecError` with one line for each wrong key."""
    try:
        return ClusterSpec.model_validate(data)
    except ValidationError as error:
        lines = [_explain(dict(detail), data) for detail in error.errors(include_url=False)]
        raise SpecError("the cluster spec is wrong\n" + "\n".join(f"  {line}" for line in lines)) from None


def has_key(key: str) -> bool:
    """Whether a dotted key such as ``limits.queue_requests`` exists in the spec."""
    *outer, last = key.split(".")
    return last in _fields_at(tuple(outer))


class _Draft:
    """A spec under construction: nested plain values, and where each came from."""

    def __init__(self) -> None:
        self.data: dict[str, Any] = {}
        self.origins: dict[str, str] = {}

    def put_file(self, path: Path) -> None:
        try:
            loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise SpecError(f"cannot read the spec {path}: {error.strerror}") from None
        except yaml.YAMLError as error:
            raise SpecError(f"{path} is not valid YAML: {error}") from None
        if loaded is not None and not isinstance(loaded, dict):
            raise SpecError(f"{path} must hold a mapping of keys, not a {type(loaded).__name__}")
        self.data = dict(loaded or {})
        self.origins = dict.fromkeys(_leaves(self.data), f"file {path}")

    def put_counts(self, flags: ClusterFlags, environ: Mapping[str, str]) -> None:
        """Workers by role; without a file's pools, `--mixed` alone means no split."""
        wanted = {name: _count(name, flags, environ) for name in ROLE_FLAGS}
        if not isinstance(self.data.get("pools"), list):
            if "pools" in self.data:
                return  # of the wrong kind: validation says so
            self.data["pools"] = [] if wanted["mixed"] else [_pool("prefill"), _pool("decode")]
        for name, count in wanted.items():
            if count is not None:
                self._put_count(name, count[0], count[1])

    def _put_count(self, name: str, count: int, origin: str) -> None:
        pools = self.data["pools"]
        same = [pool for pool in pools if isinstance(pool, dict) and pool.get("role") == ROLE_FLAGS[name]]
        if len(same) > 1:
            raise SpecError(
                f"--{name} cannot say which of {len(same)} {name} pools it means; "
                f"use --set pools.NAME.workers={count}"
            )
        if count == 0:
            self.data["pools"] = [pool for pool in pools if pool not in same]
            return
        if not same:
            same = [_pool(name)]
            pools.append(same[0])
        same[0]["workers"] = count
        self.origins[f"pools.{same[0].get('name', name)}.workers"] = origin

    def put_environment(self, environ: Mapping[str, str]) -> None:
        """``DIPTYCH_LIMITS__QUEUE_REQUESTS=64`` is ``limits.queue_requests``; shorthands have their own."""
        for name in sorted(environ):
            key = name.removeprefix(ENV_PREFIX)
            if key == name:
                continue
            if "__" in key:
                self.put(key.lower().replace("__", "."), _scalar(environ[name]), f"environment {name}")
            elif short := SHORTHANDS.get(key.lower()):
                self.put(short.key, short.parse(_scalar(environ[name])), f"environment {name}")

    def put_flags(self, flags: ClusterFlags) -> None:
        for assignment in flags.set:
            key, equals, value = assignment.partition("=")
            if not equals:
                raise SpecError(f"--set {assignment!r} needs the form KEY=VALUE, such as kv.block_tokens=32")
            self.put(key.strip(), _scalar(value), f"flag --set {key.strip()}")
        for name, short in SHORTHANDS.items():
            value = getattr(flags, name)
            if value not in (None, ()):
                self.put(short.key, short.parse(value), f"flag --{name.replace('_', '-')}")

    def put(self, key: str, value: Any, origin: str) -> None:
        """Set one dotted key; a pool is addressed by its name, all of them by ``*``."""
        parts = tuple(key.split("."))
        if parts[0] == "pools" and len(parts) == 3:
            for pool in self._pools(parts[1], key):
                pool[parts[2]] = value
                self.origins[f"pools.{pool.get('name')}.{parts[2]}"] = origin
            return
        place = self.data
        for part in parts[:-1]:
            inner = place.setdefault(part, {})
            if not isinstance(inner, dict):
                raise SpecError(f"{key} ({origin}): {part} holds no keys")
            place = inner
        place[parts[-1]] = value
        self.origins[key] = origin

    def _pools(self, name: str, key: str) -> list[dict[str, Any]]:
        pools = [pool for pool in self.data.get("pools", []) if isinstance(pool, dict)]
        found = [pool for pool in pools if name in ("*", pool.get("name"))]
        if not found:
            names = ", ".join(str(pool.get("name")) for pool in pools)
            raise SpecError(f"{key}: there is no pool {name!r}; pools are: {names}")
        return found


def _pool(role: str) -> dict[str, Any]:
    return {"name": role, "role": role}


def _count(name: str, flags: ClusterFlags, environ: Mapping[str, str]) -> tuple[int, str] | None:
    """Workers asked for of one role, and by what."""
    value: int | None = getattr(flags, name)
    if value is None and (text := environ.get(ENV_PREFIX + name.upper())) is not None:
        if not text.isdecimal():
            raise SpecError(f"{ENV_PREFIX}{name.upper()}={text!r} must be a number of workers")
        return int(text), f"environment {ENV_PREFIX}{name.upper()}"
    if value is None:
        return None
    if value < 0:
        raise SpecError(f"--{name} {value} must not be negative")
    return value, f"flag --{name}"


def _scalar(text: str) -> Any:
    """A value as a YAML file would read it, so that all sources agree on what ``8`` or ``null`` is."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _as_names(value: Any) -> tuple[str, ...]:
    """Model names from flags (a tuple), YAML (a list) or an environment variable (comma-separated)."""
    if isinstance(value, str):
        return tuple(name.strip() for name in value.split(",") if name.strip())
    return tuple(str(name) for name in value) if isinstance(value, list | tuple) else (str(value),)


def _leaves(data: Any, prefix: str = "") -> Iterator[str]:
    """Dotted keys of all plain values; list entries with a name go by it."""
    match data:
        case dict():
            for key, value in data.items():
                yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
        case list() if data and all(isinstance(item, dict) and "name" in item for item in data):
            for item in data:
                yield from _leaves(item, f"{prefix}.{item['name']}")
        case _:
            yield prefix


def _explain(detail: dict[str, Any], data: Mapping[str, Any]) -> str:
    """One validation error as key, reason and remedy."""
    location = tuple(detail["loc"])
    key = ".".join(_names_of(location, data)) or "spec"
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(location[-1]), _fields_at(location[:-1]), n=1)
        hint = f"did you mean {near[0]}?" if near else f"valid keys: {', '.join(_fields_at(location[:-1]))}"
        return f"{key}: there is no such key; {hint}"
    reason = str(detail["msg"]).removeprefix("Value error, ")
    given = detail.get("input")
    return f"{key}: {reason}" + (f" (it is {given!r})" if isinstance(given, str | int | float) else "")


def _names_of(location: tuple[str | int, ...], data: Any) -> Iterator[str]:
    """The location with pools by name instead of by number."""
    for part in location:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            data = None
        named = isinstance(part, int) and isinstance(data, dict) and "name" in data
        yield str(data["name"]) if named and isinstance(data, dict) else str(part)


def _fields_at(location: tuple[str | int, ...]) -> list[str]:
    """Valid keys at a place of the spec."""
    model: type[BaseModel] = ClusterSpec
    for part in location:
        if isinstance(part, str):
            model = _model_in(model.model_fields[part].annotation) or model
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The pydantic model in an annotation such as ``tuple[PoolSpec, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _model_in(inner))), None)
