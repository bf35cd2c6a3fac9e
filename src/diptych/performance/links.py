"""Seconds that KV needs from one memory domain to another.

Knows: bytes over bandwidth, messages, layers that leave while later ones are computed, flows that share a
path, and paths that others have measured. Does not know: who sends, requests, models.

Equations: `docs/planning.md` (KV transfer).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

import msgspec

from diptych.domain.errors import SpecError
from diptych.domain.fleet import LinkSpec
from diptych.performance.catalogue import nearest, plain_name
from diptych.performance.figures import Confidence, Figure

SCATTER_FACTOR = 18.0
"""How much longer KV takes that leaves block by block and head by head instead of in one piece: 0.944 s
against 0.053 s, published (FlowKV, arXiv 2504.03775). A measured case, not a law: the ratio depends on the
size of the pieces."""

RESIDUAL_S = 0.005
"""What layer-wise sending cannot hide on H100; 0.008 on A100 (Splitwise, arXiv 2311.18677, 2024)."""

MESSAGE_S = 1e-5
"""One point-to-point message: 10 µs, published (a transaction in shared memory: 3 µs)."""


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """One path between two memory domains. Times are seconds of one transfer that has the path to itself,
    or, with ``flows``, shares it evenly with others."""

    bandwidth_bytes_per_s: float
    """Effective: what a transfer sees, not what the cable could carry."""
    message_s: float = MESSAGE_S
    residual_s: float = RESIDUAL_S

    def __post_init__(self) -> None:
        if self.bandwidth_bytes_per_s <= 0:
            raise SpecError(
                f"a link's bandwidth must be positive, not {self.bandwidth_bytes_per_s:g} bytes/s"
            )

    def share(self, flows: int = 1) -> float:
        """Bytes per second of one of ``flows`` concurrent flows."""
        return self.bandwidth_bytes_per_s / max(1, flows)

    def serial_s(self, size_bytes: float, messages: int = 1, flows: int = 1) -> float:
        """All bytes after the last layer: ``S/bandwidth + α · messages``."""
        if size_bytes <= 0:
            return 0.0
        return size_bytes / self.share(flows) + self.message_s * messages

    def layerwise_s(self, size_bytes: float, layers: int, prefill_s: float, flows: int = 1) -> float:
        """What is left to wait for after prefill when each layer leaves as soon as it is computed:
        ``max(S/(L·bandwidth), S/bandwidth − T_prefill·(L−1)/L) + ε``."""
        if size_bytes <= 0:
            return 0.0
        whole_s = size_bytes / self.share(flows)
        return max(whole_s / layers, whole_s - prefill_s * (layers - 1) / layers) + self.residual_s

    def exposed_s(
        self, size_bytes: float, layers: int, prefill_s: float, *, messages: int = 1, flows: int = 1
    ) -> float:
        """The better of the two: short prompts are better sent in one piece."""
        serial_s = self.serial_s(size_bytes, messages, flows)
        return min(serial_s, self.layerwise_s(size_bytes, layers, prefill_s, flows))

    def scattered_s(self, size_bytes: float, factor: float = SCATTER_FACTOR) -> float:
        """KV that leaves in the pieces in which it lies: ``factor`` times as long as in one piece."""
        return factor * self.serial_s(size_bytes)


def link_of(spec: LinkSpec) -> Link:
    """The path that a spec describes."""
    return Link(
        bandwidth_bytes_per_s=spec.bandwidth_bytes_per_s,
        message_s=spec.latency_s,
        residual_s=spec.residual_s,
    )


def hiding_bandwidth(size_bytes: float, prefill_s: float) -> float:
    """Bytes per second from which on layer-wise sending hides behind prefill: ``S/T_prefill``."""
    return size_bytes / prefill_s if prefill_s > 0 else inf


def reuse_bandwidth(prefix_bytes: float, prefix_prefill_s: float) -> float:
    """Break-even of fetching a prefix against computing it again: above this many bytes per second fetching
    is faster (``S_prefix/bandwidth < T_prefill(prefix)``)."""
    return hiding_bandwidth(prefix_bytes, prefix_prefill_s)


def reuse_saves_s(link: Link, prefix_bytes: float, prefix_prefill_s: float, messages: int = 1) -> float:
    """Seconds saved by fetching a prefix over ``link`` in place of computing it; negative: compute it."""
    return prefix_prefill_s - link.serial_s(prefix_bytes, messages)


def egress_bytes_per_s(kv_bytes: float, prompts: int, prefill_s: float, chips: int) -> float:
    """KV that leaves each prefill chip per second when batches of ``prompts`` prompts of ``kv_bytes`` each
    follow one another every ``prefill_s`` seconds."""
    return kv_bytes * prompts / (prefill_s * chips)


# ---------------------------------------------------------------- known paths


class Path(msgspec.Struct, frozen=True, kw_only=True):
    """A path that somebody measured or a vendor specifies."""

    name: str
    bandwidth: Figure
    message_s: float = MESSAGE_S

    @property
    def link(self) -> Link:
        """As a link."""
        return Link(bandwidth_bytes_per_s=self.bandwidth.base, message_s=self.message_s)


_MOONCAKE = "Mooncake, transfer engine (published, 2024)"
_SPECIFIED = "line rate, one direction; effective bandwidth not measured"


def _path(name: str, gb_per_s: float, source: str, confidence: Confidence, note: str = "") -> Path:
    figure = Figure(
        value=gb_per_s, unit="GB/s", source=source, date="2026-11", confidence=confidence, note=note
    )
    return Path(name=name, bandwidth=figure)


PATHS: Mapping[str, Path] = {
    path.name: path
    for path in (
        _path("rdma-8x400g", 190, _MOONCAKE, Confidence.HIGH, "of 400 GB/s line rate"),
        _path("rdma-4x200g", 87, _MOONCAKE, Confidence.HIGH, "of 100 GB/s line rate"),
        _path("tcp-8x400g", 190 / 4.6, _MOONCAKE, Confidence.MEDIUM, "RDMA is 4.6 times faster"),
        _path("tcp-4x200g", 87 / 2.4, _MOONCAKE, Confidence.MEDIUM, "RDMA is 2.4 times faster"),
        _path(
            "rdma-400g",
            43.5,
            "line rate of 50 GB/s times 0.87, the share that rdma-4x200g reaches",
            Confidence.LOW,
            "an estimate; eight such NICs together reach 0.475 of their line rate",
        ),
        _path("ethernet-100g", 12.5, _SPECIFIED, Confidence.LOW),
        _path("ethernet-25g", 3.125, _SPECIFIED, Confidence.LOW, "DistServe's testbed between nodes"),
        _path("nvlink-4", 450, _SPECIFIED, Confidence.MEDIUM, "H100, H200: 18 links of 25 GB/s"),
        _path("nvlink-5", 900, _SPECIFIED, Confidence.MEDIUM, "B200, GB200: 18 links of 50 GB/s"),
        _path("nvlink-3", 300, _SPECIFIED, Confidence.MEDIUM, "A100: 12 links of 25 GB/s"),
        _path("pcie-4", 32, _SPECIFIED, Confidence.LOW, "16 lanes"),
        _path("pcie-5", 64, _SPECIFIED, Confidence.LOW, "16 lanes"),
        _path(
            "pcie-5-tensor-parallel",
            16,
            "fit to the published Qwen3-32B TP2 run on two RTX PRO 6000",
            Confidence.MEDIUM,
            "all-reduce through the host, not a copy",
        ),
    )
}
"""Paths by name. Where only the line rate is known a transfer will see less: measure (`diptych
calibrate`)."""


def known_path(name: str) -> Path:
    """The path called ``name``; SpecError names the nearest."""
    for path in PATHS.values():
        if plain_name(path.name) == plain_name(name):
            return path
    raise SpecError(f"unknown link {name!r}; {nearest(name, {path: path for path in PATHS})}")
