"""How a start looks: a moving line on a terminal, log lines elsewhere.

Knows: consoles. Does not know: what is being started.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

log = logging.getLogger("diptych.cli")

Progress = Callable[[str], None]


@contextmanager
def shown_progress(console: Console) -> Iterator[Progress]:
    """Tell what the start is waiting for, for as long as the block runs."""
    if not console.is_terminal:
        yield log.info
        return
    with console.status("starting") as status:
        yield lambda words: status.update(words)
