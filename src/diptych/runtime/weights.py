"""Memory files for the weights of the workers of this host: one for each engine that is built alike.

Knows: which engines have weights. Does not know: what is in a file; the first worker fills it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from diptych.adapters.build import EngineSpec, NativeEngine
from diptych.transfer.sealed import create_unsealed


class WeightsFiles:
    """Empty at first. Workers inherit them; the bytes go with the last process that has them."""

    def __init__(self, engines: Mapping[str, EngineSpec]) -> None:
        """``engines`` by pool."""
        native = {pool: engine for pool, engine in engines.items() if isinstance(engine, NativeEngine)}
        self._fds = {engine: create_unsealed("diptych-weights") for engine in set(native.values())}
        self.by_pool: dict[str, int] = {pool: self._fds[engine] for pool, engine in native.items()}
        """Descriptors, of pools whose engines have weights."""

    def close(self) -> None:
        """Let go of the files. A second call does nothing."""
        while self._fds:
            os.close(self._fds.popitem()[1])
