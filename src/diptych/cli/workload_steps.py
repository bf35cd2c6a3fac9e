"""Flags of `diptych workload scale` and `mix` as changes of workloads.

Knows: the text of these flags. Does not know: what a change does.
"""

from __future__ import annotations

from diptych.domain.errors import SpecError
from diptych.planning.traces import open_workload
from diptych.workload import transform
from diptych.workload.making.grammar import to_number
from diptych.workload.mix import Part, Shift
from diptych.workload.record import Arrival, Workload


def scaled(
    workload: Workload, factor: float | None, rate: float | None, input_factor: float, output_factor: float
) -> Workload:
    """Rate by a factor or to a value, lengths by factors."""
    if factor is not None and rate is not None:
        raise SpecError("--factor and --rate exclude each other; leave one out")
    if factor is not None:
        workload = transform.scale_rate(workload, factor)
    if rate is not None:
        workload = transform.to_rate(workload, rate)
    if (input_factor, output_factor) != (1.0, 1.0):
        workload = transform.scale_lengths(workload, input_factor, output_factor)
    return workload


def filtered(workload: Workload, input_tokens: str | None, output_tokens: str | None) -> Workload:
    """Only lengths in these ranges."""
    if input_tokens is not None:
        low, high = _range("--input-tokens", input_tokens)

        def prompt(arrival: Arrival) -> bool:
            return low <= arrival.input_tokens <= high

        workload = transform.keep(workload, prompt, f"prompts of {input_tokens} tokens")
    if output_tokens is not None:
        least, most = _range("--output-tokens", output_tokens)

        def output(arrival: Arrival) -> bool:
            return least <= arrival.output_tokens <= most

        workload = transform.keep(workload, output, f"outputs of {output_tokens} tokens")
    return workload


def part(text: str) -> Part:
    """`SPEC=SHARE` or `SPEC=BEFORE:AFTER`."""
    spec, equals, shares = text.rpartition("=")
    before, colon, after = shares.partition(":")
    if not equals or not spec:
        raise SpecError(f"'{text}' is not like SPEC=SHARE, such as chat.jsonl=0.7")
    share = to_number(f"{spec}: share", before)
    later = to_number(f"{spec}: share after", after) if colon else None
    return Part(open_workload(spec), share, later)


def shift(text: str | None) -> Shift | None:
    """`FROM:TO` in seconds."""
    if text is None:
        return None
    begin, colon, end = text.partition(":")
    if not colon:
        raise SpecError(f"--shift-s: '{text}' is not like 600:1200 (seconds)")
    return Shift(to_number("--shift-s", begin), to_number("--shift-s", end))


def _range(flag: str, text: str) -> tuple[float, float]:
    low, colon, high = text.partition(":")
    if not colon:
        raise SpecError(f"{flag}: '{text}' is not like 100:2000; either end may be empty")
    return (to_number(flag, low) if low else 0.0, to_number(flag, high) if high else float("inf"))
