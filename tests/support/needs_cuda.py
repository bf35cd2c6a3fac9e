"""The mark of tests that run on a real CUDA device and are skipped, with the reason, where there is none."""

from __future__ import annotations

import pytest

from diptych.kernels.cuda_device import why_no_cuda

NEEDS_CUDA = pytest.mark.skipif(bool(why_no_cuda()), reason=f"needs a CUDA device: {why_no_cuda()}")

DEVICES = ["cpu", pytest.param("cuda", marks=NEEDS_CUDA)]
"""For tests that ask the same of both."""
