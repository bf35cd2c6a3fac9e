"""`diptych serve`: a cluster behind an HTTP server, until a signal ends it.

Knows: the order of starting and stopping. Does not know: routes, workers, policies.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from diptych.cli.options import ClusterFlags, HttpFlags, LogFlags

if TYPE_CHECKING:
    import socket

    from rich.console import Console

    from diptych.domain.cluster import ClusterSpec
    from diptych.domain.errors import DiptychError
    from diptych.runtime.topology import Topology
    from diptych.server.config import ServerConfig

log = logging.getLogger("diptych.cli")

EXIT_INTERRUPTED = 130


def serve(
    target: str | None = None,
    /,
    *,
    engine: Literal["native", "modelled"] = "native",
    profile: Path | None = None,
    cluster: ClusterFlags = ClusterFlags(),
    http: HttpFlags = HttpFlags(),
    logs: LogFlags = LogFlags(),
) -> None:
    """Serve a model over HTTP on pools of prefill and decode workers.

    Without arguments: the built-in model, one prefill and one decode worker, http://127.0.0.1:8000/v1.

    Parameters
    ----------
    target: str
        A model (directory, hub name or 'builtin') or a spec file (.yaml).
    engine: str
        'modelled': workers only take the time that the spec's hardware or profile would; tokens mean nothing.
    profile: Path
        What `diptych calibrate` wrote: placement then starts from measured speeds instead of guesses.
    """
    import uvloop

    from diptych.cli.http import listen, server_config
    from diptych.cli.logs import configure
    from diptych.cli.profile import with_profile
    from diptych.cli.spec import resolve

    spec = with_profile(resolve(target, cluster, os.environ).spec, profile)
    config = server_config(http, os.environ)
    configure(logs)
    with (
        listen(config.host, config.port) as listener,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop,
    ):
        if not loop.run(_run(spec, engine, config, listener, quiet=logs.log_format == "json")):
            sys.exit(EXIT_INTERRUPTED)


async def _run(
    spec: ClusterSpec,
    engine: Literal["native", "modelled"],
    config: ServerConfig,
    listener: socket.socket,
    *,
    quiet: bool,
) -> bool:
    """Whether the cluster was started before a signal came.

    The server answers from the first moment, so that probes see "alive, not ready" instead of nothing.
    """
    from rich.console import Console

    from diptych.cli.engine import engine_of
    from diptych.cli.hosting import HttpHost, Stopper
    from diptych.cli.model import served_model
    from diptych.cli.starting import StartProgress
    from diptych.cli.view import ClusterAsServed
    from diptych.runtime.cluster import Cluster
    from diptych.server.app import create_app

    stopper, console = Stopper(), Console(stderr=True, quiet=quiet)
    progress, started = StartProgress(console), False
    cluster = Cluster(spec, engine=engine_of(spec, engine), progress=progress.say)
    model = served_model(spec, cluster)

    async def life() -> DiptychError:
        nonlocal started
        with progress:
            await cluster.__aenter__()
        started = True
        _announce(console, model.name, cluster.topology(), listener, config)
        return await cluster.failed()

    app = create_app(ClusterAsServed(cluster), model, config)
    with stopper.listening():
        try:
            await HttpHost(app, config).run(listener, stopper, life())
        finally:
            await cluster.close()
    return started


def _announce(
    console: Console, model_name: str, topology: Topology, listener: socket.socket, config: ServerConfig
) -> None:
    from diptych.cli.banner import banner, request_to_paste
    from diptych.cli.http import url_of

    url = url_of(listener)
    console.print(banner(model_name, topology, url))
    request = request_to_paste(url, model_name, needs_key=bool(config.api_keys))
    console.print(request, soft_wrap=True, highlight=False, markup=False)
    log.info("serving %s on %s", model_name, url)
