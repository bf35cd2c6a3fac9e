"""T4 on diptych's control plane: the best candidates by the rules, with limits on a request's worst gap.

Knows: the specs; how worst gaps are put together from the ends of steps. Does not know: the reference rules.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from re import fullmatch

from diptych.domain.cluster import ClusterSpec
from diptych.domain.worker import Role
from diptych.performance.steps import Chunks, FittedSteps, Line, StepModel
from diptych.planning.acceptance.plane import instant_link, pool, spec, with_slo
from diptych.planning.acceptance.regimes import EXPECTED
from diptych.planning.acceptance.row import By, Row, Sheet
from diptych.planning.acceptance.rules.engine_fit import EngineFit, read_fit
from diptych.planning.acceptance.rules.goodput import WANTED, highest
from diptych.planning.acceptance.rules.requests import Asked, as_workload, distserve_requests
from diptych.planning.result import RequestRecord
from diptych.planning.simulate import Simulation

RESOLUTION = 0.03
"""req/s per chip; one seed. Runs go step by step, which costs more than leaping."""
SEED = 1
NOTE = (
    "only the candidate that is best by the rules, one seed, to 0.03 req/s: decode KV is reserved "
    "before prefill, and placement weighs the worst-gap limit as a target for the mean"
)


def rows_for(data: Path, index: int) -> list[Row]:
    """One line of the table."""
    sheet = Sheet("T4", By.PLANE)
    ttft_s, gap_s, unsplit, unsplit_name, apart, apart_name = EXPECTED[index]
    got = _goodput(data, unsplit_name, unsplit, ttft_s, gap_s)
    got_apart = _goodput(data, apart_name, apart, ttft_s, gap_s)
    limits = f"{ttft_s}/{gap_s} s"
    ratio = got_apart / max(got, 1e-9)
    tight = ttft_s <= 0.2 and gap_s <= 0.05
    bound = (
        sheet.at_least(f"{limits}: split over unsplit, both tight", 2.5, ratio)
        if tight
        else sheet.at_most(f"{limits}: split over unsplit, one loose", 1.15, ratio)
    )
    return [
        sheet.near(f"{limits}: {unsplit_name}, req/s/GPU", unsplit, got, relative=0.10, note=NOTE),
        sheet.near(f"{limits}: {apart_name}, req/s/GPU", apart, got_apart, relative=0.10, note=NOTE),
        bound,
    ]


class Clocked(StepModel):
    """One worker's `StepModel` that notes when steps with decodes end."""

    def __init__(self, model: StepModel, clock: Callable[[], float]) -> None:
        self.rounds_s: list[float] = []
        self._model = model
        self._clock = clock

    @property
    def kv_tokens(self) -> int:
        """See `StepModel`."""
        return self._model.kv_tokens

    def step_s(self, chunks: Chunks, decodes: int, context_tokens: int) -> float:
        """See `StepModel`."""
        seconds = self._model.step_s(chunks, decodes, context_tokens)
        if decodes:
            self.rounds_s.append(self._clock() + seconds)
        return seconds

    def decode_lines(self, decodes: int) -> tuple[Line, ...]:
        """See `StepModel`."""
        return self._model.decode_lines(decodes)

    def worst_gap_s(self, first_s: float, last_s: float, tokens: int) -> float:
        """Of a sequence that had its first token elsewhere or in another step, and then one in each of the
        rounds up to its last."""
        end = bisect_right(self.rounds_s, last_s + 1e-9)
        times_s = [first_s, *self.rounds_s[max(end - tokens + 1, 0) : end]]
        return max((later - sooner for sooner, later in pairwise(times_s)), default=0.0)


def attained(
    cluster: ClusterSpec, models: dict[str, StepModel], asked: Sequence[Asked], ttft_s: float, gap_s: float
) -> float:
    """Share of requests within both limits."""
    run = Simulation(
        cluster, as_workload("T4", lambda: asked), step_models=models, keep_requests=True, leaping=False
    )
    clocked: dict[str, Clocked] = {}
    for member in run.fleet.members:
        worker = run.driver.worker(member.info.worker_id)
        assert worker is not None, f"{member.info.worker_id} has not joined"
        steps = clocked[member.info.worker_id] = Clocked(member.model, lambda: run.driver.now_s)
        worker.use(steps)
    met = sum(_meets(record, clocked, ttft_s, gap_s) for record in run.run().records)
    return met / len(asked)


def _meets(record: RequestRecord, clocked: dict[str, Clocked], ttft_s: float, gap_s: float) -> bool:
    first_s, last_s, worker = record.first_token_s, record.last_token_s, record.decode_worker
    if first_s is None or last_s is None or worker is None or first_s - record.arrival_s > ttft_s:
        return False
    return clocked[worker].worst_gap_s(first_s, last_s, record.output_tokens) <= gap_s


def _goodput(data: Path, name: str, expected: float, ttft_s: float, gap_s: float) -> float:
    cluster, models, chips = _candidate(data, name)
    cluster = with_slo(cluster, ttft_s, gap_s)

    def share(rate: float) -> float:
        return attained(cluster, models, distserve_requests(rate * chips, SEED), ttft_s, gap_s)

    return highest(lambda rate: share(rate) >= WANTED, 1.4 * expected + 0.2, RESOLUTION)


def _candidate(data: Path, name: str) -> tuple[ClusterSpec, dict[str, StepModel], int]:
    """(cluster, step models by pool, chips) of ``TP2 chunk 512`` or ``2P1+1D2``."""
    fit = partial(read_fit, data, "distserve")
    if one := fullmatch(r"TP(\d) chunk (\d+)", name):
        tp, chunk = (int(part) for part in one.groups())
        return spec(pool("mixed", Role.MIXED, budget=chunk)), {"mixed": _steps(fit(tp))}, tp
    two = fullmatch(r"(\d)P(\d)\+(\d)D(\d)", name)
    assert two is not None, name
    prefills, p_tp, decodes, d_tp = (int(part) for part in two.groups())
    cluster = spec(
        pool("prefill", Role.PREFILL, prefills, chunked=False),
        pool("decode", Role.DECODE, decodes),
    ).model_copy(update={"link": instant_link()})
    models: dict[str, StepModel] = {"prefill": _steps(fit(p_tp)), "decode": _steps(fit(d_tp))}
    return cluster, models, prefills * p_tp + decodes * d_tp


def _steps(fit: EngineFit) -> StepModel:
    return FittedSteps(fit.profile())
