"""The planner can say no, yes, and both: whole plans on small budgets, simulated.

Settings are those of the published cases (latency model T3, T4, T13) and of catalogue hardware.
"""

from __future__ import annotations

from functools import lru_cache

import pytest

from diptych.domain.fleet import DecodeFit, PrefillFit, ProfileSpec
from diptych.planning.search.draws import Traffic
from diptych.planning.search.engine import Engine
from diptych.planning.search.finalist import Finalist, paired_ratio
from diptych.planning.search.goodput import Goodput
from diptych.planning.search.hardware import Build, find_engines, profile_engine
from diptych.planning.search.plan import Inquiry, Plan, make_plan
from diptych.planning.search.targets import Budget, Effort, Targets
from diptych.planning.search.verdict import Leaders, decide
from diptych.planning.traces import open_workload

QUICK = Effort(regret=False, finalists=2, processes=2, most_requests=500)

OPT_13B = {
    1: (
        (18.1025, 0.101912, 7.12226e-06),
        (19.9347, 6.26936e-4, 0.038507),
        (7.16619, 5.79800e-4, 0.158311),
        66_144,
    ),
    2: (
        (14.7430, 0.0685772, 2.44957e-06),
        (13.2948, 3.41092e-4, 0.0629640),
        (10.6387, 3.11834e-4, 0.0856291),
        163_008,
    ),
}
"""Tensor parallel size → prefill (ms, ms per token, ms per token²), decode below and from 95 sequences (ms,
ms per context token, ms per sequence), KV tokens: DistServe's published fits of OPT-13B on A100-80G with its
own engine."""

AGENTS = (
    "synthetic:poisson,rate=0.04,sessions=agents,prompt=33600,cached=0.857,system=8000,tool_s=5,think_s=20,"
    "output=lognormal(median=80,mean=445,max=16384)"
)
"""Latency model T13: agentic coder, prompts of 33.6 K tokens of which 85.7 % are cached, outputs of 445."""


SHORT = (
    "synthetic:poisson,rate=5,input=lognormal(median=550,mean=755,min=4,max=2000),"
    "output=lognormal(median=130,mean=200,min=2,max=1000)"
)
"""Latency model T3: chat with prompts of 755 and outputs of 200 tokens on average."""


def lengths(prompt: int, output: int, spread: float = 2.0) -> str:
    """A Poisson workload."""
    return (
        f"synthetic:poisson,rate=5,input=lognormal(median={prompt},p90={spread * prompt},max={4 * prompt}),"
        f"output=lognormal(median={output},p90={spread * output},max={5 * output})"
    )


def opt_13b() -> list[Engine]:
    """Both sizes of the engine."""
    engines = []
    for tp, (prefill, below, above, kv_tokens) in OPT_13B.items():
        decode = tuple(
            DecodeFit(
                fixed_s=fit[0] / 1e3,
                per_context_token_s=fit[1] / 1e3,
                per_sequence_s=fit[2] / 1e3,
                from_batch=batch,
            )
            for fit, batch in ((below, 0), (above, 95))
        )
        fitted = PrefillFit(
            fixed_s=prefill[0] / 1e3, per_token_s=prefill[1] / 1e3, per_token2_s=prefill[2] / 1e3
        )
        profile = ProfileSpec(
            prefill=fitted, decode=decode, kv_tokens=kv_tokens, kv_bytes_per_token=819_200, chips=tp
        )
        engines.append(profile_engine(f"A100-TP{tp}", profile, layers=40, port_bytes_per_s=25e9 * tp))
    return engines


def h20_coder() -> list[Engine]:
    """Latency model T13: Qwen3-Coder-30B-A3B in bf16 on one H20, with its interference factors."""
    batches = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
    profile = ProfileSpec(
        prefill=PrefillFit(fixed_s=0.02, per_token_s=6.6e9 / 74e12, per_token2_s=2 * 48 * 4096 / 74e12),
        decode=(
            DecodeFit(
                by_batch=tuple(
                    (b, (3e9 + 58e9 * (1 - (1 - 8 / 128) ** b)) / 3.2e12 + 2.9e-3) for b in batches
                ),
                per_context_token_s=98_304 / 3.2e12,
            ),
        ),
        kv_tokens=227_865,
        kv_bytes_per_token=98_304,
        mixed_prefill_factor=1.1,
        mixed_decode_factor=1.15,
    )
    return [profile_engine("H20", profile, layers=48, port_bytes_per_s=50e9)]


def planned(engines: list[Engine], workload: str, ttft_s: float, tpot_s: float, chips: int) -> Plan:
    """A quick plan of the 70B model (engines with profiles look at no model)."""
    traffic = Traffic(workload, open_workload, name="given", pace=(ttft_s / 2, tpot_s / 2))
    targets = Targets(ttft_s, tpot_s)
    return make_plan(
        Inquiry("llama-3.1-70b", tuple(engines), traffic, targets, Budget("devices", chips), effort=QUICK)
    )


@lru_cache(maxsize=1)
def h100() -> tuple[Engine, ...]:
    """All engines of H100 for a 70B model."""
    return tuple(find_engines(["H100"], Build("llama-3.1-70b")).engines)


# ---------------------------------------------------------------- whole plans


def test_agentic_coding_is_not_split() -> None:
    """T13: agentic coding on eight H20. T13 takes prompts as cached everywhere, and then a split lacks decode
    KV; with the caches that each worker of a split has, prefill of what it does not hold may come first."""
    plan = planned(h20_coder(), AGENTS, 15.0, 0.3, 8)
    assert plan.verdict.decision == "do not split"
    assert plan.verdict.chosen.candidate.kind == "unsplit"
    split = plan.leaders.split
    assert split is not None
    assert split.rate_rps < 0.8 * plan.leaders.unsplit.rate_rps
    assert split.binds in ("decode KV", "prefill FLOP")
    assert f"the split is bound by {split.binds}" in plan.verdict.reason


@pytest.mark.parametrize(("ttft_s", "tpot_s"), [(1.0, 0.25), (0.25, 0.1)])
def test_short_prompts_are_not_split(ttft_s: float, tpot_s: float) -> None:
    """T3, T4: prompts of 755 tokens on OPT-13B; one engine with chunked prefill is as good or better."""
    plan = planned(opt_13b(), SHORT, ttft_s, tpot_s, 6)
    assert plan.verdict.decision == "do not split"
    assert plan.verdict.chosen.candidate.kind == "unsplit"
    assert "unsplit baseline" in plan.verdict.reason
    unsplit = [it.candidate for it in plan.finalists if it.candidate.kind == "unsplit"]
    assert len({pool.engine.name for it in unsplit for pool in it.pools}) > 1  # the baseline has a choice


def test_short_prompts_of_a_large_model_are_not_split_either() -> None:
    plan = planned(list(h100()), lengths(250, 200), 1.0, 0.1, 8)
    assert plan.verdict.decision == "do not split"


def test_long_prompts_with_tight_tpot_are_split() -> None:
    plan = planned(list(h100()), lengths(8000, 200), 3.0, 0.025, 16)
    assert plan.verdict.decision == "split"
    ratio = plan.verdict.ratio
    assert ratio is not None and ratio.low is not None and ratio.low > 1.0
    gains = plan.verdict.gains
    assert gains["devices"] == pytest.approx(gains["watts"])  # one kind of chip, all of it used


def test_the_same_with_loose_tpot_is_not() -> None:
    plan = planned(list(h100()), lengths(8000, 200), 3.0, 0.2, 16)
    assert plan.verdict.decision == "do not split"


@pytest.mark.parametrize("chips", [1, 3])
def test_small_and_odd_budgets(chips: int) -> None:
    """One chip leaves no pair of pools; with three, engines of two chips leave one over, which the baseline
    may use too."""
    plan = planned(list(h100()), lengths(1000, 100), 2.0, 0.1, chips)
    assert plan.verdict.decision == "do not split"
    assert plan.verdict.chosen.candidate.chips == chips
    assert (plan.leaders.split is None) == (chips == 1)


def test_a_plan_has_all_its_parts() -> None:
    plan = planned(list(h100()), lengths(2000, 100), 1.5, 0.04, 8)
    kinds = {finalist.candidate.kind for finalist in plan.finalists}
    assert {"unsplit", "split"} <= kinds
    assert {it.quantity for it in plan.break_even} == {
        "link bandwidth", "load", "mean prompt length", "TPOT target"
    }  # fmt: skip
    assert set(plan.pareto) == {"devices", "watts", "money"}
    assert all(points for points in plan.pareto.values())
    assert len(plan.verdict.chosen.by_seed) == 3
    assert plan.spec.slo.ttft_s == 1.5


def test_equal_questions_get_equal_plans_in_any_number_of_processes() -> None:
    engines = list(h100())
    traffic = Traffic(lengths(2000, 100), open_workload, name="given")
    effort = Effort(regret=True, finalists=1, processes=1, most_requests=300, least_requests=150)
    asked = Inquiry(
        "llama-3.1-70b", tuple(engines), traffic, Targets(1.5, 0.04), Budget("devices", 8), effort=effort
    )
    alone = make_plan(asked)
    both = make_plan(
        Inquiry(
            "llama-3.1-70b",
            tuple(engines),
            traffic,
            Targets(1.5, 0.04),
            Budget("devices", 8),
            effort=Effort(regret=True, finalists=1, processes=2, most_requests=300, least_requests=150),
        )
    )
    assert both.verdict.words == alone.verdict.words
    assert both.regret == alone.regret
    assert alone.regret is not None
    assert all(0 <= kept <= 1 for line in alone.regret.lines for kept in line.kept.values())
    best = [max(line.kept[name] for line in alone.regret.lines) for name in alone.regret.workloads]
    assert best == [1.0] * len(best)


# ---------------------------------------------------------------- the rule


def leader(kind: str, rates: list[float]) -> Finalist:
    """A finalist of a kind with a goodput for each seed."""
    from diptych.domain.worker import Role
    from diptych.planning.search.candidate import Candidate, PoolPlan
    from diptych.planning.search.phases import Capacity

    roles = {
        "unsplit": (Role.MIXED,),
        "split": (Role.PREFILL, Role.DECODE),
        "hybrid": (Role.PREFILL, Role.DECODE, Role.MIXED),
    }[kind]
    pools = tuple(PoolPlan(h20_coder()[0], role, 1, 512) for role in roles)
    candidate = Candidate(pools, Capacity(1.0, "prefill FLOP"))
    return Finalist(candidate, {seed: Goodput(rate, None, ()) for seed, rate in enumerate(rates)})


@pytest.mark.parametrize(
    ("unsplit", "split", "hybrid", "decision"),
    [
        ([10, 11, 12], [12, 13.3, 14.3], None, "split"),
        ([10, 11, 12], [9, 10, 11], None, "do not split"),
        ([10, 11, 12], [10.1, 11, 12.1], None, "do not split"),
        ([10, 10, 10], [9, 15, 12], None, "undecided"),
        ([10, 10, 10], [12, 12, 12], [15, 15, 15.1], "hybrid"),
        ([10, 10, 10], [12, 12, 12], [11, 14, 12.5], "split"),
        ([10, 10, 10], [9, 9, 9], [12, 12.1, 12], "hybrid"),
        ([10, 10, 10], [9, 9, 9], [8, 11, 10], "do not split"),
        ([0, 0, 0], [3, 3, 3], None, "split"),
        ([3, 3, 3], [0, 0, 0], None, "do not split"),
        ([0, 0, 0], [0, 0, 0], None, "do not split"),
    ],
)
def test_the_simplest_answer_that_the_intervals_allow(
    unsplit: list[float], split: list[float], hybrid: list[float] | None, decision: str
) -> None:
    leaders = Leaders(
        leader("unsplit", unsplit), leader("split", split), leader("hybrid", hybrid) if hybrid else None
    )
    verdict = decide(leaders)
    assert verdict.decision == decision, verdict.words
    assert verdict.words
    assert verdict.reason
    chosen = {"split": "split", "hybrid": "hybrid", "do not split": "unsplit"}
    if decision in chosen:
        assert verdict.chosen.candidate.kind == chosen[decision]


def test_the_baseline_is_the_stronger_way_not_to_split() -> None:
    weak, strong = leader("unsplit", [10, 10, 10]), leader("unsplit", [13, 13, 13])
    leaders = Leaders(weak, leader("split", [12, 12, 12]), None, equal_hardware=strong)
    assert leaders.baseline is strong
    assert decide(leaders).decision == "do not split"
    assert paired_ratio(leaders.split or weak, strong) is not None
