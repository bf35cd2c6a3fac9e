"""`diptych workload`: look at workloads, and make new ones out of them.

Knows: commands and their flags. Does not know: formats, distributions, statistics (`diptych.workload`).
"""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import App, Parameter

app = App(
    name="workload",
    help="Inspect, convert, scale, mix, make and plot workloads.\n\n"
    "SPEC is a trace (Mooncake, Azure, BurstGPT, ShareGPT, Bailian, LLMServingSim), a folder of ServeGen, or "
    "synthetic:poisson,rate=4,input=2000,output=300.",
)

Out = Annotated[str, Parameter(allow_leading_hyphen=True)]
"""A file, or - for standard output."""
AsJson = Annotated[bool, Parameter(name="--json")]


@app.command
def inspect(
    spec: str,
    /,
    *,
    as_json: AsJson = False,
    block_tokens: int | None = None,
    characters_per_token: float | None = None,
    seed: int = 0,
    cache_tokens: str = "1M,3M,10M,30M",
    window_s: float = 60.0,
    prefill_rate: float | None = None,
    decode_rate: float | None = None,
) -> None:
    """Print what is in a workload: rates, lengths, and how much of its prompts a cache could hold.

    Parameters
    ----------
    spec: str
        A trace, a folder of ServeGen, or synthetic:….
    as_json: bool
        Print one JSON object instead of tables.
    block_tokens: int
        Tokens of one hash id, where the trace does not say so itself.
    characters_per_token: float
        Estimate for traces that hold texts (default 4).
    seed: int
        For a folder of ServeGen, which describes arrivals without listing them.
    cache_tokens: str
        Sizes of caches, in tokens, for the prefix ceiling.
    window_s: float
        Window for the prefill share, in seconds.
    prefill_rate: float
        Tokens per second that one machine prefills; with --decode-rate, the prefill share is printed.
    decode_rate: float
        Tokens per second that one machine decodes.
    """
    import json

    from diptych.cli import workload_view
    from diptych.cli.workload_files import inspected, open_as, phase_rates, sizes

    workload = open_as(spec, block_tokens, characters_per_token, seed)
    found = inspected(workload, sizes(cache_tokens), phase_rates(prefill_rate, decode_rate), window_s)
    if as_json:
        print(json.dumps(workload_view.as_data(found), indent=2))
    else:
        workload_view.show(found)


@app.command
def convert(
    spec: str,
    out: Out,
    /,
    *,
    sort: bool = False,
    block_tokens: int | None = None,
    to_block_tokens: int | None = None,
    characters_per_token: float | None = None,
    seed: int = 0,
) -> None:
    """Write a workload as native JSON lines (Mooncake's form), and say what was lost.

    Parameters
    ----------
    spec: str
        A trace, a folder of ServeGen, or synthetic:….
    out: str
        File to write; - for standard output.
    sort: bool
        Accept lines out of order and sort them; holds the whole trace in memory.
    block_tokens: int
        Tokens of one hash id, where the trace does not say so itself.
    to_block_tokens: int
        Write hash ids for blocks of this size.
    characters_per_token: float
        Estimate for traces that hold texts (default 4).
    seed: int
        For a folder of ServeGen.
    """
    from diptych.cli.workload_files import open_as, write
    from diptych.workload import transform
    from diptych.workload.blocks import reblocked

    workload = open_as(spec, block_tokens, characters_per_token, seed, ordered=not sort)
    if sort:
        workload = transform.sort(workload)
    write(reblocked(workload, to_block_tokens or workload.block_tokens), out, spec)


@app.command
def scale(
    spec: str,
    out: Out,
    /,
    *,
    factor: float | None = None,
    rate: float | None = None,
    input_factor: float = 1.0,
    output_factor: float = 1.0,
    from_s: float = 0.0,
    to_s: float | None = None,
    requests: int | None = None,
    repeat: int | None = None,
    sessions: Annotated[bool, Parameter(negative="--no-sessions")] = True,
    input_tokens: str | None = None,
    output_tokens: str | None = None,
) -> None:
    """Make a workload faster, longer, shorter: filter, cut, scale, then repeat, in this order.

    Parameters
    ----------
    spec: str
        A trace, a folder of ServeGen, or synthetic:….
    out: str
        File to write; - for standard output.
    factor: float
        So many times the rate.
    rate: float
        Scale to this mean rate, in requests per second.
    input_factor: float
        So many times the prompt tokens; blocks grow with them.
    output_factor: float
        So many times the output tokens.
    from_s: float
        Leave out what arrives before this second; the rest begins at 0.
    to_s: float
        Leave out what arrives from this second on.
    requests: int
        At most so many requests.
    repeat: int
        Go through it again and again until there are so many requests.
    sessions: bool
        Off: drop sessions; each request comes on its own.
    input_tokens: str
        Keep only prompts of LEAST:MOST tokens; either may be empty.
    output_tokens: str
        Keep only outputs of LEAST:MOST tokens.
    """
    from diptych.cli.workload_files import open_as, write
    from diptych.cli.workload_steps import filtered, scaled
    from diptych.workload import transform

    workload = filtered(open_as(spec), input_tokens, output_tokens)
    if from_s or to_s is not None or requests is not None:
        workload = transform.cut(workload, from_s=from_s, to_s=to_s, requests=requests)
    if not sessions:
        workload = transform.without_sessions(workload)
    workload = scaled(workload, factor, rate, input_factor, output_factor)
    if repeat is not None:
        workload = transform.repeat(workload, repeat)
    write(workload, out, spec)


@app.command
def mix(
    out: Out,
    /,
    *parts: str,
    rate: float | None = None,
    requests: int | None = None,
    shift_s: str | None = None,
) -> None:
    """Merge workloads by time, each with its share of the requests.

    Parameters
    ----------
    out: str
        File to write; - for standard output.
    parts: str
        SPEC=SHARE for each, such as code.csv=0.3 chat.jsonl=0.7. With --shift-s, SPEC=BEFORE:AFTER.
    rate: float
        Requests per second of all together; default: the sum of their own.
    requests: int
        How many; default: as many as all parts have. A part that ends sooner begins anew.
    shift_s: str
        FROM:TO in seconds: shares change linearly in between.
    """
    from diptych.cli.workload_files import write
    from diptych.cli.workload_steps import part, shift
    from diptych.workload.mix import mix as mixed

    found = [part(text) for text in parts]
    workload = mixed(found, rate_rps=rate, requests=requests, shift=shift(shift_s))
    write(workload, out, *(one.workload.name for one in found))


@app.command
def make(text: str, out: Out, /) -> None:
    """Write a synthetic workload, such as poisson,rate=4,input=2000,output=300,requests=1000,seed=1.

    Parameters
    ----------
    text: str
        Its description, with or without synthetic: in front; docs/workloads.md lists the keys.
    out: str
        File to write; - for standard output.
    """
    from diptych.cli.workload_files import write
    from diptych.planning.traces import open_workload
    from diptych.workload.making.synthetic import PREFIX

    write(open_workload(PREFIX + text.removeprefix(PREFIX)), out)


@app.command
def plot(
    spec: str,
    out: str,
    /,
    *,
    block_tokens: int | None = None,
    characters_per_token: float | None = None,
    seed: int = 0,
    window_s: float | None = None,
) -> None:
    """Draw arrivals over time, lengths, and the prefix ceiling over the size of a cache.

    Parameters
    ----------
    spec: str
        A trace, a folder of ServeGen, or synthetic:….
    out: str
        File to write; its ending (.png, .svg, .html) says the form.
    block_tokens: int
        Tokens of one hash id, where the trace does not say so itself.
    characters_per_token: float
        Estimate for traces that hold texts (default 4).
    seed: int
        For a folder of ServeGen.
    window_s: float
        Window in which arrivals are counted, in seconds; default: a hundredth of the span.
    """
    from diptych.cli.workload_files import open_as
    from diptych.cli.workload_plot import draw

    draw(open_as(spec, block_tokens, characters_per_token, seed), out, window_s)
    print(f"wrote {out}", file=sys.stderr)
