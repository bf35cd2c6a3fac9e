"""What the machine itself can do: the floors that steps are compared with.

Knows: `rates.cpp`. Does not know: engines, kernels.
"""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
import time
from pathlib import Path

import torch

from diptych.kernels.native.build import PROCESSOR, compiler_name
from diptych.kernels.native.load import NEEDED_FOR_TILES, processor_features

STREAM_BYTES, TILE_PRODUCTS, VECTOR_PRODUCTS = 256 << 20, 40_000_000, 1_600_000_000
"""For each thread: more than its share of any cache; about half a second of multiplying."""


class Machine:
    """What the machine itself can do with so many threads."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._memory = torch.ones(threads * STREAM_BYTES, dtype=torch.uint8)
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "rates.so"
            source = Path(__file__).with_name("rates.cpp")
            flags = ("-std=c++20", "-O3", "-fPIC", "-shared", "-pthread", *PROCESSOR)
            subprocess.run([compiler_name(), *flags, "-o", str(made), str(source)], check=True)
            self._call = ctypes.CDLL(str(made))
        tiles = processor_features().issuperset(NEEDED_FOR_TILES)
        self.unit = "AMX" if tiles else "AVX512-BF16"
        self._rate, self._count = (
            (self._call.tile_rate, TILE_PRODUCTS) if tiles else (self._call.vector_rate, VECTOR_PRODUCTS)
        )
        self._call.stream_rate.restype = self._rate.restype = ctypes.c_double
        self.stream: list[float] = []
        """Bytes a second."""
        self.products: list[float] = []
        """Operations a second of bfloat16 products on ``unit``."""

    def look(self) -> None:
        """One measurement of each."""
        self.stream.append(self.read())
        self.products.append(self.multiply())

    def read(self, size: int = STREAM_BYTES) -> float:
        """Bytes a second, read in order, once: so many for each thread, `STREAM_BYTES` at most."""
        start, threads = ctypes.c_void_p(self._memory.data_ptr()), ctypes.c_int(self._threads)
        return self._call.stream_rate(start, ctypes.c_int64(size), threads)

    def multiply(self) -> float:
        """Operations a second of bfloat16 products on ``unit``, once."""
        return self._rate(ctypes.c_int64(self._count), ctypes.c_int(self._threads))

    def shorten(self, seconds: float) -> None:
        """Multiply about so long a time from now on."""
        began_s = time.monotonic()
        self.multiply()
        self._count = max(1_000, int(self._count * seconds / (time.monotonic() - began_s)))
