"""Commands as a user types them: output, exit codes, messages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from diptych import __version__
from diptych.domain.cluster import ClusterSpec


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """`diptych` with these arguments, in a new process and a known environment."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DIPTYCH_")}
    return subprocess.run(
        [sys.executable, "-m", "diptych", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**kept, "NO_COLOR": "1", "COLUMNS": "120", **environ},
    )


def test_help_lists_every_command() -> None:
    done = run("--help")
    assert done.returncode == 0
    for command in ("serve", "generate", "doctor", "config", "version"):
        assert command in done.stdout


@pytest.mark.parametrize("command", ["serve", "generate", "doctor", "config", "version"])
def test_every_command_has_help(command: str) -> None:
    done = run(command, "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage: diptych" in done.stdout


@pytest.mark.parametrize("arguments", [("nonsense",), ("serve", "--prefil", "1"), ("serve", "--port", "x")])
def test_bad_usage_exits_with_2(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_version() -> None:
    done = run("version")
    assert done.returncode == 0
    assert done.stdout.startswith(f"diptych {__version__}\n")
    assert run("--version").stdout.strip() == __version__


def test_config_show_is_a_valid_spec(tmp_path: Path) -> None:
    shown = run("config", "show", "--decode", "2", DIPTYCH_LIMITS__MAX_LOSSES="7")
    assert shown.returncode == 0, shown.stderr
    spec = ClusterSpec.model_validate(yaml.safe_load(shown.stdout))
    assert (spec.pools[1].workers, spec.limits.max_losses) == (2, 7)
    path = tmp_path / "again.yaml"
    path.write_text(shown.stdout)
    assert run("config", "validate", str(path)).returncode == 0
    assert run("config", "show", str(path)).stdout == shown.stdout


def test_config_show_origin() -> None:
    shown = run("config", "show", "--origin", "--decode", "2", DIPTYCH_LIMITS__MAX_LOSSES="7")
    lines = {line.split(" = ")[0]: line for line in shown.stdout.splitlines()}
    assert lines["pools.decode.workers"].endswith("# flag --decode")
    assert lines["limits.max_losses"].endswith("# environment DIPTYCH_LIMITS__MAX_LOSSES")
    assert lines["seed"].endswith("# default")


def test_config_validate_names_every_wrong_key(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("kv: {block_token: 1}\nlimits: {max_losses: -1}\n")
    done = run("config", "validate", str(path))
    assert done.returncode == 2
    assert "kv.block_token: there is no such key; did you mean block_tokens?" in done.stderr
    assert "limits.max_losses" in done.stderr
    assert "Traceback" not in done.stderr


def test_config_schema_names_every_key() -> None:
    schema = json.loads(run("config", "schema").stdout)
    assert set(schema["properties"]) == set(ClusterSpec.model_fields)


def test_doctor_reports_every_check_once() -> None:
    done = run("doctor", "--json", HF_TOKEN="hf_secret_value")
    report = json.loads(done.stdout)
    names = [check["name"] for check in report["checks"]]
    assert len(set(names)) == len(names)
    assert {"python", "cpu", "cores", "memory", "shared memory", "torch", "built-in model"} <= set(names)
    broken = [check for check in report["checks"] if check["essential"] and check["status"] == "missing"]
    assert report["ok"] is (not broken)
    assert done.returncode == (1 if broken else 0)
    assert "hf_secret_value" not in done.stdout + done.stderr


def test_doctor_gives_a_remedy_with_every_problem() -> None:
    for check in json.loads(run("doctor", "--json").stdout)["checks"]:
        assert check["status"] == "ok" or check["remedy"], check
