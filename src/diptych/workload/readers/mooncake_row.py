"""One line of the native form, as it is decoded.

Knows: names and types of the fields. Does not know: units, checks. (Apart from its reader, which is compiled:
a decoder reads the types at run time.)
"""

from __future__ import annotations

import msgspec


class Row(msgspec.Struct, gc=False):
    """Lengths in tokens, times in milliseconds."""

    input_length: int
    output_length: int
    timestamp: float | None = None
    hash_ids: tuple[int, ...] = ()
    session_id: str | int | None = None
    delay: float | None = None
    priority: int = 0
    max_tokens: int | None = None
