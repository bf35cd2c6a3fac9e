"""A placement pair by pair: every candidate with its prediction and its scores, or why it was none.

Knows: how candidates follow from what a placement saw of each worker. Does not know: workers as they are now.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from diptych.domain.ids import WorkerId
from diptych.domain.report import (
    AloneView,
    Candidate,
    Considered,
    DecodeView,
    Obstruction,
    Placement,
    PrefillView,
    SplitView,
)
from diptych.orchestration.reasons import Why, first, words
from diptych.orchestration.scorers import closeness, total


def candidates(placement: Placement) -> tuple[Candidate, ...]:
    """All pairs that were considered, by name."""
    return tuple(sorted(_all(placement.considered), key=lambda it: (it.prefill_worker, it.decode_worker)))


def _all(seen: Considered) -> Iterator[Candidate]:
    for worker_id, role in seen.strangers:
        yield Candidate(
            prefill_worker=worker_id, decode_worker=worker_id, rejected=words(Obstruction(Why.ROLE), role)
        )
    for prefill, decode, obstruction in seen.apart:
        yield Candidate(prefill_worker=prefill, decode_worker=decode, rejected=words(obstruction, decode))
    for view in seen.alone:
        yield _alone(seen, view)
    for split in seen.splits:
        yield from _split(seen, split)


def _alone(seen: Considered, view: AloneView) -> Candidate:
    if view.obstruction is not None:
        return _rejected(view.worker_id, view.worker_id, view.cached_tokens, view.obstruction)
    prefill = PrefillView(view.worker_id, None, view.cached_tokens, view.own_share, view.ttft_s)
    decode = DecodeView(view.worker_id, None, view.tpot_s, view.room, (0.0,))
    return _pair(seen, prefill, decode)


def _split(seen: Considered, split: SplitView) -> Iterator[Candidate]:
    instead = {(view.worker_id, decode): view for decode, view in split.instead}
    for usual in split.prefill:
        for decode in split.decode:
            yield _pair(seen, instead.get((usual.worker_id, decode.worker_id), usual), decode)


def _pair(seen: Considered, prefill: PrefillView, decode: DecodeView) -> Candidate:
    obstruction = first(prefill.obstruction, decode.obstruction)
    if obstruction is not None:
        return _rejected(prefill.worker_id, decode.worker_id, prefill.cached_tokens, obstruction)
    ttft_s = prefill.ready_s + decode.handoffs_s[prefill.handoff]
    scores = {
        "ttft": closeness(ttft_s, seen.wanted_ttft_s),
        "tpot": closeness(decode.tpot_s, seen.wanted_tpot_s),
        "room": decode.room,
        "local": prefill.own_share,
    }
    return Candidate(
        prefill_worker=prefill.worker_id,
        decode_worker=decode.worker_id,
        predicted_ttft_s=ttft_s,
        predicted_tpot_s=decode.tpot_s,
        cached_tokens=prefill.cached_tokens,
        scores=scores,
        total=total(**scores),
    )


def _rejected(
    prefill: WorkerId, decode: WorkerId, cached_tokens: int | None, obstruction: Obstruction
) -> Candidate:
    return Candidate(
        prefill_worker=prefill,
        decode_worker=decode,
        cached_tokens=cached_tokens,
        rejected=words(obstruction, decode),
    )


def told(placements: Sequence[Placement]) -> list[dict[str, Any]]:
    """Placements as plain values, with their candidates in place of what these follow from."""
    return [
        {
            "attempt": it.attempt,
            "prefill_worker": it.prefill_worker,
            "decode_worker": it.decode_worker,
            "reason": it.reason,
            "candidates": msgspec.to_builtins(candidates(it)),
        }
        for it in placements
    ]
