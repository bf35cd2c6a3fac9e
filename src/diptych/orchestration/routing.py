"""Where should this request run? Filter, score, pick.

Knows: candidates are pairs (prefill worker, decode worker), and a worker may pair with itself; every
candidate keeps its prediction and its scores, or the reason why it was dropped. Does not know: how a
placement is carried out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from diptych.domain.cluster import LimitsSpec, SloSpec
from diptych.domain.ids import DomainId, WorkerId
from diptych.domain.report import Candidate, Placement
from diptych.domain.worker import WorkerInfo
from diptych.orchestration.filters import DEFAULT_FILTERS, Filter, Obstacle, Scene
from diptych.orchestration.jobs import Job
from diptych.orchestration.ledger import Account, Ledger
from diptych.orchestration.pairs import Hits, Pair, Roles, choose_hits, growth_blocks
from diptych.orchestration.prefix_index import Owners, PrefixIndex
from diptych.orchestration.registry import Registry, Worker
from diptych.orchestration.scorers import DEFAULT_SCORERS, HighestTotal, Picker, Prediction, Scorer
from diptych.performance.estimate import CostModel


@dataclass(frozen=True, slots=True)
class Profile:
    """A routing policy in three nouns."""

    filters: tuple[Filter, ...] = DEFAULT_FILTERS
    scorers: tuple[Scorer, ...] = DEFAULT_SCORERS
    picker: Picker = field(default_factory=HighestTotal)


@dataclass(frozen=True, slots=True)
class Plan:
    """The decision: the pair, and the placement that explains it."""

    pair: Pair
    placement: Placement


@dataclass(frozen=True, slots=True)
class Rejection:
    """A pair and the filter that dropped it."""

    pair: Pair
    obstacle: Obstacle
    reason: str


class Router:
    """Answers `route`; changes nothing."""

    def __init__(
        self,
        registry: Registry,
        ledger: Ledger,
        index: PrefixIndex,
        limits: LimitsSpec,
        cost: CostModel,
        slo: SloSpec,
        profile: Profile = Profile(),
    ) -> None:
        self._registry = registry
        self._ledger = ledger
        self._index = index
        self._limits = limits
        self._cost = cost
        self._slo = slo
        self._profile = profile

    def route(self, job: Job) -> Plan | Obstacle:
        """The best pair for the next attempt of ``job``, or the least obstacle that stands in the way."""
        workers = self._registry.usable()
        scene = Scene(self._limits, Roles.of(workers))
        pairs = self._pairs(job, workers, scene.roles)
        quick = [self._rejection(pair, scene, needs_hits=False) for pair in pairs]
        if all(rejection is not None for rejection in quick):
            return max((it.obstacle for it in quick if it is not None), default=Obstacle.NEVER)
        pairs = self._with_hits(job, pairs)
        rejections = [
            before or self._rejection(pair, scene, needs_hits=True)
            for pair, before in zip(pairs, quick, strict=True)
        ]
        if all(rejection is not None for rejection in rejections):
            return max(it.obstacle for it in rejections if it is not None)
        return self._decide(job, pairs, rejections, scene.roles)

    def _pairs(self, job: Job, workers: Sequence[Worker], roles: Roles) -> list[Pair]:
        """All pairs that the roles allow, and each worker with itself (to say why not)."""
        return [
            Pair(
                prefill=prefill,
                decode=decode,
                prefill_account=self._ledger.account(prefill.worker_id),
                decode_account=self._ledger.account(decode.worker_id),
                tokens=job.tokens,
                growth_blocks=growth_blocks(job, self._limits.output_reserve_tokens, prefill, decode),
            )
            for prefill in workers
            for decode in workers
            if prefill is decode or roles.allow(prefill, decode)
        ]

    def _rejection(self, pair: Pair, scene: Scene, needs_hits: bool) -> Rejection | None:
        for one in self._profile.filters:
            if one.needs_hits is needs_hits and (reason := one.reason(pair, scene)):
                return Rejection(pair, one.obstacle, reason)
        return None

    def _with_hits(self, job: Job, pairs: Sequence[Pair]) -> list[Pair]:
        """The same pairs, each with the cached blocks that it would use."""
        if job.request.sampling.prompt_logprobs is not None:
            return list(pairs)
        accounts = {it.worker_id: self._ledger.account(it.worker_id) for it in self._registry.usable()}
        spare = {
            it.worker_id: accounts[it.worker_id].room_blocks(it.info.arena) for it in self._registry.usable()
        }
        runs: dict[DomainId, list[Owners]] = {}
        hits: dict[WorkerId, Hits] = {}
        for info in (pair.prefill.info for pair in pairs):
            if info.worker_id not in hits:
                if info.domain_id not in runs:
                    runs[info.domain_id] = self._cached_run(job, info)
                hits[info.worker_id] = choose_hits(runs[info.domain_id], info.worker_id, spare, accounts)
        return [self._with_room_to_decode(pair, hits, runs, spare, accounts) for pair in pairs]

    def _cached_run(self, job: Job, info: WorkerInfo) -> list[Owners]:
        """Whole blocks, and never the last token: something must be computed to sample from."""
        most = (job.tokens - 1) // info.block_tokens
        return self._index.leading(info.domain_id, job.hashes(info.block_tokens)[:most])

    @staticmethod
    def _with_room_to_decode(
        pair: Pair,
        hits: Mapping[WorkerId, Hits],
        runs: Mapping[DomainId, Sequence[Owners]],
        spare: Mapping[WorkerId, int],
        accounts: Mapping[WorkerId, Account],
    ) -> Pair:
        """What a decode worker lends must leave it room for the output, or its reservation would be refused
        for want of the very blocks that it lends."""
        info, decode = pair.prefill.info, pair.decode.worker_id
        mine = hits[info.worker_id]
        lent = mine.new_pins.get(decode, 0)
        if pair.split and lent and lent + pair.growth_blocks > spare[decode]:
            less = {**spare, decode: spare[decode] - pair.growth_blocks}
            mine = choose_hits(runs[info.domain_id], info.worker_id, less, accounts)
        return replace(pair, hits=mine) if mine.blocks else pair

    def _decide(
        self, job: Job, pairs: Sequence[Pair], rejections: Sequence[Rejection | None], roles: Roles
    ) -> Plan:
        predictions = [self._predict(job, pair) for pair in pairs]
        fit = [one for one, no in zip(predictions, rejections, strict=True) if no is None]
        candidates: list[Candidate] = []
        totals: list[tuple[Pair, float]] = []
        for one, rejection in zip(predictions, rejections, strict=True):
            scores = {} if rejection else self._scores(one, fit)
            total = sum(scorer.weight * scores[scorer.name] for scorer in self._profile.scorers if scores)
            candidates.append(_candidate(one, scores, total, rejection.reason if rejection else None))
            if rejection is None:
                totals.append((one.pair, total))
        pair = self._profile.picker.pick(totals)
        placement = Placement(
            attempt=job.attempts + 1,
            prefill_worker=pair.prefill.worker_id,
            decode_worker=pair.decode.worker_id,
            reason=_reason(pair, next(total for one, total in totals if one is pair), len(totals), roles),
            candidates=tuple(candidates),
        )
        return Plan(pair, placement)

    def _scores(self, one: Prediction, fit: Sequence[Prediction]) -> dict[str, float]:
        return {scorer.name: scorer.score(one, fit, self._slo) for scorer in self._profile.scorers}

    def _predict(self, job: Job, pair: Pair) -> Prediction:
        """TTFT = queue + uncached prefill + handoff. TPOT = step(B) + (B − 1) · prefill / output, where the
        second part exists only if the decode worker prefills too (latency model, closed-loop TPOT)."""
        prefill, decode = pair.prefill.worker_id, pair.decode.worker_id
        queue_s = self._cost.prefill_s(prefill, pair.prefill_account.prefill_tokens, 0)
        prefill_s = self._cost.prefill_s(prefill, pair.new_tokens, pair.cached_tokens)
        overlap_s = prefill_s if pair.streamed else None
        handoff_s = self._cost.handoff_s(decode, pair.tokens, overlap_s) if pair.split else 0.0
        others = pair.decode_account.decodes
        context_tokens = pair.decode_account.context_tokens + pair.tokens
        step_s = self._cost.decode_step_s(decode, others + 1, context_tokens)
        output_tokens = max(1, min(job.tokens_left, self._limits.output_reserve_tokens))
        stall_s = 0.0 if pair.split else others * prefill_s / output_tokens
        return Prediction(pair, ttft_s=queue_s + prefill_s + handoff_s, tpot_s=step_s + stall_s)


def _candidate(one: Prediction, scores: dict[str, float], total: float, rejected: str | None) -> Candidate:
    return Candidate(
        prefill_worker=one.pair.prefill.worker_id,
        decode_worker=one.pair.decode.worker_id,
        predicted_ttft_s=one.ttft_s,
        predicted_tpot_s=one.tpot_s,
        cached_tokens=one.pair.cached_tokens,
        scores=scores,
        total=total,
        rejected=rejected,
    )


def _reason(pair: Pair, total: float, fit: int, roles: Roles) -> str:
    where = (
        f"{pair.prefill.worker_id} → {pair.decode.worker_id}" if pair.split else f"{pair.decode.worker_id}"
    )
    choice = f"{where}: best of {fit} with {total:.3f}, {pair.cached_tokens} of {pair.tokens} tokens cached"
    return f"{choice}; {roles.relaxed}" if roles.relaxed else choice
