"""ServeGen's clients: for each, a rate and a burstiness by slot of time, and lengths by window of the day.

Knows: both files of a client and how arrivals are drawn from them. Does not know: folders, other formats.
Source of the form: alibaba/ServeGen. A slot's gaps have its rate and CV; gamma, or Weibull with its shape.
"""

from __future__ import annotations

import heapq
import json
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import gamma, isfinite
from operator import itemgetter
from random import Random

from diptych.domain.errors import SpecError
from diptych.workload.lines import MAX_TOKENS, Lines
from diptych.workload.record import Arrival

NOTES = (
    "ServeGen: drawn from published rates and lengths by slot, not recorded requests",
    "ServeGen: reasoning ratios are not kept; images count as prompt tokens (count × tokens of one)",
)
PAIR = re.compile(r"([-+.\deE]+)\s*:\s*([-+.\deE]+)")
EXTRAS = ("image", "audio", "video")


@dataclass(frozen=True)
class Client:
    """One client's two files: lines of the one, text of the other."""

    name: str
    slots: Sequence[str]
    dataset: str


@dataclass(frozen=True)
class _Slot:
    start_s: float
    rate_rps: float
    unit_gap: Callable[[Random], float]


class _Pdf:
    """Whole numbers with their probabilities."""

    def __init__(self, pairs: Sequence[tuple[float, float]]) -> None:
        self._values = [round(value) for value, _ in pairs]
        self._sums: list[float] = []
        total = 0.0
        for _, weight in pairs:
            total += weight
            self._sums.append(total)

    def draw(self, rng: Random) -> int:
        place = bisect_right(self._sums, rng.random() * self._sums[-1])
        return self._values[min(place, len(self._values) - 1)]


def read(clients: Sequence[Client], source: str, seed: int) -> Iterator[Arrival]:
    """Arrivals of all clients by time, the same for the same seed. Raises `SpecError` before the first."""
    streams = [_arrivals(client, f"{source}/{client.name}", seed) for client in clients]
    if not streams:
        raise SpecError(f"{source}: has no clients; files chunk-N-trace.csv with chunk-N-dataset.json")
    return heapq.merge(*streams, key=lambda arrival: arrival.t_s)


def _arrivals(client: Client, source: str, seed: int) -> Iterator[Arrival]:
    slots = list(_slots(client.slots, f"{source}-trace.csv"))
    if not any(slot.rate_rps for slot in slots):
        return iter(())
    if len(slots) < 2:
        raise SpecError(f"{source}-trace.csv: holds one slot; two slots or more say how long each is")
    return _drawn(slots, _lengths(client.dataset, f"{source}-dataset.json"), Random(f"{seed}/{client.name}"))


def _drawn(
    slots: Sequence[_Slot], lengths: Sequence[tuple[float, list[_Pdf]]], rng: Random
) -> Iterator[Arrival]:
    """A gap is drawn in units of the mean gap and used up at the slot's rate, across slots where it is
    long."""
    starts = [start_s for start_s, _ in lengths]
    ends = [slot.start_s for slot in slots[1:]] + [2 * slots[-1].start_s - slots[-2].start_s]
    left: float | None = None
    for slot, end_s in zip(slots, ends, strict=True):
        t_s = slot.start_s
        while slot.rate_rps:
            left = slot.unit_gap(rng) if left is None else left
            if left > (end_s - t_s) * slot.rate_rps:
                left -= (end_s - t_s) * slot.rate_rps
                break
            t_s += left / slot.rate_rps
            left = None
            pdfs = lengths[max(0, bisect_right(starts, t_s) - 1)][1]
            yield Arrival(t_s=t_s, input_tokens=_prompt(pdfs, rng), output_tokens=max(1, pdfs[0].draw(rng)))


def _prompt(pdfs: list[_Pdf], rng: Random) -> int:
    """Text, and so many images, sounds, films of so many tokens each."""
    tokens = pdfs[1].draw(rng)
    for many, size in zip(pdfs[2::2], pdfs[3::2], strict=True):
        tokens += many.draw(rng) * size.draw(rng)
    return max(1, tokens)


def _slots(lines: Iterable[str], source: str) -> Iterator[_Slot]:
    cursor = Lines(lines, source)
    for text in cursor:
        cells = text.split(",")
        if len(cells) != 6:
            raise cursor.refuse("row", f"{len(cells)} columns; start, rate, cv, distribution, two parameters")
        numbers = [cursor.number_in("column", cell) for cell in (*cells[:3], *cells[4:])]
        start_s = cursor.instant_s("start", numbers[0])
        rate_rps, cv = cursor.seconds("rate", numbers[1]), cursor.seconds("cv", numbers[2])
        yield _Slot(start_s, rate_rps, _unit_gap(cursor, cells[3].strip(), cv, numbers[3]))


def _unit_gap(cursor: Lines, kind: str, cv: float, shape: float) -> Callable[[Random], float]:
    """Gaps of mean 1."""
    if kind == "Gamma" and cv > 0:
        return lambda rng: rng.gammavariate(1 / cv**2, cv**2)
    if kind == "Weibull" and shape > 0:
        scale = 1 / gamma(1 + 1 / shape)
        return lambda rng: rng.weibullvariate(scale, shape)
    if kind in ("", "Gamma", "Weibull", "Exponential"):
        return lambda rng: rng.expovariate(1.0)
    raise cursor.refuse("distribution", f"'{kind}' is not known; Gamma or Weibull")


def _lengths(text: str, source: str) -> list[tuple[float, list[_Pdf]]]:
    """By start of window: outputs, texts, then counts and sizes of what else a prompt holds."""
    try:
        data = json.loads(text)
        windows = sorted(((float(start), window) for start, window in data.items()), key=itemgetter(0))
    except (ValueError, AttributeError) as error:
        raise SpecError(f"{source}: is not an object of windows by start ({error})") from None
    if not all(isfinite(start_s) for start_s, _ in windows):
        raise SpecError(f"{source}: a window starts at no finite time")
    found = [(start_s, pdfs) for start_s, window in windows if (pdfs := _window(window, source))]
    if not found:
        raise SpecError(f"{source}: has no lengths, though its client sends requests")
    return found


def _window(window: object, source: str) -> list[_Pdf] | None:
    if not isinstance(window, dict):
        raise SpecError(f"{source}: a window is not an object with input_tokens and output_tokens")
    text_key = "text_tokens" if "text_tokens" in window else "input_tokens"
    names = ["output_tokens", text_key]
    for extra in EXTRAS:
        if f"{extra}_tokens" in window:
            names += [f"{extra}_count", f"{extra}_tokens"]
    pdfs = [_pdf(window.get(name), f"{source}: {name}") for name in names]
    return None if any(pdf is None for pdf in pdfs) else [pdf for pdf in pdfs if pdf is not None]


def _pdf(value: object, where: str) -> _Pdf | None:
    """`{12: 0.5, 13: 0.5}` as text. None if it is empty: nothing was seen in that window."""
    if not isinstance(value, str):
        raise SpecError(f"{where}: missing; a table of tokens and probabilities")
    try:
        pairs = [(float(token), float(weight)) for token, weight in PAIR.findall(value)]
    except ValueError as error:
        raise SpecError(f"{where}: {error}; a table of tokens and probabilities") from None
    if any(not isfinite(weight) or weight < 0 for _, weight in pairs):
        raise SpecError(f"{where}: holds a negative or infinite probability")
    for tokens, _ in pairs:
        if not 0 <= tokens <= MAX_TOKENS:  # infinite ones too
            raise SpecError(f"{where}: {tokens:g} tokens are not possible; 0 to {MAX_TOKENS:,}")
    return _Pdf(pairs) if sum(weight for _, weight in pairs) > 0 else None
