"""Lengths without times: a CSV with `num_prefill_tokens` and `num_decode_tokens`.

Knows: its columns. Does not know: files, other formats.
Source of the form: Vidur and its forks (ShareGPT, LMSYS and others, tokenised).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from diptych.workload.lines import Lines
from diptych.workload.readers.columns import rows
from diptych.workload.record import Arrival

COLUMNS = ("num_prefill_tokens", "num_decode_tokens")


def read(lines: Iterable[str], source: str = "trace") -> Iterator[Arrival]:
    """Arrivals line by line, all at 0 s. Raises `SpecError` at the first wrong line."""
    cursor = Lines(lines, source)
    prompts, outputs = COLUMNS
    for prompt, output in rows(cursor, COLUMNS):
        yield Arrival(
            t_s=0.0,
            input_tokens=cursor.tokens(prompts, cursor.count(prompts, prompt)),
            output_tokens=cursor.tokens(outputs, cursor.count(outputs, output)),
        )
