"""What `diptych plan --output` writes: spec.yaml, report.html, result.json.

Knows: files of a folder. Does not know: what is in them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from diptych.domain.cluster import ClusterSpec
from diptych.domain.errors import SpecError
from diptych.planning.report.html import report_html
from diptych.planning.report.plan_data import plan_data
from diptych.planning.search.plan import Plan


def write_plan(plan: Plan, folder: Path) -> None:
    """All three files. Raises `SpecError` if the folder cannot be written."""
    data = plan_data(plan)
    head = (
        f"# {data['words']}\n"
        f"# Written by `diptych plan` for {data['workload']['name']}.\n"
        "# Run it: diptych simulate spec.yaml --workload …, or diptych serve spec.yaml --engine modelled\n"
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "spec.yaml").write_text(head + spec_yaml(plan.spec), encoding="utf-8")
        (folder / "result.json").write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
        (folder / "report.html").write_text(report_html(data), encoding="utf-8")
    except OSError as error:
        raise SpecError(f"--output {folder}: {error.strerror}; name a folder that can be written") from None


def spec_yaml(spec: ClusterSpec) -> str:
    """A spec as text: only what differs from the defaults."""
    data: dict[str, Any] = spec.model_dump(mode="json", exclude_defaults=True)
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
