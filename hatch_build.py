"""The package's own build: what is faster compiled is compiled when the tools are there.

A missing compiler is no error: the package runs without. Each step is a module that can be run by hand.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

STEPS = {"control plane": "diptych.compiled.build", "kernels": "diptych.kernels.native.build"}
"""What is compiled, and by which module. They import nothing but the standard library and their tools."""

SWITCH = "DIPTYCH_BUILD"
"""Set to ``pure`` to compile nothing."""


class CompileHook(BuildHookInterface):
    """Runs the steps before a wheel is put together, also an editable one."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """See hatchling's `BuildHookInterface`."""
        del version
        if os.environ.get(SWITCH) == "pure":
            return
        for name, module in STEPS.items():
            self.app.display_info(f"compiling the {name}")
            done = self._run(module)
            if done.returncode == 0:
                build_data["pure_python"] = False
                build_data["infer_tag"] = True
            else:
                self.app.display_warning(f"{name}: {(done.stdout + done.stderr).strip()}")

    def _run(self, module: str) -> subprocess.CompletedProcess[str]:
        # The sources are put in front once Python is up: pip's own start-up code, which the child needs to
        # find the build's requirements, drops paths that an earlier editable install names.
        source = str(Path(self.root) / "src")
        program = (
            f"import runpy, sys; sys.path.insert(0, {source!r}); "
            f"runpy.run_module({module!r}, run_name='__main__')"
        )
        return subprocess.run(
            [sys.executable, "-c", program],
            cwd=self.root,
            capture_output=True,
            text=True,
            check=False,
        )
