"""Links: the equations by hand, their limits, and published pairs of figures."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.domain.errors import SpecError
from diptych.domain.fleet import LinkSpec
from diptych.performance.links import (
    PATHS,
    Link,
    egress_bytes_per_s,
    hiding_bandwidth,
    known_path,
    link_of,
    reuse_bandwidth,
    reuse_saves_s,
)
from diptych.planning.library import load_model

GB = 1e9
LINK = Link(bandwidth_bytes_per_s=10 * GB, message_s=1e-5, residual_s=0.005)

sizes = st.floats(1, 1e12)
seconds = st.floats(0, 100)
links = st.floats(1e6, 1e12).map(lambda rate: Link(bandwidth_bytes_per_s=rate))


def test_serial_by_hand() -> None:
    """2 GB over 10 GB/s in 80 messages of 10 µs; two flows get half each."""
    assert LINK.serial_s(2 * GB, messages=80) == pytest.approx(0.2 + 0.0008)
    assert LINK.serial_s(2 * GB, messages=80, flows=2) == pytest.approx(0.4 + 0.0008)
    assert LINK.serial_s(0) == 0.0


def test_layerwise_by_hand() -> None:
    """80 layers of a 2 GB transfer (200 ms): hidden behind 400 ms, partly behind 100 ms."""
    assert LINK.layerwise_s(2 * GB, 80, 0.4) == pytest.approx(0.2 / 80 + 0.005)
    assert LINK.layerwise_s(2 * GB, 80, 0.1) == pytest.approx(0.2 - 0.1 * 79 / 80 + 0.005)
    assert LINK.layerwise_s(2 * GB, 80, 0.4, flows=4) == pytest.approx(0.8 - 0.4 * 79 / 80 + 0.005)


def test_short_prompts_are_better_sent_whole() -> None:
    """30 MB take 3 ms whole; layer by layer the rest that cannot be hidden alone takes 5 ms."""
    assert LINK.exposed_s(0.03 * GB, 80, 0.05) == LINK.serial_s(0.03 * GB)
    assert LINK.exposed_s(2 * GB, 80, 0.4) == LINK.layerwise_s(2 * GB, 80, 0.4)


def test_scattered_kv_costs_what_was_published() -> None:
    """0.053 s in one piece, 0.944 s in the pieces in which it lay."""
    assert LINK.scattered_s(0.53 * GB) == pytest.approx(0.944, rel=0.02)


def test_break_even_of_reuse() -> None:
    """An 8 K prefix of a 70 B model (2.68 GB): 0.45 s of prefill break even at 6 GB/s."""
    prefix = load_model("llama-3.1-70b").kv_bytes(8192, "bf16")
    assert reuse_bandwidth(prefix, 0.45) / GB == pytest.approx(5.96, abs=0.02)
    assert reuse_saves_s(LINK, prefix, 0.45) == pytest.approx(0.45 - prefix / (10 * GB) - 1e-5)
    assert hiding_bandwidth(prefix, 0.0) == float("inf")


def test_egress_of_a_prefill_chip() -> None:
    """Llama-3.1-70B in fp8: 16,384 tokens are 2.7 GB; two of them each 3 s on 4 chips leave 0.45 GB/s."""
    kv = load_model("llama-3.1-70b").kv_bytes(16_384, "fp8")
    assert egress_bytes_per_s(kv, 2, 3.0, 4) / GB == pytest.approx(0.447, abs=0.001)


@given(links, sizes, st.integers(1, 128), seconds)
def test_what_is_exposed_is_never_less_than_the_last_layer(
    link: Link, size: float, layers: int, prefill_s: float
) -> None:
    exposed = link.layerwise_s(size, layers, prefill_s)
    assert exposed >= size / link.bandwidth_bytes_per_s / layers
    assert exposed <= link.serial_s(size, 0) + link.residual_s + 1e-9
    assert link.exposed_s(size, layers, prefill_s) <= link.serial_s(size)


@given(links, sizes, st.integers(1, 128), seconds, st.integers(1, 64))
def test_more_flows_never_help(link: Link, size: float, layers: int, prefill_s: float, flows: int) -> None:
    assert link.exposed_s(size, layers, prefill_s, flows=flows + 1) >= link.exposed_s(
        size, layers, prefill_s, flows=flows
    )


def test_known_paths() -> None:
    assert known_path("RDMA 8x400G").bandwidth.base == 190 * GB
    ratio = known_path("rdma-8x400g").bandwidth.base / known_path("tcp-8x400g").bandwidth.base
    assert ratio == pytest.approx(4.6)
    assert known_path("nvlink-4").link.bandwidth_bytes_per_s == 450 * GB
    with pytest.raises(SpecError, match=r"unknown link 'nvlink-7'; did you mean nvlink-"):
        known_path("nvlink-7")
    assert all(path.bandwidth.source and path.bandwidth.confidence for path in PATHS.values())


def test_a_link_of_a_spec() -> None:
    link = link_of(LinkSpec(bandwidth_bytes_per_s=5 * GB, latency_s=2e-5, residual_s=0.008))
    assert link == Link(bandwidth_bytes_per_s=5 * GB, message_s=2e-5, residual_s=0.008)
    with pytest.raises(SpecError, match="bandwidth must be positive"):
        Link(bandwidth_bytes_per_s=0)
