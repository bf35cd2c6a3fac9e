"""The model that comes with the package.

Knows: where its directory lies and what it is called. Does not know: how it is loaded.
"""

from importlib.resources import files
from pathlib import Path

BUILTIN_MODEL_NAME = "diptych-tales"


def builtin_model_dir() -> Path:
    """The Hugging Face style directory of the built-in model."""
    return Path(str(files(__name__) / "tales"))
