"""BurstGPT's CSV: requests to ChatGPT and GPT-4 of one campus.

Knows: its columns. Does not know: files, other formats.
Source of the form: HPMLL/BurstGPT. A response of 0 tokens is a failed request and is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from diptych.workload.lines import Lines
from diptych.workload.readers.columns import rows
from diptych.workload.record import Arrival

COLUMNS = ("Timestamp", "Request tokens", "Response tokens")
SESSION = "Session ID"
NOTES = (
    "BurstGPT: failed requests (response of 0 tokens) are left out",
    "BurstGPT: model, elapsed time and log type are not kept; nothing is known of shared prefixes",
)


def read(lines: Iterable[str], source: str = "trace", *, ordered: bool = True) -> Iterator[Arrival]:
    """Arrivals line by line. Raises `SpecError` at the first wrong line."""
    cursor = Lines(lines, source, ordered=ordered)
    for stamp, prompt, output, session in rows(cursor, COLUMNS, optional=(SESSION,)):
        t_s = cursor.instant_s("Timestamp", cursor.number_in("Timestamp", stamp))
        output_tokens = cursor.count("Response tokens", output)
        if output_tokens == 0:
            continue
        yield Arrival(
            t_s=t_s,
            input_tokens=cursor.tokens("Request tokens", cursor.count("Request tokens", prompt)),
            output_tokens=cursor.tokens("Response tokens", output_tokens),
            session_id=session or None,
        )
