"""The path of KV between the pools of a split.

Knows: what a user may call a link, what the ports of two engines allow. Does not know: candidates.
"""

from __future__ import annotations

import re
from math import inf

from diptych.domain.errors import SpecError
from diptych.domain.fleet import LinkSpec
from diptych.performance.links import PATHS, known_path
from diptych.planning.search.engine import Engine

LINE_RATE_SHARE = 0.87
"""Effective over line rate: 87 GB/s on 4 × 200 Gb/s (Mooncake's transfer engine, arXiv 2407.00079, 2024)."""

PORT_LOAD = 0.8
"""Load up to which a port is planned: beyond, waiting for it grows steeply (latency model §9)."""

_RATE = re.compile(r"^\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(G|Gb/s|Gbit/s|Gbps|GB/s)\s*$", re.IGNORECASE)


def parse_link(text: str) -> float:
    """Effective bytes per second between a prefill and a decode engine: ``400G`` (line rate in Gbit/s),
    ``43GB/s`` (effective) or the name of a known path. Raises `SpecError`."""
    found = _RATE.match(text)
    if found is None:
        names = ", ".join(PATHS)
        try:
            return known_path(text).link.bandwidth_bytes_per_s
        except SpecError:
            raise SpecError(
                f"--link {text}: neither a line rate such as 400G, an effective rate such as 43GB/s, nor a "
                f"known path ({names})"
            ) from None
    value = float(found[1])
    if value <= 0:
        raise SpecError(f"--link {text}: a bandwidth is positive, such as 400G")
    return value * 1e9 if found[2].endswith("B/s") else value * 1e9 / 8 * LINE_RATE_SHARE


def link_between(prefill: Engine, decode: Engine, given_bytes_per_s: float | None) -> LinkSpec | None:
    """The path that one pair of engines has, layer by layer; None: no port is known and none was given."""
    ports = [
        engine.port_bytes_per_s * LINE_RATE_SHARE
        for engine in (prefill, decode)
        if engine.port_bytes_per_s is not None
    ]
    if given_bytes_per_s is not None:
        bandwidth = given_bytes_per_s
    elif len(ports) == 2:
        bandwidth = min(ports)
    else:
        return None
    return LinkSpec(bandwidth_bytes_per_s=bandwidth, layerwise=True, shared=False)


def link_rate(
    link: LinkSpec | None, prefill_workers: int, decode_workers: int, bytes_per_request: float
) -> float:
    """Requests per second that the ports of the smaller side can pass on."""
    if link is None or bytes_per_request <= 0:
        return inf
    ports = min(prefill_workers, decode_workers)
    return PORT_LOAD * ports * link.bandwidth_bytes_per_s / bytes_per_request


def exposed_s(link: LinkSpec | None, layers: int, size_bytes: float, prefill_s: float) -> float:
    """What is left of a transfer after its prefill, layer by layer (latency model §6)."""
    if link is None or size_bytes <= 0:
        return 0.0
    whole_s = size_bytes / link.bandwidth_bytes_per_s
    hidden_s = prefill_s * (layers - 1) / layers
    return max(whole_s / layers, whole_s - hidden_s) + link.residual_s + link.latency_s
