"""Tables and numbers as planning commands print them.

Knows: rich, number formats. Does not know: what is printed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


def table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = True
) -> Table:
    """A plain table; the first column is text, the others are ``numbers`` or text too."""
    from rich import box
    from rich.table import Table

    made = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, show_header=any(columns)
    )
    for place, column in enumerate(columns):
        made.add_column(column, justify="left" if place == 0 or not numbers else "right", overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made


def number(value: float | None, digits: int = 3) -> str:
    """Significant digits, thousands separated; '–' for what is not known."""
    if value is None:
        return "–"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def percent(value: float | None) -> str:
    """A share as a percentage."""
    return "–" if value is None else f"{100 * value:.1f} %"
