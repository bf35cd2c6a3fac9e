"""Prompts that are never cut: prefill first, whole, and decodes wait meanwhile."""

from __future__ import annotations

from diptych.domain.commands import StartPrefill
from diptych.domain.request import Sampled, SamplingParams
from diptych.domain.step import StepPlan, StepResult
from diptych.domain.worker import Arena
from diptych.scheduling import Scheduler, SchedulerConfig
from support.works import make_work

BLOCK_TOKENS = 4


def scheduler_of(blocks: int = 32, budget: int = 8, running: int = 4) -> Scheduler:
    return Scheduler(
        SchedulerConfig(Arena(0, blocks), BLOCK_TOKENS, budget, running, 64, chunked_prefill=False)
    )


def arrive(scheduler: Scheduler, name: str, tokens: int, first: int = 0, max_tokens: int = 20) -> None:
    sampling = SamplingParams(max_tokens=max_tokens, seed=0)
    prompt = range(first, first + tokens)
    arrival_s = float(name[1:])
    work = make_work(name, prompt, sampling, block_tokens=BLOCK_TOKENS, arrival_s=arrival_s)
    scheduler.handle(StartPrefill(work))


def rows(plan: StepPlan | None) -> list[tuple[str, int]]:
    return [] if plan is None else [(piece.request_id, len(piece.token_ids)) for piece in plan.slices]


def step(scheduler: Scheduler) -> list[tuple[str, int]]:
    plan = scheduler.plan()
    if plan is not None:
        sampled = {piece.request_id: Sampled(1) for piece in plan.slices if piece.sample}
        scheduler.commit(plan, StepResult(sampled=sampled))
    scheduler.check()
    return rows(plan)


def test_as_many_whole_prompts_as_fit_and_decodes_wait():
    scheduler = scheduler_of()
    arrive(scheduler, "r0", 3)
    assert step(scheduler) == [("r0", 3)]
    arrive(scheduler, "r1", 5, first=100)
    arrive(scheduler, "r2", 3, first=200)
    arrive(scheduler, "r3", 1, first=300)
    assert scheduler.steady() is None
    assert step(scheduler) == [("r1", 5), ("r2", 3)]
    assert step(scheduler) == [("r3", 1)]
    assert step(scheduler) == [("r0", 1), ("r1", 1), ("r2", 1), ("r3", 1)]


def test_the_first_may_exceed_the_budget():
    scheduler = scheduler_of()
    arrive(scheduler, "r0", 19)
    arrive(scheduler, "r1", 2, first=100)
    assert step(scheduler) == [("r0", 19)]
    assert step(scheduler) == [("r1", 2)]


def test_first_come_first_served():
    scheduler = scheduler_of()
    for name, tokens, first in (("r0", 6, 0), ("r1", 6, 100), ("r2", 2, 200)):
        arrive(scheduler, name, tokens, first)
    assert [step(scheduler) for _ in range(2)] == [[("r0", 6)], [("r1", 6), ("r2", 2)]]


def test_what_is_cached_costs_no_budget():
    scheduler = scheduler_of()
    arrive(scheduler, "r0", 8, max_tokens=1)
    step(scheduler)
    arrive(scheduler, "r1", 10)
    arrive(scheduler, "r2", 6, first=100)
    assert step(scheduler) == [("r1", 2), ("r2", 6)]


def test_decodes_go_on_while_a_prompt_finds_no_room():
    scheduler = scheduler_of(blocks=4)
    arrive(scheduler, "r0", 6, max_tokens=8)
    assert step(scheduler) == [("r0", 6)]
    arrive(scheduler, "r1", 8, first=100)
    steady = scheduler.steady()
    assert steady is not None
    assert steady.steps == 6
    assert step(scheduler) == [("r0", 1)]


def test_a_decode_beyond_the_budget_takes_no_block_yet():
    scheduler = scheduler_of(blocks=3, budget=1)
    arrive(scheduler, "r0", 2, max_tokens=3)
    arrive(scheduler, "r1", 4, first=100)
    assert [step(scheduler) for _ in range(3)] == [[("r0", 2)], [("r1", 4)], [("r0", 1)]]
    assert scheduler.stats().free_blocks == 1
    assert step(scheduler) == [("r0", 1)]
    assert step(scheduler) == [("r1", 1)]
    assert scheduler.stats().held_blocks == 2
