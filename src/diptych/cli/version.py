"""`diptych version`. Knows package metadata; imports none of the packages it names."""

from __future__ import annotations

import platform
from importlib import metadata

from diptych import __version__

_BESIDE = ("torch", "tokenizers", "fastapi", "uvicorn", "pydantic", "msgspec")


def installed(name: str) -> str | None:
    """Version of a distribution, or None if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def version() -> None:
    """Print the versions of diptych and of what it runs on."""
    print(f"diptych {__version__}")
    print(f"python {platform.python_version()} on {platform.system()} {platform.machine()}")
    for name in _BESIDE:
        print(f"{name} {installed(name) or 'not installed'}")
