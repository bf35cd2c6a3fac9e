"""`diptych generate`: one prompt through prefill, handoff and decode, and where the time went.

Knows: starting a cluster for one prompt. Does not know: how it is answered (`asking`) or shown (`result`).
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from diptych.cli.options import ClusterFlags

if TYPE_CHECKING:
    from diptych.cli.asking import Wanted
    from diptych.domain.cluster import ClusterSpec
    from diptych.runtime.cluster import Cluster
    from diptych.server.model import ServedModel

DEFAULT_PROMPT = "Tell me a tale."
EXIT_INTERRUPTED = 130


def generate(
    prompt: str | None = None,
    /,
    *,
    model: str | None = None,
    max_tokens: Annotated[int, Parameter(show_default=True)] = 128,
    temperature: float | None = None,
    seed: int | None = None,
    raw: bool = False,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
    cluster: ClusterFlags = ClusterFlags(),
) -> None:
    """Run one prompt through the same path that a served request takes, and show its timeline.

    Parameters
    ----------
    prompt: str
        What to say. Without it, what is piped in, or a sentence of ours.
    model: str
        A model (directory, hub name or 'builtin') or a spec file (.yaml).
    max_tokens: int
        Longest output.
    temperature: float
        0 is greedy; default: as the model wants.
    seed: int
        Equal seeds give equal outputs.
    raw: bool
        Continue the text as it is, without a chat template.
    as_json: bool
        Print one JSON object instead of text and a timeline.
    """
    import uvloop

    from diptych.cli.asking import Wanted
    from diptych.cli.logs import configure
    from diptych.cli.options import LogFlags
    from diptych.cli.spec import resolve

    spec = resolve(model, cluster, os.environ).spec
    words = prompt or _piped_in() or DEFAULT_PROMPT
    wanted = Wanted(prompt=words, max_tokens=max_tokens, temperature=temperature, seed=seed, raw=raw)
    configure(LogFlags(log_level="warning"))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        done = runner.run(_generate(spec, wanted, as_json=as_json))
    if not done:
        sys.exit(EXIT_INTERRUPTED)


async def _generate(spec: ClusterSpec, wanted: Wanted, *, as_json: bool) -> bool:
    """Whether it was done before a signal came."""
    from rich.console import Console

    from diptych.cli.asking import as_ask
    from diptych.cli.hosting import Stopper
    from diptych.cli.model import served_model
    from diptych.cli.starting import StartProgress
    from diptych.runtime.cluster import Cluster

    stopper = Stopper()
    with stopper.listening():
        with StartProgress(Console(stderr=True)) as progress:
            cluster = Cluster(spec, progress=progress.say)
            model = served_model(spec, cluster)
            await as_ask(wanted, model)  # what is wrong with it should cost nobody a start
            if not await stopper.completes(cluster.__aenter__()):
                return False
        try:
            return await stopper.completes(_answer(cluster, model, wanted, as_json=as_json))
        finally:
            await cluster.close()


async def _answer(cluster: Cluster, model: ServedModel, wanted: Wanted, *, as_json: bool) -> None:
    from rich.console import Console

    from diptych.cli.asking import ask
    from diptych.cli.result import as_data, timeline

    topology = cluster.topology()
    answered = await ask(wanted, model, cluster.frontend, _ignore if as_json else _write)
    if as_json:
        print(json.dumps(as_data(answered, model.name, topology), ensure_ascii=False))
    else:
        print("\n")
        Console().print(timeline(answered))


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _ignore(text: str) -> None:
    """Scripts get the whole text at the end."""


def _piped_in() -> str:
    return "" if sys.stdin.isatty() else sys.stdin.read().strip()
