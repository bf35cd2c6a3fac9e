"""The compiled control plane is the Python one: same answers, and never made from other sources."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

from diptych import compiled
from diptych.compiled import build

REPOSITORY = Path(__file__).parents[2]
DOMAIN = compiled.PACKAGE / "domain"
ON_SOURCES = ("tests/scheduling", "tests/orchestration", "tests/property/test_scheduler_leap.py")

RUN = """
import json
from diptych.cli.main import main
import sys
import sysconfig
sys.argv = ["diptych", "simulate", {spec!r}, "--workload", {workload!r}, "--json"]
main()
"""

WORKLOAD = "synthetic:poisson,rate=30,input=800,output=60,requests=300,seed=1"

SPEC = """
pools:
- {name: prefill, role: prefill, workers: 2, profile: &fit {kv_tokens: 40000,
   prefill: {per_token_s: 5.0e-5, per_token2_s: 1.0e-10}, decode: [{fixed_s: 0.01, per_sequence_s: 1.0e-4}]}}
- {name: decode, role: decode, workers: 2, profile: *fit}
"""


def _python(*arguments: str, compiled_too: bool) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {compiled.SWITCH: "1" if compiled_too else "0"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def _needs_compiled() -> None:
    if not compiled.FINDER.active:
        pytest.skip(f"the control plane is not compiled here: {compiled.FINDER.why_not}")


def test_the_build_has_what_the_types_come_from() -> None:
    """A first install compiles before the dependencies are there: mypy finds what the build requires, or
    nothing."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = {
        re.split(r"[<>=~! ]", text)[0].replace("-", "_") for text in project["build-system"]["requires"]
    }
    imported: set[str] = set()
    for path in [*build.sources(), *(Path("diptych/domain") / it.name for it in DOMAIN.glob("*.py"))]:
        for node in ast.walk(ast.parse((compiled.PACKAGE.parent / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and not node.level:
                imported.add((node.module or "").split(".")[0])
            elif isinstance(node, ast.Import):
                imported |= {it.name.split(".")[0] for it in node.names}
    others = imported - sys.stdlib_module_names - {"diptych"}
    assert others and others <= wanted


def test_where_a_compiler_is_the_control_plane_is_compiled() -> None:
    """Or it was built and the sources have changed since: a working copy may be older than its sources."""
    if os.environ.get("DIPTYCH_BUILD") == "pure" or not any(map(shutil.which, ("gcc", "clang", "cc"))):
        pytest.skip("nothing is compiled here: no compiler, or DIPTYCH_BUILD=pure")
    assert compiled.MANIFEST.is_file(), "the install did not compile; `make compile` and read what pip says"


def test_every_listed_module_exists() -> None:
    assert all((compiled.PACKAGE.parent / path).is_file() for path in build.sources())
    read = {path.parts[1] for path in build.sources()}
    assert read <= set(compiled.READ), "a change of these would not be noticed"


def test_what_runs_is_what_the_description_says() -> None:
    import diptych.scheduling.scheduler as module

    assert (not str(module.__file__).endswith(".py")) == compiled.FINDER.active
    assert compiled.describe().startswith("compiled" if compiled.FINDER.active else "Python sources")


def test_the_switch_turns_it_off() -> None:
    code = "import diptych.scheduling.scheduler as it; from diptych import compiled; "
    done = _python("-c", code + "print(it.__file__, compiled.describe())", compiled_too=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0].endswith("scheduler.py")
    assert compiled.SWITCH in done.stdout


def test_modules_made_from_other_sources_are_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    finder = compiled.Finder()
    manifest = {"abi": sysconfig.get_config_var("SOABI"), "digest": compiled.digest(), "modules": {}}
    name = "diptych.scheduling.scheduler"
    manifest["modules"] = {name: "it.so"}
    monkeypatch.setattr(compiled, "MANIFEST", tmp_path / "manifest.json")
    monkeypatch.setenv(compiled.SWITCH, "1")
    compiled.MANIFEST.write_text(json.dumps(manifest))
    found = finder.find_spec(name)
    assert found is not None and str(found.origin).endswith("it.so")
    for change in ({"digest": "of other sources"}, {"abi": "of another interpreter"}):
        compiled.MANIFEST.write_text(json.dumps(manifest | change))
        other = compiled.Finder()
        assert other.find_spec(name) is None
        assert other.why_not is not None


def test_both_forms_simulate_the_same(tmp_path: Path) -> None:
    _needs_compiled()
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC)
    answers = []
    for compiled_too in (True, False):
        done = _python("-c", RUN.format(spec=str(spec), workload=WORKLOAD), compiled_too=compiled_too)
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        assert answer["completed"] == 300
        answers.append({key: value for key, value in answer.items() if key != "wall_s"})
    assert answers[0] == answers[1]


@pytest.mark.timeout(300)
def test_the_sources_pass_their_own_tests() -> None:
    """What the suite has shown of the compiled form holds for the sources, too."""
    _needs_compiled()
    done = _python("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *ON_SOURCES, compiled_too=False)
    assert done.returncode == 0, done.stdout[-3000:]


def test_without_a_compiler_it_says_so_and_leaves_everything_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = compiled.MANIFEST.read_bytes() if compiled.MANIFEST.is_file() else None
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert build.main() == 1
    assert "the Python sources run instead" in capsys.readouterr().err
    assert (compiled.MANIFEST.read_bytes() if compiled.MANIFEST.is_file() else None) == before
