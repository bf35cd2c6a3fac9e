"""All that a scheduler is, as plain values: two schedulers with equal states behave alike from now on. Knows
the private parts of the scheduling package by walking them, so that new ones are compared too."""

from __future__ import annotations

from array import array
from typing import Any

import msgspec

from diptych.domain.request import Phase
from diptych.scheduling import Scheduler
from diptych.scheduling.decoding import Decodes
from diptych.scheduling.prefix_cache import PrefixCache
from diptych.scheduling.sequence import Sequence

MEMOS = {
    "hashes",
    "table",
    "_ahead",
    "_stops",
    "_config",
    "_numbered",
    "_dues",
    "_ends",
    "_filler",
    "round",
    "due",
    "ends",
    "_rest_of",
    "_rests",
    "_places",
}
"""Names of what follows from the rest, or says how it is remembered."""


def state_of(scheduler: Scheduler) -> Any:
    """Nested dicts, lists and plain values, comparable with ``==``."""
    decodes = scheduler._roster.decodes
    return _plain(scheduler, {}), [_progress(decodes, sequence) for sequence in decodes.sequences]


def _progress(decodes: Decodes, sequence: Sequence) -> Any:
    """A decoding sequence as it would be if somebody had looked at it, and what is expected of it."""
    computed = decodes.computed(sequence)
    missing = computed + 1 - sequence.tokens
    output = [*sequence.output, *[decodes._filler] * missing]
    return computed, output, sequence.due - decodes.round, sequence.ends - decodes.round


def _plain(value: Any, seen: dict[int, int]) -> Any:
    if value is None or isinstance(value, bool | int | float | str | bytes | range):
        return value
    if isinstance(value, msgspec.Struct):
        return value  # frozen words of the domain
    if isinstance(value, dict):
        return [(_plain(key, seen), _plain(item, seen)) for key, item in value.items()]
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, list | tuple | array):
        return [_plain(item, seen) for item in value]
    if id(value) in seen:
        return f"object {seen[id(value)]}"
    seen[id(value)] = len(seen)
    names = [name for name in _names(value) if name not in MEMOS]
    if isinstance(value, Sequence) and value.running and value.phase is Phase.DECODE:
        names = [name for name in names if name not in ("computed", "output")]  # see `_progress`
    plain = {name: _plain(getattr(value, name), seen) for name in names}
    if isinstance(value, PrefixCache):
        plain["resting"] = list(value.resting())
    return plain


def _names(value: Any) -> list[str]:
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    return sorted({*slots, *getattr(value, "__dict__", ())})


def prefilling(scheduler: Scheduler) -> list[Sequence]:
    """Running sequences that are still in their prompts, in order."""
    return [sequence for sequence in scheduler._roster.prefilling if sequence.phase is Phase.PREFILL]
