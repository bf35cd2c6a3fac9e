"""A length from its text form: `512`, `uniform(100,900)`, `lognormal(median=80,p90=400)`, `empirical(FILE)`.

Knows: names of distributions and their keys. Does not know: files (an opener is passed in),
what has the length.
"""

from __future__ import annotations

from collections.abc import Callable

from diptych.domain.errors import SpecError
from diptych.workload.lines import MAX_TOKENS
from diptych.workload.making import lengths
from diptych.workload.making.grammar import Form, form, to_number
from diptych.workload.nearest import did_you_mean
from diptych.workload.record import Workload

Opener = Callable[[str], Workload]
"""Opens the workload that lengths are drawn from."""
LENGTHS = {
    "constant": ("tokens",),
    "uniform": ("min", "max"),
    "lognormal": ("median", "p90", "mean", "sigma", "min", "max"),
    "empirical": ("file",),
}
"""Forms of a length and their keys."""


def length(key: str, text: str, opener: Opener) -> lengths.Lengths:
    """The distribution that a value such as `512` or `lognormal(median=80,p90=400)` stands for.

    ``key`` is where it stands: an empirical `input` draws prompts, an empirical `output` outputs.
    """
    try:
        if text[:1].isdigit():
            return lengths.constant(round(to_number(key, text)))
        return _length(key, form(text), opener)
    except SpecError as error:
        raise SpecError(f"{key}: {error}") from None


def _length(key: str, given: Form, opener: Opener) -> lengths.Lengths:
    if given.name not in LENGTHS:
        raise SpecError(f"no distribution '{given.name}'; {did_you_mean(given.name, LENGTHS)}")
    given = given.ordered(*LENGTHS[given.name])
    match given.name:
        case "constant":
            return lengths.constant(given.whole("tokens"))
        case "uniform":
            return lengths.uniform(given.whole("min"), given.whole("max"))
        case "empirical":
            place = 1 if key == "output" else 0
            return lengths.empirical([pair[place] for pair in pairs(opener(given.text("file")))])
        case _:
            return _lognormal(given)


def _lognormal(given: Form) -> lengths.Lengths:
    widths = [key for key in ("p90", "mean", "sigma") if key in given.keyed]
    if len(widths) != 1:
        raise SpecError("lognormal: give the median and one of p90, mean, sigma")
    median, width = given.number("median"), given.number(widths[0])
    if widths[0] == "p90":
        width = lengths.sigma_from_p90(median, width)
    elif widths[0] == "mean":
        width = lengths.sigma_from_mean(median, width)
    most = given.whole("max", MAX_TOKENS)
    return lengths.lognormal(median, width, least=given.whole("min", 1), most=most)


def pairs(source: Workload) -> list[tuple[int, int]]:
    """Prompt and output lengths of each request. Raises `SpecError` if there is none."""
    found = [(arrival.input_tokens, arrival.output_tokens) for arrival in source]
    if not found:
        raise SpecError(f"lengths: {source.name} has no requests to draw from")
    return found
