"""Server-sent events from bytes as they come.

Knows: the format (WHATWG HTML, §9.2: lines end with LF, CRLF or CR; an empty line ends an event). Does not
know: what an event means, where the bytes come from.
"""

from __future__ import annotations

_BOM = b"\xef\xbb\xbf"


class EventParser:
    """Feed it bytes, get the data of the events that they complete."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._begun = False
        self._after_cr = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """Data of each event that ends in ``chunk``. Comments and fields other than ``data`` say nothing."""
        found: list[bytes] = []
        for line in self._lines(chunk):
            if line:
                self._take(line)
            elif self._data:
                found.append(b"\n".join(self._data))
                self._data = []
        return found

    @property
    def unfinished(self) -> bool:
        """Whether an event has begun that no empty line has ended: it does not count."""
        return bool(self._data or self._rest)

    def _lines(self, chunk: bytes) -> list[bytes]:
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]  # second half of a CRLF that was cut in two
        if chunk:
            self._after_cr = chunk.endswith(b"\r")
        if not self._begun and self._rest + chunk:
            chunk, self._rest = self._rest + chunk, b""
            if len(chunk) < len(_BOM) and _BOM.startswith(chunk):
                self._rest = chunk
                return []
            self._begun, chunk = True, chunk.removeprefix(_BOM)
        text = self._rest + chunk
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, self._rest = text.split(b"\n")
        return lines

    def _take(self, line: bytes) -> None:
        field, _, value = line.partition(b":")
        if field == b"data":
            self._data.append(value.removeprefix(b" "))
