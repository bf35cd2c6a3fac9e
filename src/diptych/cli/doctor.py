"""`diptych doctor`: what is there, what is missing, and what to do about it.

Knows: checks and their remedies. Does not know: how to repair anything; it changes nothing.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from diptych.cli import machine
from diptych.cli.version import installed

GIB = 1 << 30
FEW_BYTES = 2 * GIB
"""Below this much free memory, the defaults (1 GiB of KV, two workers) do not fit comfortably."""
INSTALL_ENGINE = "pip install 'diptych[engine]'"


class Status(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARN = "warn"
    MISSING = "missing"


@dataclass(frozen=True)
class Check:
    """One line of the result."""

    name: str
    status: Status
    detail: str
    remedy: str = ""
    essential: bool = False
    """Whether diptych cannot serve without it."""


def doctor(*, port: int = 8000, as_json: Annotated[bool, Parameter(name="--json")] = False) -> None:
    """Check this machine. Exits with 1 only if something essential is missing.

    Parameters
    ----------
    port: int
        Port whose availability is checked.
    as_json: bool
        Print one JSON object instead of lines.
    """
    checks = run_checks(port)
    healthy = not any(check.essential and check.status is Status.MISSING for check in checks)
    if as_json:
        print(json.dumps({"ok": healthy, "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        _print(checks)
    sys.exit(0 if healthy else 1)


def run_checks(port: int) -> list[Check]:
    """All checks, in the order in which a reader wants them."""
    checks: list[Callable[[], Check]] = [
        _python,
        _cpu,
        _cores,
        _memory,
        _shared_memory,
        _huge_pages,
        _torch,
        _kernels,
        _cuda,
        _control_plane,
        _builtin_model,
        _hub_cache,
        _hub_token,
    ]
    return [check() for check in checks] + [_port(port)]


def _python() -> Check:
    where = f"{platform.system()} {platform.machine()}"
    return Check("python", Status.OK, f"{platform.python_version()} ({where})", essential=True)


def _cpu() -> Check:
    flags = machine.cpu_flags()
    names = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "AVX512-BF16", "amx_bf16": "AMX-BF16"}
    have = [label for flag, label in names.items() if flag in flags]
    detail = f"{machine.cpu_model()}; {', '.join(have) or 'no wide vector units known'}"
    if "avx512_bf16" not in flags:
        return Check("cpu", Status.WARN, detail, "bfloat16 is slow here; prefer --dtype float32")
    return Check("cpu", Status.OK, detail)


def _cores() -> Check:
    usable = len(machine.cores())
    if usable < 2:
        remedy = "prefill and decode share the core; --mixed 1 serves the same without the split"
        return Check("cores", Status.WARN, f"{usable} usable", remedy)
    return Check("cores", Status.OK, f"{usable} usable")


def _memory() -> Check:
    total, available = machine.memory_bytes()
    detail = f"{available / GIB:.1f} GiB free of {total / GIB:.1f} GiB"
    if 0 < available < FEW_BYTES:
        return Check("memory", Status.WARN, detail, "use a smaller segment, such as --kv-memory 256MiB")
    return Check("memory", Status.OK if total else Status.WARN, detail if total else "unknown")


def _shared_memory() -> Check:
    error = machine.shared_memory_error()
    if error:
        return Check("shared memory", Status.MISSING, error, "run on Linux 3.17 or newer", essential=True)
    return Check("shared memory", Status.OK, "memfd can be made, mapped and written", essential=True)


def _huge_pages() -> Check:
    """Small pages are no fault: that large ones made steps faster could not be shown."""
    found = machine.huge_pages()
    detail = ", ".join(f"{kind} memory: {word}" for kind, word in found.items())
    return Check("large pages", Status.OK, detail or "the kernel has none")


def _torch() -> Check:
    version = installed("torch")
    if version is None:
        return Check("torch", Status.MISSING, "not installed", INSTALL_ENGINE, essential=True)
    return Check("torch", Status.OK, version, essential=True)


def _kernels() -> Check:
    try:
        import torch

        from diptych.kernels.choose import choose_kernels
    except ImportError as error:
        return Check("kernels", Status.MISSING, str(error), INSTALL_ENGINE, essential=True)
    device = torch.device("cpu")
    chosen = [
        f"{name}: {choose_kernels('auto', dtype, device).describe()}"
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))
    ]
    return Check("kernels", Status.OK, "; ".join(chosen), essential=True)


def _cuda() -> Check:
    """A machine without one lacks nothing; FlashInfer is missed only where there is one."""
    try:
        import torch

        from diptych.kernels.choose import choose_kernels
        from diptych.kernels.cuda_device import cuda_devices, why_no_cuda
        from diptych.kernels.flashinfer_paged import NoFlashInfer, load_flashinfer
    except ImportError as error:
        return Check("cuda", Status.OK, f"none ({error})")
    devices = cuda_devices()
    if not devices:
        return Check("cuda", Status.OK, f"none ({why_no_cuda()})")
    chosen = choose_kernels("auto", torch.bfloat16, torch.device("cuda")).describe()
    detail = f"{'; '.join(device.describe() for device in devices)}; bfloat16: {chosen}"
    try:
        load_flashinfer()
    except NoFlashInfer:
        return Check("cuda", Status.WARN, detail, "pip install 'diptych[cuda]'")
    return Check("cuda", Status.OK, detail, "set pools.NAME.torch_device to cuda to use it (mixed pools)")


def _control_plane() -> Check:
    """Slower is not broken: the Python sources decide the same."""
    from diptych.compiled import describe

    return Check("control plane", Status.OK, describe())


def _builtin_model() -> Check:
    from diptych.builtin import builtin_model_dir

    folder = builtin_model_dir()
    needed = ("config.json", "tokenizer.json")
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing or not list(folder.glob("*.safetensors")):
        what = ", ".join(missing or ["weights"])
        return Check("built-in model", Status.MISSING, f"{what} missing", "run `make train`", essential=True)
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    return Check("built-in model", Status.OK, f"{size / 1e6:.1f} MB", essential=True)


def _hub_cache() -> Check:
    home = _hub_home()
    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    detail = f"{home} ({'exists' if home.is_dir() else 'empty'}{', offline' if offline else ''})"
    remedy = "unset HF_HUB_OFFLINE to fetch models by name" if offline else ""
    return Check("hub cache", Status.OK, detail, remedy)


def _hub_token() -> Check:
    """Says whether a token exists, never what it is."""
    if os.environ.get("HF_TOKEN") or (_hub_home() / "token").is_file():
        return Check("hub token", Status.OK, "present")
    return Check("hub token", Status.OK, "none (only gated models need one)")


def _port(port: int) -> Check:
    error = machine.port_error("127.0.0.1", port)
    if error:
        return Check(f"port {port}", Status.WARN, error, f"choose another one: --port {port + 1}")
    return Check(f"port {port}", Status.OK, "free")


def _hub_home() -> Path:
    return Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")


_COLOURS = {Status.OK: "green", Status.WARN: "yellow", Status.MISSING: "red"}


def _print(checks: list[Check]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    for check in checks:
        table.add_row(Text(check.status.value, _COLOURS[check.status]), Text(check.name), Text(check.detail))
        if check.remedy:
            table.add_row("", "", Text(f"→ {check.remedy}", "dim"))
    Console().print(table)
