"""The worker's three threads over the real scheduler and the toy engine, without a process."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from diptych.adapters.toy import ToyAdapter, ToyEngine, toy_layout, toy_next_token
from diptych.domain.commands import DropWork, Reserve, StartDecode, StartPrefill
from diptych.domain.errors import Bug
from diptych.domain.events import Dropped, Finished, Heartbeat, StepReport
from diptych.domain.ids import RequestId, WorkerId
from diptych.domain.kv import extend_hashes, hash_root
from diptych.domain.request import SamplingParams, Work
from diptych.domain.worker import Arena
from diptych.runtime.clock import MonotonicClock
from diptych.runtime.worker import StepFailed, Worker
from diptych.scheduling import Scheduler, SchedulerConfig

LAYOUT = toy_layout(4)
BLOCKS = 32
ROOT = hash_root("toy", "")
DEADLINE_S = 20.0


def _work(name: str, prompt: tuple[int, ...], max_tokens: int = 5) -> Work:
    return Work(
        request_id=RequestId(name),
        attempt=1,
        token_ids=prompt,
        prompt_tokens=len(prompt),
        sampling=SamplingParams(max_tokens=max_tokens, seed=0, temperature=0.0),
        cache_root=ROOT,
        block_hashes=extend_hashes(ROOT, prompt, 4),
    )


def _expected(work: Work) -> list[int]:
    history = list(work.token_ids)
    for _ in range(work.sampling.max_tokens):
        history.append(toy_next_token(tuple(history), work.sampling, work.prompt_tokens, 256))
    return history[work.prompt_tokens :]


class Bench:
    """One worker with its step thread, and everything that it says."""

    def __init__(self, engine: ToyEngine | None = None, sleep: Callable[[float], None] | None = None) -> None:
        config = SchedulerConfig(
            arena=Arena(0, BLOCKS),
            block_tokens=4,
            token_budget=64,
            max_running=8,
            block_bytes=LAYOUT.block_bytes,
        )
        buffer = memoryview(bytearray(LAYOUT.segment_bytes(BLOCKS)))
        adapter = ToyAdapter(engine or ToyEngine(), LAYOUT, buffer, BLOCKS, sleep or (lambda seconds: None))
        self.said: list[StepReport | Heartbeat] = []
        self._news = threading.Condition()
        self.worker = Worker(WorkerId("w"), 1, Scheduler(config), adapter, MonotonicClock(), self._hear)
        self.error: BaseException | None = None
        self.steps = threading.Thread(target=self._run)

    def _hear(self, message: StepReport | Heartbeat) -> None:
        with self._news:
            self.said.append(message)
            self._news.notify_all()

    def _run(self) -> None:
        try:
            self.worker.run()
        except StepFailed as error:
            self.error = error

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with self._news:
            assert self._news.wait_for(condition, DEADLINE_S), self.said

    def events(self, kind: type) -> list[object]:
        reports = [message for message in self.said if isinstance(message, StepReport)]
        return [event for report in reports for event in report.events if isinstance(event, kind)]

    def tokens(self, name: str) -> list[int]:
        reports = [message for message in self.said if isinstance(message, StepReport)]
        return [token.token_id for report in reports for token in report.tokens if token.request_id == name]

    def __enter__(self) -> Bench:
        self.steps.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.worker.stop()
        self.steps.join(DEADLINE_S)
        assert not self.steps.is_alive()


def test_requests_run_to_their_end_and_the_load_returns_to_nothing() -> None:
    works = [_work(f"r{i}", tuple(range(i, i + 3 + 4 * i))) for i in range(6)]
    with Bench() as bench:
        for work in works:
            bench.worker.accept(StartPrefill(work))
        bench.wait_for(lambda: len(bench.events(Finished)) == len(works))
    for work in works:
        assert bench.tokens(work.request_id) == _expected(work)
    last = [message for message in bench.said if isinstance(message, StepReport) and message.stats][-1].stats
    assert last is not None and (last.held_blocks, last.running, last.busy) == (0, 0, False)
    assert last.prefill_s_total >= 0 and last.decode_steps_total > 0


def test_a_command_is_answered_while_a_step_runs() -> None:
    entered, leave = threading.Event(), threading.Event()

    def hold(seconds: float) -> None:
        entered.set()
        assert leave.wait(DEADLINE_S)

    with Bench(ToyEngine(prefill_s_per_token=1.0), hold) as bench:
        bench.worker.accept(StartPrefill(_work("running", (1, 2, 3))))
        assert entered.wait(DEADLINE_S)
        bench.worker.accept(StartPrefill(_work("waiting", (4, 5, 6))))
        bench.worker.accept(DropWork(RequestId("waiting"), 1))
        assert bench.events(Dropped) == [Dropped(RequestId("waiting"), 1)]
        bench.worker.accept(DropWork(RequestId("running"), 1))
        assert bench.events(Dropped) == [Dropped(RequestId("waiting"), 1)]
        leave.set()
        bench.wait_for(lambda: len(bench.events(Dropped)) == 2)
    assert bench.tokens("running") == []


def test_heartbeats_come_while_a_step_runs_and_say_busy() -> None:
    entered, leave = threading.Event(), threading.Event()

    def hold(seconds: float) -> None:
        entered.set()
        assert leave.wait(DEADLINE_S)

    with Bench(ToyEngine(prefill_s_per_token=1.0), hold) as bench:
        heart = threading.Thread(target=bench.worker.beat, args=(0.001,))
        bench.worker.accept(StartPrefill(_work("r", (1, 2, 3), max_tokens=1)))
        assert entered.wait(DEADLINE_S)
        heart.start()
        bench.wait_for(lambda: isinstance(bench.said[-1], Heartbeat) and bench.said[-1].stats.busy)
        leave.set()
        bench.wait_for(lambda: isinstance(bench.said[-1], Heartbeat) and not bench.said[-1].stats.busy)
    heart.join(DEADLINE_S)
    assert not heart.is_alive()


def test_a_step_that_fails_names_its_requests() -> None:
    with Bench(ToyEngine(poison_token_id=13)) as bench:
        bench.worker.accept(StartPrefill(_work("poisoned", (1, 13))))
        bench.steps.join(DEADLINE_S)
    assert isinstance(bench.error, StepFailed) and bench.error.request_ids == ("poisoned",)


def test_an_idle_worker_stops_at_once() -> None:
    with Bench() as bench:
        pass
    assert not bench.steps.is_alive() and bench.error is None


def test_a_worker_of_this_machine_is_told_to_fetch_by_mistake_only() -> None:
    bench = Bench()
    work = _work("r", (1, 2, 3))
    bench.worker.accept(Reserve(work, 2))
    with pytest.raises(Bug, match="share one memory domain"):
        bench.worker.accept(StartDecode(work.request_id, 1, (4,), (20,), 3, source=WorkerId("far")))
