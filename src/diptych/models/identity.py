"""Which weights a directory holds, without reading them.

Knows: files, their sizes and times. Does not know: tensors.
"""

from __future__ import annotations

from pathlib import Path

from diptych.domain.errors import SpecError


def files_identity(model_dir: Path, *, weights: bool) -> dict[str, str]:
    """File name → what changes when the file does, of the config and, if ``weights``, of the checkpoint.

    A file that is replaced gets another inode, one that is written over another time.

    Raises:
        SpecError: a file cannot be looked at.
    """
    patterns = ("config.json", *(("*.safetensors", "*.safetensors.index.json") if weights else ()))
    try:
        paths = sorted(path for pattern in patterns for path in model_dir.glob(pattern))
        return {path.name: _identity(path) for path in paths}
    except OSError as error:
        raise SpecError(f"{model_dir} cannot be read: {error}") from None


def _identity(path: Path) -> str:
    seen = path.stat()
    return f"{seen.st_size} bytes, written at {seen.st_mtime_ns} ns, inode {seen.st_dev}:{seen.st_ino}"
