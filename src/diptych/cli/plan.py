"""`diptych plan`: split or not, on which hardware, in which ratio, and how sure that is.

Knows: progress, what is printed and written. Does not know: how a plan is made (`diptych.planning.search`).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from diptych.cli.plan_flags import EffortFlags, MeansFlags, WantedFlags

if TYPE_CHECKING:
    from types import TracebackType

    from rich.progress import Progress, TaskID


def plan(
    *,
    wanted: WantedFlags = WantedFlags(),
    means: MeansFlags = MeansFlags(),
    effort: EffortFlags = EffortFlags(),
    list_hardware: bool = False,
    output: Path | None = None,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
) -> None:
    """Say whether to split prefill from decode, on which hardware and in which ratio, and why.

    Parameters
    ----------
    list_hardware: bool
        Print the hardware catalogue and stop.
    output: Path
        Folder for spec.yaml, report.html and result.json.
    as_json: bool
        Print one JSON object instead of tables.
    """
    if list_hardware:
        from diptych.cli.plan_tables import print_hardware

        print_hardware()
        return
    from diptych.cli.plan_flags import inquiry_of
    from diptych.planning.report.files import write_plan
    from diptych.planning.report.plan_data import plan_data
    from diptych.planning.search.plan import make_plan

    inquiry = inquiry_of(wanted, means, effort)
    with Shown() as shown:
        done = make_plan(inquiry, shown.say)
    if output is not None:
        write_plan(done, output)
    data = plan_data(done)
    if as_json:
        print(json.dumps(data))
        return
    from diptych.cli.plan_tables import print_plan

    print_plan(data)
    if output is not None:
        print(f"written to {output}: spec.yaml, report.html, result.json")


class Shown:
    """Progress bars on a terminal, nothing elsewhere."""

    def __init__(self) -> None:
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Shown:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
            )
            self._bars = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def say(self, what: str, done: int, of: int) -> None:
        """See `diptych.planning.search.crew.Progress`."""
        if self._bars is None:
            return
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=of)
        self._bars.update(self._tasks[what], completed=done, total=of)
