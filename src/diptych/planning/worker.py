"""One worker in virtual time: the production scheduler, and a cost model instead of a device.

Knows: when steps begin and end, how many tokens each sequence still has to come, gaps between tokens. Does
not
know: other workers, policies, what its reports lead to.

While the batch is unchanged, the worker *leaps* over many steps at once. A command that comes in the middle
of a leap finds the worker as it would have been: the whole steps until then are taken in, and the step under
way is planned one by one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from heapq import heappop, heappush
from typing import Final, TypeAlias, cast

from mypy_extensions import mypyc_attr

from diptych.domain.commands import StartDecode, StartPrefill, WorkerCommand
from diptych.domain.events import Bounced, Dropped, Finished, PrefillDone, StepReport, WorkerEvent
from diptych.domain.ids import RequestId, TokenId
from diptych.domain.request import TokenOut
from diptych.domain.worker import WorkerInfo, WorkerStats
from diptych.performance.steps import StepModel
from diptych.planning.leaps import ChunkLeap, DecodeLeap, Leap
from diptych.planning.measure import Buckets
from diptych.scheduling import Fetch, Scheduler, StepShape

FILLER: Final = TokenId(1)
"""What a modelled engine samples until the output is complete."""
END: Final = TokenId(0)
"""What it samples then: every simulated request has it as its stop token."""

_Parting: TypeAlias = Finished | Bounced | Dropped | PrefillDone
"""After these, the sequence does not decode here any more."""
_PARTINGS: Final = frozenset[type[WorkerEvent]]((Finished, Bounced, Dropped, PrefillDone))
"""The same, to be asked for by type: asking each class whether it has this instance costs far more."""

SHORTEST_LEAP: Final = 2
"""Steps from which a leap is cheaper than stepping."""


class Live:
    """A request on its way: what only the workload knows of it, and what its client has."""

    __slots__ = ("attempt", "emitted", "last_token_s", "output_tokens", "prefill_started_s")

    def __init__(self, output_tokens: int) -> None:
        self.output_tokens = output_tokens
        self.emitted = 0
        """Tokens that the client has, whenever no worker decodes it."""
        self.last_token_s = 0.0
        self.attempt = 0
        self.prefill_started_s = 0.0


@mypyc_attr(allow_interpreted_subclasses=True)
class Timeline(ABC):
    """The driver's side of a worker."""

    @abstractmethod
    def say(self, worker: VirtualWorker, report: StepReport) -> None:
        """Deliver a report."""

    @abstractmethod
    def wake_at(self, worker: VirtualWorker, t_s: float, ticket: int) -> None:
        """Call `VirtualWorker.wake` with ``ticket`` at ``t_s``."""

    @abstractmethod
    def fetch(self, worker: VirtualWorker, fetch: Fetch) -> None:
        """Bring these blocks, then call `VirtualWorker.fetched`."""


class _Row:
    """A sequence that decodes here. It has ``base`` plus the worker's rounds tokens; at round ``ends_at`` it
    has all."""

    __slots__ = ("base", "ends_at", "last_s")

    def __init__(self, base: int, ends_at: int, last_s: float) -> None:
        self.base = base
        self.ends_at = ends_at
        self.last_s = last_s


class VirtualWorker:
    """Scheduler, cost model, and the bookkeeping of tokens.

    ``rounds`` counts the steps in which every decoding sequence got a token, so that a leap of any length is
    one
    addition. ``leaping`` off: every step is planned and committed one by one (to prove that both are the
    same).
    ``stream``: reports carry each token (for drivers that deliver them).
    """

    def __init__(
        self,
        info: WorkerInfo,
        scheduler: Scheduler,
        steps: StepModel,
        lives: dict[RequestId, Live],
        timeline: Timeline,
        itl: Buckets,
        *,
        leaping: bool = True,
        stream: bool = False,
    ) -> None:
        self.info = info
        self.worker_id = info.worker_id
        self.incarnation = info.incarnation
        self.scheduler = scheduler
        self.slow = 1.0
        """Factor on every step: a fault."""
        self.company = 1.0
        """Another one: what the company of other workers costs."""
        self._pace = 1.0
        self.prefill_s = 0.0
        self.decode_s = 0.0
        self.steps = 0
        self.peak_held_blocks = 0
        self._model = steps
        self._lives = lives
        self._timeline = timeline
        self._itl = itl
        self._leaping = leaping
        self._stream = stream
        self._rows: dict[RequestId, _Row] = {}
        self._ends: list[tuple[int, RequestId]] = []
        self._fresh: dict[RequestId, _Row] = {}
        self._rounds = 0
        self._round_s = 0.0
        self._ticket = 0
        self._step: StepShape | None = None
        self._began_s = 0.0
        self._ends_s = 0.0
        self._leap: Leap | None = None
        self._halted = False

    # ------------------------------------------------------------ what comes in

    def accept(self, command: WorkerCommand, now_s: float) -> None:
        """A command, at any time."""
        if self._halted:
            return
        self._settle(now_s)
        if type(command) is StartPrefill:
            self._meet(command.work.request_id, command.work.attempt)
        elif type(command) is StartDecode:
            self._meet(command.request_id, command.attempt)
        self._say(now_s, self.scheduler.handle(command))
        for fetch in self.scheduler.drain_fetches():
            self._timeline.fetch(self, fetch)
        self.go_on(now_s)

    def _meet(self, name: RequestId, attempt: int) -> None:
        live = self._lives.get(name)
        if live is not None:
            live.attempt = attempt

    def fetched(self, fetch: Fetch, now_s: float, whole: bool) -> None:
        """The blocks of a sequence have come from another domain, or will not."""
        if self._halted:
            return
        self._settle(now_s)
        land = self.scheduler.fetched if whole else self.scheduler.fetch_failed
        land(fetch.request_id, fetch.attempt)
        self._say(now_s, self.scheduler.drain_events())
        self.go_on(now_s)

    def wake(self, ticket: int, now_s: float) -> None:
        """The step or leap under way has ended, unless ``ticket`` is out of date."""
        if ticket != self._ticket:
            return
        if self._leap is not None:
            self._finish_leap(self._leap.steps, now_s)
        elif self._step is not None:
            self._commit(self._step, now_s)
        self.go_on(now_s)

    def halt(self, now_s: float) -> None:
        """It does nothing from now on, and answers nobody."""
        self._settle(now_s)
        self._ticket += 1
        self._halted = True

    @property
    def busy(self) -> bool:
        """Whether a step is under way."""
        return self._step is not None or self._leap is not None

    def use(self, steps: StepModel) -> None:
        """Steps from the next one on take what ``steps`` says. Placement goes on believing the model it was
        given."""
        self._model = steps

    def set_speed(self, slow: float, now_s: float) -> None:
        """From now on every step takes ``slow`` times as long; what is left of the one under way, too."""
        self._set_pace(slow, self.company, now_s)

    def set_company(self, company: float, now_s: float) -> None:
        """The same, for what the company of other workers costs."""
        self._set_pace(self.slow, company, now_s)

    def _set_pace(self, slow: float, company: float, now_s: float) -> None:
        if self._halted or (slow == self.slow and company == self.company):
            return
        self._settle(now_s)
        before = self._pace
        self.slow, self.company, self._pace = slow, company, slow * company
        if self._step is not None:
            self._wake_at(now_s + max(0.0, self._ends_s - now_s) * self._pace / before)

    def settle(self, now_s: float) -> None:
        """Be exactly where a stepping worker would be, for who looks in from outside."""
        self._settle(now_s)

    def emitted(self, request_id: RequestId) -> int | None:
        """Tokens of a sequence that decodes here."""
        row = self._rows.get(request_id)
        return None if row is None else row.base + self._rounds

    def stats(self) -> WorkerStats:
        """Load now."""
        return self.scheduler.stats(self.prefill_s, self.decode_s)

    def note_memory(self) -> None:
        """Remember the fullest moment."""
        self.peak_held_blocks = max(self.peak_held_blocks, self.scheduler.held_blocks)

    # ------------------------------------------------------------ steps

    def go_on(self, now_s: float) -> None:
        """Begin a leap or a step, if there is something to run and nothing runs."""
        if self._step is not None or self._leap is not None:
            return
        if self._leaping and self._begin_leap(now_s):
            return
        self._begin_step(now_s)

    def _begin_step(self, now_s: float) -> None:
        shape = self.scheduler.begin()
        self._say(now_s, self.scheduler.drain_events())
        if shape is None:
            return
        self._step = shape
        self._began_s = now_s
        for name in shape.imports:
            live = self._lives[name]
            self._add_row(name, live.emitted, live.last_token_s)
        chunks = [(chunk.new_tokens, chunk.cached_tokens) for chunk in shape.chunks]
        seconds = self._model.step_s(chunks, shape.decodes, shape.context_tokens)
        self._wake_at(now_s + seconds * self._pace)

    def _commit(self, shape: StepShape, now_s: float) -> None:
        self._step = None
        self.steps += 1
        if shape.chunks:
            self.prefill_s += now_s - self._began_s
        else:
            self.decode_s += now_s - self._began_s
        for name in shape.left_out:
            self._hold_back(name)
        firsts = [chunk.request_id for chunk in shape.chunks if chunk.sample]
        ends = self._ending(shape.decodes > 0, firsts)
        events = self.scheduler.finish(FILLER, ends)
        if shape.decodes:
            self._end_round(shape, now_s)
        for name in firsts:
            self._add_row(name, self._lives[name].emitted + 1, now_s)
        tokens = self._tokens(shape, ends, firsts, events) if self._stream else ()
        if events or tokens:
            self._say(now_s, events, tokens, committed=shape)

    def _ending(self, round_ends: bool, firsts: Sequence[RequestId]) -> dict[RequestId, TokenId]:
        """Whose output this step completes."""
        over: dict[RequestId, TokenId] = {}
        ends = self._ends
        while round_ends and ends and ends[0][0] <= self._rounds + 1:
            ends_at, name = heappop(ends)
            row = self._rows.get(name)
            if row is not None and row.ends_at == ends_at:
                over[name] = END
        for name in firsts:
            live = self._lives[name]
            if live.emitted + 1 >= live.output_tokens:
                over[name] = END
        return over

    def _add_row(self, name: RequestId, out: int, last_s: float) -> None:
        """From now on it decodes here; its client has ``out`` tokens."""
        rounds = self._rounds
        row = _Row(out - rounds, rounds + self._lives[name].output_tokens - out, last_s)
        self._rows[name] = self._fresh[name] = row
        heappush(self._ends, (row.ends_at, name))

    def _hold_back(self, name: RequestId) -> None:
        """It has to wait while the others get a token."""
        row = self._rows[name]
        if name not in self._fresh:
            row.last_s = self._round_s
            self._fresh[name] = row
        row.base -= 1
        row.ends_at += 1
        heappush(self._ends, (row.ends_at, name))

    def _end_round(self, shape: StepShape, now_s: float) -> None:
        """Everyone who decoded has one token more."""
        self._rounds += 1
        steady = shape.decodes
        if self._fresh:
            waited = {name: self._fresh[name] for name in shape.left_out}
            for name, row in self._fresh.items():
                if name not in waited:
                    self._itl.add(now_s - row.last_s)
                    steady -= 1
            self._fresh = waited
        self._itl.add(now_s - self._round_s, steady)
        self._round_s = now_s

    def _tokens(
        self,
        shape: StepShape,
        ends: Mapping[RequestId, TokenId],
        firsts: Sequence[RequestId],
        events: Sequence[WorkerEvent],
    ) -> tuple[TokenOut, ...]:
        """What each client is given by the step just committed."""
        silent = dict.fromkeys(shape.left_out)
        silent |= {event.request_id: None for event in events if isinstance(event, Dropped)}
        if not shape.decodes:
            silent |= {name: None for name in self._rows if name not in firsts}
        return tuple(
            TokenOut(
                request_id=name,
                attempt=self._lives[name].attempt,
                index=row.base + self._rounds - 1,
                token_id=ends.get(name, FILLER),
            )
            for name, row in self._rows.items()
            if name not in silent
        )

    # ------------------------------------------------------------ leaps

    def _begin_leap(self, now_s: float) -> bool:
        left = self._rounds_left() if self._rows else None
        if left is not None and left < SHORTEST_LEAP:
            return False
        steady = self.scheduler.steady(left)
        if steady is None or steady.steps < SHORTEST_LEAP or steady.decodes != len(self._rows):
            return False
        leap: Leap
        if steady.new_tokens:
            leap = ChunkLeap(now_s, steady, self._pace, self._model)
        else:
            leap = DecodeLeap(now_s, steady, self._pace, self._model)
        self._leap = leap
        self._wake_at(now_s + leap.run_s(leap.steps))
        return True

    def _rounds_left(self) -> int:
        """Rounds before the one that ends a sequence."""
        ends = self._ends
        while ends:
            ends_at, name = ends[0]
            row = self._rows.get(name)
            if row is not None and row.ends_at == ends_at:
                return ends_at - self._rounds - 1
            heappop(ends)
        return 0

    def _settle(self, now_s: float) -> None:
        leap = self._leap
        if leap is None:
            return
        done = leap.steps_within(now_s - leap.start_s)
        reached_s = min(leap.start_s + leap.run_s(done), now_s)
        self._finish_leap(done, reached_s)
        self._begin_step(reached_s)

    def _finish_leap(self, done: int, now_s: float) -> None:
        leap, self._leap = self._leap, None
        if leap is None or not done:
            return
        if self._stream and leap.decodes:
            self._stream_leap(leap, done)
        self.scheduler.leap(done, FILLER)
        if leap.decodes:
            self._end_rounds(leap, done, now_s)
        self.steps += done
        if leap.prefills:
            self.prefill_s += now_s - leap.start_s
        else:
            self.decode_s += now_s - leap.start_s
        self.note_memory()

    def _end_rounds(self, leap: Leap, done: int, now_s: float) -> None:
        """Everyone who decoded has so many tokens more."""
        first_at_s = leap.start_s + leap.run_s(1)
        for row in self._fresh.values():
            self._itl.add(first_at_s - row.last_s)
        if self._round_s and leap.decodes > len(self._fresh):
            self._itl.add(first_at_s - self._round_s, leap.decodes - len(self._fresh))
        self._fresh.clear()
        leap.add_gaps(self._itl, done)
        self._rounds += done
        self._round_s = now_s

    def _stream_leap(self, leap: Leap, done: int) -> None:
        tokens = [
            TokenOut(
                request_id=name,
                attempt=self._lives[name].attempt,
                index=row.base + self._rounds + i,
                token_id=FILLER,
            )
            for name, row in self._rows.items()
            for i in range(done)
        ]
        self._timeline.say(self, StepReport(t_s=leap.start_s, tokens=tuple(tokens)))

    # ------------------------------------------------------------ what goes out

    def _say(
        self,
        now_s: float,
        events: Sequence[WorkerEvent],
        tokens: tuple[TokenOut, ...] = (),
        committed: StepShape | None = None,
    ) -> None:
        """``committed``: the step that these events came out of."""
        if not events and not tokens:
            return
        for event in events:
            if type(event) in _PARTINGS:
                parting = cast(_Parting, event)
                name = parting.request_id
                lost = type(parting) is Dropped and committed is not None and name not in committed.left_out
                self._part(name, discarded=lost)
        stats = None
        if committed is not None and events:
            self.note_memory()
            stats = self.stats()  # also where nothing ended: placement follows how fast steps are
        self._timeline.say(self, StepReport(t_s=now_s, events=tuple(events), tokens=tokens, stats=stats))

    def _part(self, name: RequestId, discarded: bool) -> None:
        """It decodes here no longer: what its client has is written down. ``discarded``: not the token of
        the step
        in which it was dropped."""
        row = self._rows.pop(name, None)
        if row is None:
            return
        fresh = self._fresh.pop(name, None)
        live = self._lives.get(name)
        if live is not None:
            live.emitted = row.base + self._rounds - discarded
            live.last_token_s = row.last_s if fresh is not None else self._round_s

    def _wake_at(self, t_s: float) -> None:
        self._ticket += 1
        self._ends_s = t_s
        self._timeline.wake_at(self, t_s, self._ticket)
