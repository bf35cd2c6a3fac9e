"""The `diptych` command: its subcommands, and what an error looks like.

Knows: names of commands, exit codes. Does not know: what a command does (each is loaded when it is called).
"""

from __future__ import annotations

import sys

from cyclopts import App, CycloptsError, Parameter

from diptych import __version__
from diptych.domain.errors import Bug, ClientError, DiptychError, SpecError

EXIT_FAILED = 1
"""Something went wrong while it ran."""
EXIT_USAGE = 2
"""Whoever typed the command or wrote the spec must change it."""
EXIT_INTERRUPTED = 130

_COMMANDS = {
    "serve": ("diptych.cli.serve:serve", "Serve a model over HTTP on pools of prefill and decode workers."),
    "plan": ("diptych.cli.plan:plan", "Say whether to split, on which hardware and in which ratio, and why."),
    "simulate": ("diptych.cli.simulate:simulate", "Run a workload on a cluster spec in virtual time."),
    "calibrate": ("diptych.cli.calibrate:calibrate", "Measure this machine; write a profile."),
    "validate": ("diptych.cli.validate:validate", "Compare simulated with measured runs here."),
    "generate": ("diptych.cli.generate:generate", "Run one prompt through the same path, without HTTP."),
    "bench": (
        "diptych.cli.bench:app",
        "Put a load on a server on schedule, and measure what its clients see.",
    ),
    "doctor": ("diptych.cli.doctor:doctor", "Check what this machine offers and what is missing."),
    "config": ("diptych.cli.config:app", "Show or validate a cluster spec, or print its JSON schema."),
    "workload": ("diptych.cli.workload:app", "Inspect, convert, scale, mix, make and plot workloads."),
    "version": ("diptych.cli.version:version", "Print the versions of diptych and of what it runs on."),
}


def build_app() -> App:
    """The command tree; nothing behind it is imported yet."""
    app = App(
        name="diptych",
        version=__version__,
        help="Language models served with prefill and decode on separate pools of workers.\n\n"
        "`diptych serve` alone serves the built-in model on http://127.0.0.1:8000/v1.",
        default_parameter=Parameter(negative="", show_default=False),
    )
    for name, (path, text) in _COMMANDS.items():
        app.command(path, name=name, help=text)
    return app


def main() -> None:
    """Entry point of the `diptych` script. Exits with 0, 1 (failure), 2 (bad usage or spec) or 130."""
    try:
        build_app()(exit_on_error=False)
    except CycloptsError:
        sys.exit(EXIT_USAGE)  # the parser has printed what is wrong
    except Bug:
        raise  # ours: the traceback is the report
    except DiptychError as error:
        print(f"diptych: {error}", file=sys.stderr)
        sys.exit(EXIT_USAGE if isinstance(error, SpecError | ClientError) else EXIT_FAILED)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
