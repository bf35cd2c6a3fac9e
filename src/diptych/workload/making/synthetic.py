"""A made workload from its text form, such as `poisson,rate=4,input=2000,output=300,requests=1000,seed=1`.

Knows: the keys of the text form (docs/workloads.md lists them). Does not know: files; lengths that are drawn
from another workload come through an opener that is passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice, takewhile
from random import Random

from diptych.domain.errors import SpecError
from diptych.workload.making import lengths, processes, sessions
from diptych.workload.making.curve import RateCurve
from diptych.workload.making.grammar import Form, arguments, to_number
from diptych.workload.making.length_text import Opener, length, pairs
from diptych.workload.making.plain import Plain
from diptych.workload.nearest import did_you_mean
from diptych.workload.record import DEFAULT_BLOCK_TOKENS, Arrival, Workload

PREFIX = "synthetic:"
DEFAULT_REQUESTS = 1000

PROCESSES = {
    "poisson": ("rate",),
    "gamma": ("rate", "cv"),
    "constant": ("rate",),
    "bursts": ("rate", "on_s", "off_s"),
    "ramp": ("points",),
    "once": (),
}
"""Arrival processes and their own keys."""
COMMON = ("requests", "duration_s", "seed", "block_tokens", "sessions")
PLAIN = ("input", "output", "lengths", "cached", "prefixes")
CHAT = ("turns", "system", "systems", "input", "output", "think_s")
AGENTS = ("turns", "calls", "prompt", "cached", "system", "systems", "output", "tool_s", "think_s")
KINDS = {"none": PLAIN, "chat": CHAT, "agents": AGENTS}
"""What `sessions=` may be, and the keys of each."""


def workload(text: str, opener: Opener) -> Workload:
    """The workload that ``text`` (with or without `synthetic:`) describes.

    Raises `SpecError` naming the key, the reason and the nearest valid choice. The same text gives the same
    arrivals wherever and however often it is read; a change of rate leaves the lengths as they are.
    """
    body = text.removeprefix(PREFIX)
    name, _, rest = body.partition(",")
    if name not in PROCESSES:
        raise SpecError(f"synthetic: no arrival process '{name}'; {did_you_mean(name, PROCESSES)}")
    spec = arguments(name, rest)
    if spec.plain:
        raise SpecError(f"{name}: '{spec.plain[0]}' is not like key=value")
    kind = spec.text("sessions", "none")
    if kind not in KINDS:
        raise SpecError(f"{name}: sessions={kind} is not possible; {did_you_mean(kind, KINDS)}")
    spec.check((*PROCESSES[name], *COMMON, *KINDS[kind]))
    return _Build(spec, kind, opener).workload(text)


class _Build:
    """Checks every key once, before anything is drawn."""

    def __init__(self, spec: Form, kind: str, opener: Opener) -> None:
        self._spec = spec
        self._kind = kind
        self._opener = opener
        self._seed = spec.whole("seed", 0, least=0)
        self._block_tokens = spec.whole("block_tokens", DEFAULT_BLOCK_TOKENS)
        self._duration_s = spec.number("duration_s") if "duration_s" in spec.keyed else None
        if self._duration_s is not None:
            processes.positive(f"{spec.name}: duration_s", self._duration_s)
        unlimited = self._duration_s is not None and "requests" not in spec.keyed
        self._requests = None if unlimited else spec.whole("requests", DEFAULT_REQUESTS)
        if unlimited and spec.name == "once":
            raise SpecError("once: needs requests=…; all of them come at 0 s")

    def workload(self, text: str) -> Workload:
        starts = self._starts()
        if next(starts(), None) is None:  # a wrong rate shows here and not in the middle of a run
            raise SpecError(f"{self._spec.name}: no request ever comes; give a rate above 0")
        make = self._plain(starts) if self._kind == "none" else self._sessions(starts)
        known = self._requests if self._duration_s is None and self._spec.name != "ramp" else None
        return Workload(
            name=text,
            arrivals=lambda: self._cut(make()),
            block_tokens=self._block_tokens,
            requests=known,
            notes=(f"made, seed {self._seed}",),
        )

    def _rng(self, purpose: str) -> Random:
        return Random(f"{self._seed}/{purpose}")

    def _cut(self, arrivals: Iterator[Arrival]) -> Iterator[Arrival]:
        end_s = self._duration_s
        if end_s is not None:
            arrivals = takewhile(lambda arrival: arrival.t_s < end_s, arrivals)
        return islice(arrivals, self._requests)

    def _starts(self) -> Callable[[], Iterator[float]]:
        spec = self._spec
        if spec.name == "once":
            return processes.at_once
        if spec.name == "ramp":
            curve = _curve(spec.text("points"))
            return lambda: processes.ramp(curve, self._rng("arrivals"))
        rate_rps = spec.number("rate")
        if spec.name == "gamma":
            cv = spec.number("cv")
            return lambda: processes.gamma(rate_rps, cv, self._rng("arrivals"))
        if spec.name == "constant":
            return lambda: processes.constant(rate_rps)
        if spec.name == "bursts":
            on_s, off_s = spec.number("on_s"), spec.number("off_s")
            return lambda: processes.bursts(rate_rps, on_s, off_s, self._rng("arrivals"))
        return lambda: processes.poisson(rate_rps, self._rng("arrivals"))

    def _plain(self, starts: Callable[[], Iterator[float]]) -> Callable[[], Iterator[Arrival]]:
        spec = self._spec
        if "lengths" in spec.keyed:
            if doubled := [key for key in ("input", "output") if key in spec.keyed]:
                raise SpecError(f"{spec.name}: {doubled[0]} and lengths exclude each other; leave one out")
            known = pairs(self._opener(spec.text("lengths")))
            both = lambda rng: known[int(rng.random() * len(known))]  # noqa: E731
        else:
            prompt, output = self._length("input"), self._length("output")
            both = lambda rng: (prompt(rng), output(rng))  # noqa: E731
        cached = _share(spec, "cached", 0.0)
        plain = Plain(both, cached, spec.whole("prefixes", 1), self._block_tokens)
        return lambda: plain.arrivals(starts(), self._rng("lengths"))

    def _sessions(self, starts: Callable[[], Iterator[float]]) -> Callable[[], Iterator[Arrival]]:
        maker = self._chat() if self._kind == "chat" else self._agent()
        return lambda: sessions.many(starts(), maker, maker.systems, lambda n: self._rng(f"session {n}"))

    def _chat(self) -> sessions.Chat:
        spec = self._spec
        return sessions.Chat(
            turns=_at_least(spec, "turns", 4.0, 1.0),
            system_tokens=spec.whole("system", 0, least=0),
            systems=spec.whole("systems", 1),
            message=self._length("input"),
            output=self._length("output"),
            think_s=_at_least(spec, "think_s", 10.0, 0.0),
            block_tokens=self._block_tokens,
        )

    def _agent(self) -> sessions.Agent:
        spec = self._spec
        calls = _at_least(spec, "calls", sessions.AGENT_CALLS_PER_TURN, 1.0)
        system = spec.whole("system", sessions.AGENT_SYSTEM_TOKENS, least=0)
        cached = _share(spec, "cached", sessions.AGENT_CACHED)
        prompt = _at_least(spec, "prompt", sessions.AGENT_PROMPT_TOKENS, 1.0)
        fresh, growth = sessions.agent_growth(prompt, cached, calls, system)
        return sessions.Agent(
            turns=_at_least(spec, "turns", sessions.AGENT_TURNS_PER_SESSION, 1.0),
            calls=calls,
            system_tokens=system,
            systems=spec.whole("systems", 1),
            fresh_tokens=fresh,
            growth_tokens=growth,
            output=self._length("output", sessions.AGENT_OUTPUT),
            tool_s=_at_least(spec, "tool_s", sessions.AGENT_TOOL_S, 0.0),
            think_s=_at_least(spec, "think_s", sessions.AGENT_THINK_S, 0.0),
            block_tokens=self._block_tokens,
        )

    def _length(self, key: str, default: str | None = None) -> lengths.Lengths:
        text = self._spec.text(key, default)
        return length(key, text, self._opener)


def _curve(text: str) -> RateCurve:
    points: list[tuple[float, float]] = []
    for part in text.split(";"):
        t_s, colon, rate = part.partition(":")
        if not colon:
            raise SpecError(f"ramp: points={text} is not like 0:2;60:8 (seconds:rate)")
        points.append((to_number("ramp: points", t_s), to_number("ramp: points", rate)))
    return RateCurve(points)


def _share(spec: Form, key: str, default: float) -> float:
    value = spec.number(key, default)
    if not 0 <= value < 1:
        raise SpecError(f"{spec.name}: {key}={value:g} is not possible; from 0 to below 1")
    return value


def _at_least(spec: Form, key: str, default: float, least: float) -> float:
    value = spec.number(key, default)
    if value < least:
        raise SpecError(f"{spec.name}: {key}={value:g} is not possible; at least {least:g}")
    return value
