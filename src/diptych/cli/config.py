"""`diptych config`: the spec that would run, whether a file is valid, and the schema for editors.

Knows: printing specs. Does not know: running them.
"""

from __future__ import annotations

import json
import os
import sys

from cyclopts import App

from diptych.cli.options import ClusterFlags

app = App(name="config", help="Show or validate a cluster spec, or print its JSON schema.")


@app.command
def show(
    target: str | None = None, /, *, cluster: ClusterFlags = ClusterFlags(), origin: bool = False
) -> None:
    """Print the complete spec that `serve` would run with the same arguments, as YAML.

    Parameters
    ----------
    target: str
        A model (directory, hub name or 'builtin') or a spec file.
    origin: bool
        Say beside each key where its value comes from.
    """
    import yaml

    from diptych.cli.spec import resolve

    resolved = resolve(target, cluster, os.environ)
    data = resolved.spec.model_dump(mode="json")
    if origin:
        print("\n".join(_with_origins(data, resolved.origins)))
    else:
        print(yaml.safe_dump(data, sort_keys=False), end="")


@app.command
def validate(file: str, /) -> None:
    """Check a spec file; exit 0 if it is valid, 2 with one line for each wrong key if it is not."""
    from pathlib import Path

    from diptych.cli.spec import load_file

    spec = load_file(Path(file)).spec
    workers = ", ".join(f"{pool.workers} {pool.role.value}" for pool in spec.pools)
    print(f"{file}: valid ({spec.model.path}; {workers})")


@app.command
def schema() -> None:
    """Print the JSON schema of the spec."""
    from diptych.domain.cluster import ClusterSpec

    json.dump(ClusterSpec.model_json_schema(), sys.stdout, indent=2)
    print()


def _with_origins(data: dict[str, object], origins: dict[str, str]) -> list[str]:
    """One line per key: dotted key, value, origin."""
    lines = [(key, json.dumps(value), origins.get(key, "default")) for key, value in _flat(data)]
    width = max(len(f"{key} = {value}") for key, value, _ in lines)
    return [f"{f'{key} = {value}':<{width}}  # {source}" for key, value, source in lines]


def _flat(data: object, prefix: str = "") -> list[tuple[str, object]]:
    match data:
        case dict():
            return [
                pair for key, value in data.items() for pair in _flat(value, f"{prefix}.{key}".strip("."))
            ]
        case list() if data and all(isinstance(item, dict) for item in data):
            return [pair for item in data for pair in _flat(item, f"{prefix}.{item['name']}")]
        case _:
            return [(prefix, data)]
