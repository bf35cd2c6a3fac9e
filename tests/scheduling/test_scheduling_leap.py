"""Leaps: when a waiting prompt, a limit or a stop token ends one."""

from __future__ import annotations

import pytest

from diptych.domain.commands import Reserve, StartPrefill
from diptych.domain.errors import Bug
from diptych.domain.events import Bounced
from diptych.domain.request import Sampled, SamplingParams, Work
from diptych.domain.step import StepPlan, StepResult
from diptych.domain.worker import Arena
from diptych.scheduling import TOO_LARGE, Scheduler, SchedulerConfig
from support.shapes import of_steady
from support.works import make_work

BLOCK_TOKENS = 3


def scheduler_of(blocks: int) -> Scheduler:
    return Scheduler(SchedulerConfig(Arena(0, blocks), BLOCK_TOKENS, 8, 4, 64))


def work_of(name: str, prompt: tuple[int, ...], max_tokens: int, stop: tuple[int, ...] = ()) -> Work:
    sampling = SamplingParams(max_tokens=max_tokens, seed=0, stop_token_ids=stop)
    return make_work(name, prompt, sampling, block_tokens=BLOCK_TOKENS, arrival_s=float(name[1:]))


def step(scheduler: Scheduler, token_id: int = 1) -> StepPlan:
    plan = scheduler.plan()
    assert plan is not None
    sampled = {piece.request_id: Sampled(token_id) for piece in plan.slices if piece.sample}
    scheduler.commit(plan, StepResult(sampled=sampled))
    return plan


def steps_ahead(scheduler: Scheduler) -> int:
    steady = scheduler.steady()
    assert steady is not None
    return steady.steps


@pytest.mark.parametrize(("prompt", "steps"), [((1, 1, 1, 1), 1), ((1, 2, 1, 1), 10)])
def test_a_leap_ends_where_a_waiting_prompt_may_find_its_next_block(prompt: tuple[int, ...], steps: int):
    scheduler = scheduler_of(4)
    first = work_of("r0", (1, 1), max_tokens=30)
    scheduler.handle(Reserve(first, 2))
    scheduler.handle(StartPrefill(first))
    step(scheduler)
    scheduler.handle(StartPrefill(work_of("r1", prompt, max_tokens=4)))
    assert steps_ahead(scheduler) == steps
    scheduler.leap(1, 1)
    assert (len(step(scheduler).new) == 1) == (steps == 1)


def test_a_leap_ends_where_growth_would_evict_what_a_large_prompt_relies_on():
    scheduler = scheduler_of(3)
    scheduler.handle(StartPrefill(work_of("r0", (1, 1, 1), max_tokens=1)))
    step(scheduler)
    scheduler.handle(StartPrefill(work_of("r1", (2, 2), max_tokens=30)))
    step(scheduler)
    scheduler.handle(StartPrefill(work_of("r2", (1,) * 14, max_tokens=4), borrowed={1: 90, 2: 91, 3: 92}))
    assert steps_ahead(scheduler) == 4
    scheduler.leap(4, 1)
    assert scheduler.stats().waiting == 1
    scheduler.plan()
    bounces = [event for event in scheduler.drain_events() if isinstance(event, Bounced)]
    assert [(event.request_id, event.reason) for event in bounces] == [("r2", TOO_LARGE)]


def test_the_step_that_ends_a_sequence_is_not_leapt_over():
    scheduler = scheduler_of(8)
    scheduler.handle(StartPrefill(work_of("r0", (1, 2), max_tokens=5)))
    assert scheduler.steady() is None  # it prefills first
    step(scheduler)
    assert of_steady(scheduler.steady()) == (1, 2, 3)
    scheduler.leap(3, 1)
    assert of_steady(scheduler.steady()) == (1, 5, 0)
    assert step(scheduler).step == 4
    assert scheduler.steady() is None
    assert scheduler.stats().decode_tokens_total == scheduler.stats().decode_steps_total == 4


def test_the_middle_of_a_long_prompt_is_leapt_over_with_the_decodes_beside_it():
    scheduler = scheduler_of(40)
    scheduler.handle(StartPrefill(work_of("r0", (1, 2), max_tokens=30)))
    step(scheduler)
    scheduler.handle(StartPrefill(work_of("r1", tuple(range(100, 137)), max_tokens=5)))
    scheduler.handle(StartPrefill(work_of("r2", (3,) * 9, max_tokens=5)))
    assert scheduler.steady() is None  # it admits the prompt
    step(scheduler)
    steady = scheduler.steady()
    assert steady is not None
    assert of_steady(steady) == (1, 3, 4)  # 30 prompt tokens are left, 7 of them run beside each decode
    assert (steady.new_tokens, steady.cached_tokens) == (7, 7)
    scheduler.leap(4, 1)
    assert scheduler.steady() is None  # the last two tokens leave room for the next prompt
    assert [(it.request_id, len(it.token_ids), it.start) for it in step(scheduler).slices] == [
        ("r0", 1, 7),
        ("r1", 2, 35),
        ("r2", 5, 0),
    ]
    stats = scheduler.stats()
    assert (stats.prefill_tokens_total, stats.decode_tokens_total, stats.decode_steps_total) == (44, 6, 0)


def test_a_prompt_that_may_go_first_ends_the_leap_over_another():
    scheduler = scheduler_of(40)
    scheduler.handle(StartPrefill(work_of("r1", tuple(range(40)), max_tokens=5)))
    step(scheduler)
    assert steps_ahead(scheduler) == 3
    scheduler.handle(StartPrefill(work_of("r0", (1, 2), max_tokens=5)))
    assert scheduler.steady() is None
    assert [it.request_id for it in step(scheduler).slices] == ["r0", "r1"]


def test_what_is_no_leap():
    scheduler = scheduler_of(8)
    scheduler.handle(StartPrefill(work_of("r0", (1, 2), max_tokens=5, stop=(9,))))
    step(scheduler)
    with pytest.raises(Bug, match="a leap over 4 steps"):
        scheduler.leap(4, 1)
    with pytest.raises(Bug, match="token 9 ends"):
        scheduler.leap(3, 9)
    scheduler.plan()
    with pytest.raises(Bug, match="under way"):
        scheduler.steady()
