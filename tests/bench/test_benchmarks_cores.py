"""The benchmark of cores says how often, and for how long, they were not cores of their own."""

from __future__ import annotations

import pytest
from benchmarks.cores import Look, summary


def looks(shares: list[float]) -> list[Look]:
    return [Look(0.1 * i, 200.0, 200.0 * share) for i, share in enumerate(shares)]


def test_cores_of_their_own_are_never_shared() -> None:
    found = summary(looks([1.0, 0.97, 0.9, 1.02]), 2)
    assert (found["shared"], found["longest_shared_s"]) == (0, 0)
    assert found["share_p50"] == pytest.approx(0.985)


def test_the_longest_stretch_of_shared_cores_counts() -> None:
    found = summary(looks([1.0, 0.5, 0.5, 0.5, 1.0, 0.6, 1.0, 1.0]), 2)
    assert found["shared"] == 0.5
    assert found["longest_shared_s"] == pytest.approx(0.3)
    assert found["shares"][1] == 0.5


def test_one_look_is_enough() -> None:
    found = summary(looks([0.5]), 2)
    assert found["shared"] == 1
