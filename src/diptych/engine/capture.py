"""Work on a device that is recorded once and played again over the same memory.

Knows: how torch captures CUDA graphs. Does not know: what is captured.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

WARM_UP_RUNS = 2
"""Libraries choose their routines and allocate in their first runs, which a capture must not see."""


class Graph(Protocol):
    """Recorded work."""

    def replay(self) -> Tensor:
        """Run it over what its inputs hold now. The result is valid until the next replay."""
        ...


class Capture(Protocol):
    """Records work that reads and writes the same memory in every run."""

    def capture(self, run: Callable[[], Tensor]) -> Graph:
        """``run``, recorded; it runs a few times meanwhile."""
        ...


class CudaCapture:
    """Implements `Capture`. All its graphs share one pool of memory: they never run at the same time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def capture(self, run: Callable[[], Tensor]) -> CudaGraph:
        """See `Capture.capture`. Warms up on a stream of its own, as torch's notes on CUDA graphs ask."""
        here, aside = torch.cuda.current_stream(self._device), torch.cuda.Stream(self._device)
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP_RUNS):
                run()
        here.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            result = run()
        return CudaGraph(graph, result)


class CudaGraph:
    """Implements `Graph`."""

    def __init__(self, graph: torch.cuda.CUDAGraph, result: Tensor) -> None:
        self._graph = graph
        self._result = result

    def replay(self) -> Tensor:
        """See `Graph.replay`."""
        self._graph.replay()
        return self._result
