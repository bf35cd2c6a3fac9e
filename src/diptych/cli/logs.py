"""Logging of the head process: lines for people, or one JSON object per line.

Knows: structlog's renderers over the standard library's loggers. Does not know: who logs what.
"""

from __future__ import annotations

import logging
import sys

import structlog

from diptych.cli.options import LogFlags


def configure(flags: LogFlags) -> None:
    """Send everything that is logged to standard error in the wanted form."""
    renderer = (
        structlog.processors.JSONRenderer()
        if flags.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_log_level,
                structlog.stdlib.add_logger_name,
                structlog.stdlib.ExtraAdder(),
                structlog.processors.TimeStamper(fmt="iso", utc=True),
            ],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(flags.log_level.upper())
    logging.getLogger("uvicorn.access").setLevel("WARNING")
    logging.getLogger("uvicorn.error").setLevel("WARNING")
