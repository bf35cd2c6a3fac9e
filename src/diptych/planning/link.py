"""The path on which KV goes from one memory domain to another, over time.

Knows: bandwidth, who waits for whom, what layer-wise sending hides. Does not know: blocks, workers' insides.
"""

from __future__ import annotations

from diptych.domain.fleet import LinkSpec
from diptych.domain.ids import WorkerId


class VirtualLink:
    """First come, first served: a transfer begins when those before it on its path are through, so that ``n``
    concurrent flows share the bandwidth.

    Layer-wise, layers leave while later ones are being computed (latency model, KV transfer): the transfer
    may
    begin one layer after the prefill did, and ends no sooner than the last layer needs after the prefill's
    end,
    plus what cannot be hidden.
    """

    def __init__(self, spec: LinkSpec, layers: int) -> None:
        self._spec = spec
        self._layers = max(1, layers)
        self._free_s: dict[tuple[WorkerId, WorkerId] | None, float] = {}
        self.slow = 1.0
        self.busy_s = 0.0

    def arrives_s(
        self, path: tuple[WorkerId, WorkerId], payload_bytes: float, prefill_s: float, now_s: float
    ) -> float:
        """When ``payload_bytes`` are there if their prefill, which took ``prefill_s``, ends ``now_s``."""
        spec = self._spec
        lane = None if spec.shared else path
        wire_s = payload_bytes * self.slow / spec.bandwidth_bytes_per_s
        free_s = self._free_s.get(lane, 0.0)
        self.busy_s += wire_s
        if not spec.layerwise:
            end_s = max(now_s, free_s) + wire_s
            self._free_s[lane] = end_s
            return end_s + spec.latency_s
        first_s = now_s - prefill_s * (self._layers - 1) / self._layers
        end_s = max(now_s + wire_s / self._layers, max(first_s, free_s) + wire_s)
        self._free_s[lane] = end_s
        return end_s + spec.residual_s + spec.latency_s
