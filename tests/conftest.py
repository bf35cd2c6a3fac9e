"""What every test shares: support code on the path, fixed seeds, no network.

Knows: pytest and hypothesis. Does not know: any package of diptych.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

TESTS = Path(__file__).resolve().parent
REPOSITORY = TESTS.parent

for folder in (TESTS, REPOSITORY):  # `support.x` beside the tests; `training` and `benchmarks` in the root
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

# Before torch or a hub client is imported: worker processes of the tests inherit these.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# The same examples in every run: a red build can be repeated. DIPTYCH_HYPOTHESIS=explore looks for new ones.
settings.register_profile(
    "repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("explore", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("DIPTYCH_HYPOTHESIS", "repeatable"))


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    """Tests that draw from the global generator draw the same every time."""
    random.seed(0)
