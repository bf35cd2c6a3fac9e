"""Rules of T10: prefill nodes with prefix caches of their own, and four ways to choose among them.

Knows: queues of seconds, caches by least recent use. Does not know: decode, diptych's placement.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, NamedTuple

from diptych.workload.record import Arrival

Policy = Literal["random", "load-balance", "local", "global"]

CACHE_TOKENS = 3_000_000
COPY_BYTES_PER_TOKEN = 320_000
COPY_BYTES_PER_S = 87e9
"""RDMA on 4 × 200 Gb/s (Mooncake, FAST 2025)."""
WORTH_COPYING = 1.2
"""A prefix is copied if the best holder has this much more than the node, and more than a block."""


class Outcome(NamedTuple):
    """Over all requests."""

    mean_ttft_s: float
    hit_share: float


@dataclass(slots=True)
class _Offer:
    """What a node would do with the request."""

    ends_in_s: float
    cached: int
    busy_s: float


def prefill_s(tokens: int, cached: int) -> float:
    """Seconds of a prompt behind a cached prefix; the last token is always computed."""
    cached = min(cached, tokens - 1)
    return 0.05 + 1.3e-4 * (tokens - cached) + 7.5e-10 * (tokens**2 - cached**2)


def serve(
    arrivals: Iterable[Arrival], nodes: int, policy: Policy, block_tokens: int, seed: int = 1
) -> Outcome:
    """First come first served on each node; caches are updated when a request is dispatched."""
    draw = Random(seed)
    fleet = [_Node(CACHE_TOKENS // block_tokens, block_tokens) for _ in range(nodes)]
    waited_s = 0.0
    hits = tokens = requests = 0
    for arrival in arrivals:
        offers = _offers(fleet, arrival, policy, block_tokens)
        if policy == "random":
            chosen = draw.randrange(nodes)
        elif policy == "load-balance":
            chosen = min(range(nodes), key=lambda i: fleet[i].queue_s(arrival.t_s))
        else:
            chosen = min(range(nodes), key=lambda i: offers[i].ends_in_s)
        offer = offers[chosen]
        waited_s += offer.ends_in_s
        fleet[chosen].take(arrival, offer.busy_s)
        requests += 1
        hits += min(offer.cached, arrival.input_tokens - 1)
        tokens += arrival.input_tokens
    return Outcome(waited_s / requests, hits / tokens)


def _offers(fleet: Sequence[_Node], arrival: Arrival, policy: Policy, block_tokens: int) -> list[_Offer]:
    found = [node.prefix(arrival) for node in fleet]
    most = max(found)
    offers: list[_Offer] = []
    for node, cached in zip(fleet, found, strict=True):
        queue_s = node.queue_s(arrival.t_s)
        busy_s = prefill_s(arrival.input_tokens, cached)
        if policy == "global" and most > cached + block_tokens and most > WORTH_COPYING * cached:
            copy_s = (most - cached) * COPY_BYTES_PER_TOKEN / COPY_BYTES_PER_S
            copied_s = copy_s + prefill_s(arrival.input_tokens, most)
            if copied_s < busy_s:
                busy_s, cached = copied_s, most
        offers.append(_Offer(queue_s + busy_s, cached, busy_s))
    return offers


class _Node:
    def __init__(self, blocks: int, block_tokens: int) -> None:
        self._room = blocks
        self._block_tokens = block_tokens
        self._held: OrderedDict[int, None] = OrderedDict()
        self._free_s = 0.0

    def queue_s(self, now_s: float) -> float:
        return max(0.0, self._free_s - now_s)

    def prefix(self, arrival: Arrival) -> int:
        """Tokens of the prompt that are here."""
        held = self._held
        for place, block in enumerate(arrival.hash_ids):
            if block not in held:
                return min(place * self._block_tokens, arrival.input_tokens)
        return arrival.input_tokens

    def take(self, arrival: Arrival, busy_s: float) -> None:
        self._free_s = max(self._free_s, arrival.t_s) + busy_s
        held = self._held
        for block in arrival.hash_ids:
            if block in held:
                held.move_to_end(block)
            else:
                held[block] = None
                if len(held) > self._room:
                    held.popitem(last=False)
