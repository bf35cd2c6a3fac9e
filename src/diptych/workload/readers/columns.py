"""Columns of a CSV by name.

Knows: headers and cells. Does not know: what a column means.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence

from diptych.domain.errors import SpecError
from diptych.workload.lines import Lines
from diptych.workload.nearest import did_you_mean


def rows(cursor: Lines, wanted: Sequence[str], optional: Sequence[str] = ()) -> Iterator[list[str]]:
    """Cells of the wanted columns, row after row, then of optional ones: empty where there is no such."""
    reader = csv.reader(cursor)
    header = [name.strip() for name in next(reader, [])]
    if not header:
        raise SpecError(f"{cursor.source}: is empty; expected a header with {', '.join(wanted)}")
    places = [_place(cursor, header, name) for name in wanted]
    most = max(places)
    extras = [header.index(name) if name in header else None for name in optional]
    try:
        for row in reader:
            if len(row) <= most:
                raise cursor.refuse(
                    wanted[places.index(most)], f"the row has {len(row)} columns, its header {len(header)}"
                )
            cells = [row[place] for place in places]
            cells += ["" if place is None or place >= len(row) else row[place] for place in extras]
            yield cells
    except csv.Error as error:
        raise cursor.refuse("row", str(error)) from None


def _place(cursor: Lines, header: list[str], name: str) -> int:
    if name in header:
        return header.index(name)
    raise cursor.refuse(name, f"no such column; {did_you_mean(name, header)}")
