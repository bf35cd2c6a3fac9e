"""The whole search: bounds, simulation of finalists, verdict, break-even, fronts, regret.

Knows: the order of the stages, and what goes from one to the next. Does not know: files, flags, tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from diptych.domain.cluster import ClusterSpec
from diptych.domain.errors import SpecError
from diptych.domain.worker import Role
from diptych.planning.search.bounds import Bounds, Question
from diptych.planning.search.break_even import BreakEven, break_evens, longer_prompts, scaled
from diptych.planning.search.candidate import Candidate, Serving, cluster_of
from diptych.planning.search.crew import Crew, Draws, Progress, Task, quiet
from diptych.planning.search.draws import LESS_DECODE, MORE_DECODE, MORE_PREFILL, SHIFTS, Traffic
from diptych.planning.search.engine import Engine
from diptych.planning.search.finalist import Finalist
from diptych.planning.search.floors import Floors, check_budget, check_floors, check_memory, floors
from diptych.planning.search.goodput import LEAST_WORKERS, STRETCH, Goodput, Search, requests_needed
from diptych.planning.search.pareto import Point, fronts
from diptych.planning.search.regret import (
    Regret,
    flexibility,
    lines_of,
    prefill_share,
    reallocated,
    split_share,
    stranding,
)
from diptych.planning.search.shape import Shape, filling_tokens, shape_of
from diptych.planning.search.targets import Budget, Effort, Targets
from diptych.planning.search.verdict import Leaders, Verdict, decide

BLOCK_TOKENS = (16, 32, 64, 128, 256)
"""Sizes of a KV block tried: the largest that wastes little of a sequence, since larger ones simulate
faster."""

MOST_BLOCK_TOKENS, LEAST_BLOCK_TOKENS = 512, 8
"""KV blocks of a workload that names its own: the largest that divide those and are no larger; smaller ones
take too long."""

COARSE_TOLERANCE, COARSE_PROBES = 0.15, 5
"""For the choice among finalists."""

ROUGH_TOLERANCE, ROUGH_PROBES = 0.25, 4
"""For shifted workloads."""

USUAL_TPOT = 0.7
"""TPOT at the goodput over its target, on average: a tenth of the requests reaches the target."""

SPARE = 1.25
"""Goodputs in simulation reach so much more than closed forms promise, and runs should be long enough then
too."""

MOST_PARTS = 64
"""Equal parts that a fleet is cut into at most."""

SPAN = 12
"""Measured span of a simulation in TTFT targets, at least: a load of x % too much shows once the queue is
as long as the target, after 1/x of it."""

USUAL = 2
"""A part is as small as makes runs this many times `Effort.most_requests` long."""

FINE_PROBES = 4
"""More for each seed of the best."""


@dataclass(frozen=True)
class Inquiry:
    """Everything that a plan is asked."""

    model: str
    engines: tuple[Engine, ...]
    traffic: Traffic
    targets: Targets
    budget: Budget
    others: tuple[Traffic, ...] = ()
    """Other workloads that the fleet may have to serve, for regret."""
    link_bytes_per_s: float | None = None
    effort: Effort = field(default_factory=Effort)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Everything that a plan says."""

    inquiry: Inquiry
    shape: Shape
    floors: Floors
    considered: int
    """Candidates of which closed forms were computed."""
    finalists: tuple[Finalist, ...]
    """Simulated ones, best first."""
    leaders: Leaders
    verdict: Verdict
    break_even: tuple[BreakEven, ...]
    pareto: dict[str, tuple[Point, ...]]
    regret: Regret | None
    simulated_requests: int
    serving: Serving
    sessions: bool
    """Whether requests come in sessions."""
    calls: float
    """Requests of a session."""

    @property
    def spec(self) -> ClusterSpec:
        """What to run."""
        return cluster_of(self.verdict.chosen.candidate, self.serving)


def make_plan(inquiry: Inquiry, progress: Progress = quiet) -> Plan:
    """Search, simulate, decide.

    Raises:
        SpecError: targets below the floor, a budget that pays for nothing, a workload that cannot be read.
    """
    return _Planner(inquiry).plan(progress)


@dataclass
class _Planner:
    inquiry: Inquiry
    draws: Draws = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)
    requests: int = 0
    parts: int = 1
    """See `Search.parts`."""

    def plan(self, progress: Progress) -> Plan:
        ask = self.inquiry
        engines = check_budget(ask.engines, ask.budget)
        self._draw([ask.traffic], ask.effort.seeds)
        shape = self.shapes[ask.traffic.name]
        engines = check_memory(engines, shape)
        limits = floors(engines, shape, ask.targets.share)
        check_floors(limits, ask.targets)
        shifts = {it.name: ask.traffic.shifted(it) for it in SHIFTS} if ask.effort.regret else {}
        self._draw([*shifts.values(), *(ask.others if ask.effort.regret else ())], 1)
        serving = self._serving(shape)
        progress("closed forms", 0, 1)
        whole = Bounds(engines, self._question(shape))
        self.parts = self._grain(whole, shape)
        bounds = Bounds(engines, whole.question, self.parts)
        chosen, considered = self._choose(bounds)
        progress("closed forms", 1, 1)
        with Crew(self.draws, ask.effort.processes, progress) as crew:
            finalists = self._coarse(crew, serving, chosen)
            leaders = self._fine(crew, serving, finalists, bounds)
            verdict = decide(leaders)
            regret = None
            if ask.effort.regret:
                regret = self._regret(crew, serving, leaders, bounds, self._columns(leaders, shifts))
        forms = scaled(engines, bounds.question, leaders)
        factors = {it.candidate.kind: it.ratio_to_estimate for it in leaders.all}
        return Plan(
            inquiry=ask,
            shape=shape,
            floors=limits,
            considered=considered,
            finalists=tuple(sorted(finalists, key=lambda it: -it.rate_rps)),
            leaders=leaders,
            verdict=verdict,
            break_even=tuple(break_evens(forms)),
            pareto=fronts(finalists, forms.engines, bounds.question, factors),
            regret=regret,
            simulated_requests=self.requests,
            serving=serving,
            sessions=self.draws[ask.traffic.name, 0].sessions,
            calls=self.draws[ask.traffic.name, 0].calls,
        )

    # ------------------------------------------------------------ what is asked

    def _columns(self, leaders: Leaders, shifts: Mapping[str, Traffic]) -> list[Traffic]:
        """The given workload, one with more prefill, one with more decode, and those that were named.
        Longer prompts are a fair shift only where the leaders' engines have room above their floors."""
        ask = self.inquiry
        longer = longer_prompts(self.shapes[ask.traffic.name], MORE_PREFILL.input_factor)
        engines = [
            pool.engine for it in leaders.all for pool in it.candidate.pools if pool.role is not Role.DECODE
        ]
        slowest_s = max(floors([engine], longer, ask.targets.share).ttft_s for engine in engines)
        more = MORE_PREFILL if slowest_s * ROOM <= ask.targets.ttft_s else LESS_DECODE
        return [ask.traffic, shifts[more.name], shifts[MORE_DECODE.name], *ask.others]

    def _draw(self, columns: Sequence[Traffic], seeds: int) -> None:
        for traffic in columns:
            for seed in range(seeds):
                self.draws[traffic.name, seed] = traffic.draw(
                    seed, STRETCH * self.inquiry.effort.most_requests
                )
            self.shapes[traffic.name] = shape_of(self.draws[traffic.name, 0])

    def _question(self, shape: Shape) -> Question:
        ask = self.inquiry
        return Question(shape, ask.targets, ask.budget, ask.link_bytes_per_s)

    def _serving(self, shape: Shape) -> Serving:
        ask = self.inquiry
        shares = any(row.hash_ids for row in self.draws[ask.traffic.name, 0].arrivals)
        if shares:
            block = kv_block_tokens(ask.traffic.block_tokens)
        else:
            typical = shape.input_tokens + shape.output_tokens
            block = max((size for size in BLOCK_TOKENS if 32 * size <= typical), default=BLOCK_TOKENS[0])
        return Serving(ask.model, ask.targets, block, shares)

    # ------------------------------------------------------------ stage one

    def _grain(self, bounds: Bounds, shape: Shape) -> int:
        """How many equal parts a fleet must have so that runs of one part can be long enough: a power of
        two."""
        best = [*bounds.unsplit()[:1], *bounds.splits()[:1]]
        rate = max(it.estimate.rate_rps for it in best)
        search = self._search(shape, fine=False)
        grain = 1
        most = USUAL * search.most_requests
        workers = sum(pool.workers for pool in bounds.unsplit()[0].pools)
        while (
            2 * grain <= min(MOST_PARTS, workers // LEAST_WORKERS)
            and requests_needed(SPARE * rate / grain, search) > most
        ):
            grain *= 2
        return grain

    def _choose(self, bounds: Bounds) -> tuple[list[Candidate], int]:
        """A few of each kind that differ (fewer where runs are long), one more of the unsplit ones, since a
        weak baseline would flatter every split, and the unsplit form of a mixed split."""
        unsplit, splits = bounds.unsplit(), bounds.splits()
        effort = self.inquiry.effort
        search = self._search(bounds.question.shape, fine=False)
        needed = requests_needed(unsplit[0].estimate.rate_rps / bounds.grain, search)
        keep = effort.finalists if needed <= effort.most_requests else min(2, effort.finalists)
        hybrids = bounds.hybrids(splits[:keep])
        chosen = _varied(unsplit, keep + 1) + _varied(splits, keep) + _varied(hybrids, max(1, keep - 1))
        for split in _varied(splits, 1):
            if _uses_more(split, unsplit[0], self.inquiry.budget):
                chosen.append(bounds.unsplit_hardware(split))
        return _distinct(chosen), len(unsplit) + len(splits) + len(hybrids)

    # ------------------------------------------------------------ stage two

    def _coarse(self, crew: Crew, serving: Serving, chosen: Sequence[Candidate]) -> list[Finalist]:
        name = self.inquiry.traffic.name
        best = max(candidate.estimate.rate_rps for candidate in chosen)
        tasks = [
            self._task(candidate, serving, name, 0, max(candidate.estimate.rate_rps, best / 16), fine=False)
            for candidate in chosen
        ]
        found = crew.run("simulating finalists", tasks)
        self._count(found)
        return [Finalist(it, {0: goodput}) for it, goodput in zip(chosen, found, strict=True)]

    def _fine(self, crew: Crew, serving: Serving, finalists: list[Finalist], bounds: Bounds) -> Leaders:
        """The best of each kind again: more exactly, and over all seeds."""
        best = {kind: _best(finalists, kind) for kind in ("unsplit", "split", "hybrid")}
        split = best["split"]
        equal = None
        if split is not None:
            same = bounds.unsplit_hardware(split.candidate)
            equal = next((it for it in finalists if it.candidate.name == same.name), None)
        chosen = [it for it in (*best.values(), equal) if it is not None]
        chosen = list({id(it): it for it in chosen}.values())
        seeds = range(self.inquiry.effort.seeds)
        jobs = [(it, seed) for it in chosen for seed in seeds if it.rate_rps > 0]
        name = self.inquiry.traffic.name
        tasks = [
            self._task(it.candidate, serving, name, seed, it.rate_rps, it.by_seed.get(seed))
            for it, seed in jobs
        ]
        found = crew.run("simulating the best over all seeds", tasks)
        for (finalist, seed), goodput in zip(jobs, found, strict=True):
            again = finalist.by_seed.get(seed)
            self._count([goodput])
            self.requests -= 0 if again is None else sum(probe.simulated for probe in again.probes)
            finalist.by_seed[seed] = goodput
        unsplit = best["unsplit"]
        assert unsplit is not None  # every engine that fits gives one
        return Leaders(unsplit, split, best["hybrid"], equal if equal is not unsplit else None)

    def _search(self, shape: Shape, *, fine: bool) -> Search:
        effort, targets = self.inquiry.effort, self.inquiry.targets
        return Search(
            share=targets.share,
            tolerance=effort.tolerance if fine else COARSE_TOLERANCE,
            most_probes=FINE_PROBES if fine else COARSE_PROBES,
            least_requests=effort.least_requests,
            most_requests=effort.most_requests,
            stay_s=targets.ttft_s / 2 + USUAL_TPOT * targets.tpot_s * filling_tokens(shape),
            span_s=SPAN * targets.ttft_s,
            parts=self.parts,
        )

    @staticmethod
    def _rough(task: Task) -> Task:
        """Regret is told in tenths."""
        return replace(task, search=replace(task.search, tolerance=ROUGH_TOLERANCE, most_probes=ROUGH_PROBES))

    def _guesses(self, bounds: Bounds, chosen: Sequence[Finalist]) -> dict[tuple[str, int], float]:
        """What the first seed showed, times what closed forms say of how much heavier each other draw is."""
        ask = self.inquiry
        guesses: dict[tuple[str, int], float] = {}
        for seed in range(ask.effort.seeds):
            shape = shape_of(self.draws[ask.traffic.name, seed])
            drawn = Bounds(bounds.engines, self._question(shape))
            for it in chosen:
                before = bounds.estimate(it.candidate).rate_rps
                factor = drawn.estimate(it.candidate).rate_rps / before if before > 0 else 1.0
                guesses[it.candidate.name, seed] = it.by_seed[0].rate_rps * (factor if factor > 0 else 1.0)
        return guesses

    def _task(
        self,
        candidate: Candidate,
        serving: Serving,
        workload: str,
        seed: int,
        guess: float,
        before: Goodput | None = None,
        *,
        fine: bool = True,
    ) -> Task:
        """``before``: what a coarser search of the same draw has seen."""
        search = self._search(self.shapes[workload], fine=fine)
        if before is not None:
            search = replace(search, seen=before.probes)
        return Task(cluster_of(candidate, serving), workload, seed, guess, search)

    def _count(self, found: Sequence[Goodput]) -> None:
        self.requests += sum(probe.simulated for goodput in found for probe in goodput.probes)

    # ------------------------------------------------------------ shifts

    def _regret(
        self,
        crew: Crew,
        serving: Serving,
        leaders: Leaders,
        bounds: Bounds,
        columns: Sequence[Traffic],
    ) -> Regret:
        """Leaders, the re-allocated split and the best by closed forms, on every workload."""
        given = columns[0].name
        all_bounds = {
            it.name: Bounds(bounds.engines, self._question(self.shapes[it.name]), bounds.grain)
            for it in columns
        }
        rows: dict[str, Finalist] = {it.candidate.name: it for it in leaders.all}
        goodput = {(name, given): it.by_seed[0].rate_rps for name, it in rows.items()}
        moved: dict[str, tuple[str, Candidate]] = {}
        jobs: list[tuple[str, str, Candidate, float]] = []
        for traffic in columns[1:]:
            bounds = all_bounds[traffic.name]
            for name, finalist in rows.items():
                guess = bounds.estimate(finalist.candidate).rate_rps * finalist.ratio_to_estimate
                jobs.append((name, traffic.name, finalist.candidate, guess))
            if leaders.split is not None:
                changed = reallocated(leaders.split.candidate, bounds)
                if changed is not None and changed.name not in rows:
                    moved[traffic.name] = (changed.name, changed)
                    guess = changed.estimate.rate_rps * leaders.split.ratio_to_estimate
                    jobs.append((REALLOCATED, traffic.name, changed, guess))
            best = bounds.unsplit()[0]
            if best.estimate.rate_rps > WORTH_A_TRY * bounds.estimate(leaders.unsplit.candidate).rate_rps:
                jobs.append((RESIZED, traffic.name, best, best.estimate.rate_rps))
        tasks = [
            self._rough(self._task(candidate, serving, workload, 0, max(guess, 1e-3), fine=False))
            for _, workload, candidate, guess in jobs
        ]
        found = crew.run("simulating shifted workloads", tasks)
        self._count(found)
        for (name, workload, _, _), seen in zip(jobs, found, strict=True):
            goodput[name, workload] = seen.rate_rps
        return self._told(leaders, all_bounds, rows, goodput, columns)

    def _told(
        self,
        leaders: Leaders,
        all_bounds: dict[str, Bounds],
        rows: dict[str, Finalist],
        goodput: dict[tuple[str, str], float],
        columns: Sequence[Traffic],
    ) -> Regret:
        given = columns[0].name
        named: list[tuple[str, str]] = [(name, it.candidate.kind) for name, it in rows.items()]
        split = leaders.split
        if split is not None:
            for traffic in columns:
                own = goodput.get((split.candidate.name, traffic.name), 0.0)
                goodput.setdefault((REALLOCATED, traffic.name), own)
            named.append((REALLOCATED, "re-allocated"))
        for traffic in columns:
            goodput.setdefault((RESIZED, traffic.name), goodput[leaders.unsplit.candidate.name, traffic.name])
        named.append((RESIZED, "resized"))
        names = [it.name for it in columns]
        lines, best = lines_of(named, goodput, names)
        reference = split or leaders.unsplit
        shares = {
            name: prefill_share(reference.candidate, bounds, self.shapes[name])
            for name, bounds in all_bounds.items()
        }
        own_share = split_share(split.candidate) if split is not None else None
        mixed = _mixed_share(leaders.hybrid.candidate) if leaders.hybrid is not None else 0.0
        return Regret(
            workloads=tuple(names),
            lines=lines,
            best=best,
            stranding=stranding(shares, own_share),
            prefill_shares=shares,
            split_share=own_share,
            flexibility=flexibility(shares, given, own_share, lines, mixed),
        )


ROOM = 1.2
"""Longer prompts are a fair shift only if the TTFT target is so far above what they take on an idle engine;
else outputs are made shorter, which moves work to prefill as well."""

WORTH_A_TRY = 1.05
"""Another engine or chunk size is simulated for a shifted workload if closed forms promise so much more."""

REALLOCATED = "the split's hardware, roles chosen anew"
RESIZED = "unsplit, engine and chunk chosen anew"


def _varied(candidates: Sequence[Candidate], keep: int) -> list[Candidate]:
    """The best few, at most two with the same engines."""
    seen: dict[tuple[str, ...], int] = {}
    kept: list[Candidate] = []
    for candidate in candidates:
        engines = tuple(pool.engine.name for pool in candidate.pools)
        if len(kept) < keep and seen.get(engines, 0) < 2:
            seen[engines] = seen.get(engines, 0) + 1
            kept.append(candidate)
    return kept


def _uses_more(split: Candidate, unsplit: Candidate, budget: Budget) -> bool:
    """Whether the split has hardware that the best unsplit fleet has not: other chips, or what is left over
    by engines of its size."""
    spent = [it.amount(budget.unit) or 0.0 for it in (split, unsplit)]
    return len({pool.engine.chip for pool in split.pools}) > 1 or spent[0] > spent[1] * (1 + 1e-9)


def kv_block_tokens(trace_block_tokens: int) -> int:
    """The size of a KV block for prompts whose blocks of so many tokens are named. Raises `SpecError`."""
    sizes = range(min(MOST_BLOCK_TOKENS, trace_block_tokens), 0, -1)
    block = next(size for size in sizes if trace_block_tokens % size == 0)
    if block < min(LEAST_BLOCK_TOKENS, trace_block_tokens):
        raise SpecError(
            f"--workload: its blocks of {trace_block_tokens} tokens can not be cut into KV blocks of "
            f"{LEAST_BLOCK_TOKENS} to {MOST_BLOCK_TOKENS}; "
            "write it anew with `diptych workload convert --to-block-tokens 512 IN OUT`"
        )
    return block


def _distinct(candidates: Sequence[Candidate]) -> list[Candidate]:
    return list({candidate.name: candidate for candidate in candidates}.values())


def _best(finalists: Sequence[Finalist], kind: str) -> Finalist | None:
    """The best single-engine one of a kind; for the unsplit any."""
    found = [it for it in finalists if it.candidate.kind == kind]
    return max(found, key=lambda it: (it.settled, it.rate_rps, it.candidate.estimate.rate_rps), default=None)


def _mixed_share(candidate: Candidate) -> float:
    mixed = sum(pool.workers * pool.engine.chips for pool in candidate.pools if pool.role is Role.MIXED)
    return mixed / candidate.chips
