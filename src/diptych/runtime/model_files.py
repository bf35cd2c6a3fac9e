"""From the name of a model to its directory.

Knows: the built-in model, local directories, the Hugging Face cache and hub. Does not know: what is inside.
"""

from __future__ import annotations

from pathlib import Path

from diptych.builtin import builtin_model_dir
from diptych.domain.cluster import BUILTIN_MODEL
from diptych.domain.errors import SpecError

FILES = ("*.json", "*.safetensors", "*.jinja", "tokenizer*")
"""What is fetched of a model on the hub: no pickled weights, ever."""


def resolve_model_dir(path: str) -> Path:
    """The directory of ``path``: 'builtin', a local directory, or a name on the Hugging Face hub.

    Raises:
        SpecError: there is no such directory, and it cannot be fetched; the message says what to do.
    """
    if path == BUILTIN_MODEL:
        return builtin_model_dir()
    local = Path(path).expanduser()
    if local.is_dir():
        return local.resolve()
    if local.is_absolute() or path.startswith(".") or path.count("/") != 1:
        raise SpecError(f"model.path {path!r} is not a directory; name one, a hub model or 'builtin'")
    return _from_hub(path)


def _from_hub(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError:
        raise SpecError(
            f"model.path {name!r} is not a directory; to fetch it, install diptych[engine]"
        ) from None
    try:
        return Path(snapshot_download(name, allow_patterns=list(FILES)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SpecError(f"model.path {name!r} is not a directory and cannot be fetched: {reason}") from None
