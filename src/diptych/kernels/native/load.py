"""The native library, if it is there and this processor can run it.

Knows: the file, the processor's features, the signatures. Does not know: tensors.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path

from diptych.kernels.native.build import LIBRARY

SWITCH = "DIPTYCH_KERNELS"
"""``torch`` turns native kernels off, ``vectors`` keeps them from AMX tiles."""

VERSION = 5
"""Of the signatures below; the library says its own."""

NEEDED = (
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512dq",
    "avx512_bf16",
    "avx512_vnni",
    "fma",
)

NEEDED_FOR_TILES = ("amx_tile", "amx_bf16", "amx_int8")
"""Without them products are computed on vectors."""

_P, _L, _I, _F = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float

SIGNATURES: dict[str, tuple[type | None, tuple[type, ...]]] = {
    "dp_version": (_I, ()),
    "dp_ready": (_I, (_I,)),
    "dp_on_tiles": (_I, ()),
    "dp_set_threads": (None, (_I,)),
    "dp_linear_bytes": (_L, (_I, _L, _L)),
    "dp_linear_pack": (None, (_I, _P, _P, _P, _L, _L, _P)),
    "dp_linear": (None, (_I, _P, _L, _L, _P, _P, _L, _L, _P, _L, _I)),
    "dp_attention": (None, (_P, _L, _P, _P, _P, _L, _P, _I, _P, _I, _I, _I, _I, _I)),
    "dp_rms_norm": (None, (_P, _L, _L, _L, _L, _P, _F, _P)),
    "dp_add_norm": (None, (_P, _P, _L, _L, _P, _F, _P, _P)),
    "dp_place": (None, (_P, *(_L,) * 5, _P, _P, _F, _P, _P, _P, _L, _P, _P, _P)),
    "dp_silu_mul": (None, (_P, _L, _L, _P)),
    "dp_gelu_mul": (None, (_P, _L, _L, _P)),
    "dp_likeliest": (None, (_P, _L, _L, _P, _P)),
    "dp_draw": (None, (_P, _I, _L, _L, _P, _P)),
}


class NotNative(Exception):
    """Why native kernels cannot be used here."""


@cache
def library(path: Path = LIBRARY) -> ctypes.CDLL:
    """The library, ready to be called.

    Raises:
        NotNative: it is turned off, not built, from another version, or the processor lacks something.
    """
    switch = os.environ.get(SWITCH, "")
    if switch not in ("", "vectors"):
        known = "" if switch == "torch" else " (known are 'torch' and 'vectors')"
        raise NotNative(f"{SWITCH}={switch}{known}")
    missing = [it for it in NEEDED if it not in processor_features()]
    if missing:
        raise NotNative(f"the processor lacks {', '.join(missing)}")
    if not path.is_file():
        raise NotNative("not built; python -m diptych.kernels.native.build")
    try:
        found = ctypes.CDLL(str(path))
        for name, (result, arguments) in SIGNATURES.items():
            function = getattr(found, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise NotNative(f"{path.name} cannot be loaded ({error}); build it again") from None
    if found.dp_version() != VERSION:
        raise NotNative(f"{path.name} is of another version; python -m diptych.kernels.native.build")
    tiles = not switch and processor_features().issuperset(NEEDED_FOR_TILES)
    if not found.dp_ready(int(tiles)):
        found.dp_ready(0)
    return found


@cache
def processor_features() -> frozenset[str]:
    """As Linux names them; empty where it does not say."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return frozenset()
    lines = (line.partition(":")[2] for line in text.splitlines() if line.startswith("flags"))
    return frozenset(next(lines, "").split())
