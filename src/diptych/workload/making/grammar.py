"""The compact text form of a workload: `NAME,key=value,…`, with values such as
`lognormal(median=80,p90=400)`.

Knows: commas, equal signs, parentheses, numbers. Does not know: what the keys mean.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite

from diptych.domain.errors import SpecError
from diptych.workload.nearest import did_you_mean


@dataclass(frozen=True)
class Form:
    """A name with its arguments: plain ones in order, and those with a key."""

    name: str
    plain: tuple[str, ...]
    keyed: dict[str, str]

    def check(self, keys: Iterable[str]) -> None:
        """Raises `SpecError` for a key that is not among these."""
        known = tuple(keys)
        for key in self.keyed:
            if key not in known:
                raise SpecError(f"{self.name}: unknown key '{key}'; {did_you_mean(key, known)}")

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number; without a default the key is needed."""
        text = self.text(key, None if default is None else str(default))
        value = to_number(f"{self.name}: {key}", text)
        if not isfinite(value):
            raise SpecError(f"{self.name}: {key}={text} is not a finite number")
        return value

    def whole(self, key: str, default: int | None = None, least: int = 1) -> int:
        """A whole number of at least ``least``."""
        value = self.number(key, default)
        if value != int(value) or value < least:
            raise SpecError(f"{self.name}: {key}={value:g} is not possible; a whole number, {least} or more")
        return int(value)

    def text(self, key: str, default: str | None = None) -> str:
        """The value as it stands."""
        if key in self.keyed:
            return self.keyed[key]
        if default is None:
            raise SpecError(f"{self.name}: {key} is missing; write {key}=…")
        return default

    def ordered(self, *keys: str) -> Form:
        """The same with plain arguments given the names of these keys, in this order."""
        if len(self.plain) > len(keys):
            raise SpecError(f"{self.name}: takes {', '.join(keys)}; got {', '.join(self.plain)} beside them")
        named = dict(zip(keys, self.plain, strict=False))
        if doubled := [key for key in named if key in self.keyed]:
            raise SpecError(f"{self.name}: {doubled[0]} is given twice")
        form = Form(self.name, (), {**named, **self.keyed})
        form.check(keys)
        return form


def form(text: str) -> Form:
    """`name(a,key=b)` or `name`. Raises `SpecError` if parentheses do not close."""
    text = text.strip()
    name, bracket, rest = text.partition("(")
    if not bracket:
        return Form(text, (), {})
    if not rest.endswith(")"):
        raise SpecError(f"{text}: the parenthesis after '{name}' does not close")
    return arguments(name.strip(), rest[:-1])


def arguments(name: str, text: str) -> Form:
    """What stands between the parentheses, or after the name, cut at commas outside parentheses."""
    plain: list[str] = []
    keyed: dict[str, str] = {}
    for part in _parts(name, text):
        key, equals, value = part.partition("=")
        if equals and "(" not in key:
            if key.strip() in keyed:
                raise SpecError(f"{name}: {key.strip()} is given twice")
            keyed[key.strip()] = value.strip()
        else:
            plain.append(part.strip())
    return Form(name, tuple(plain), keyed)


def to_number(name: str, text: str) -> float:
    """A number, with `k` and `M` for thousands and millions."""
    factor = {"k": 1e3, "K": 1e3, "M": 1e6}.get(text[-1:], 1.0)
    try:
        return float(text[:-1] if factor != 1.0 else text) * factor
    except ValueError:
        raise SpecError(f"{name}={text} is not a number") from None


def _parts(name: str, text: str) -> list[str]:
    parts = [""]
    depth = 0
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if depth < 0:
            raise SpecError(f"{name}: one parenthesis too many in '{text}'")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    if depth:
        raise SpecError(f"{name}: a parenthesis does not close in '{text}'")
    return [part for part in parts if part.strip()]
