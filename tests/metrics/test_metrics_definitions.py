"""The table of metrics keeps the rules that its docstring states, and Prometheus shows all of it."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from diptych.domain.ids import WorkerId
from diptych.domain.worker import Role, WorkerStats
from diptych.metrics import definitions as d
from diptych.metrics.definitions import METRICS, Kind, Metric, Origin
from diptych.metrics.prometheus import PrometheusExport
from diptych.metrics.snapshot import ClusterSnapshot, WorkerSnapshot

UNIT_SUFFIX = {"seconds": "_seconds", "bytes": "_bytes", "ratio": "_ratio", "tokens": "_tokens"}
UNITS_SAID_BY_THE_NOUN = {d.PREFIX_QUERIES.name, d.PREFIX_HITS.name}

SNAPSHOT = ClusterSnapshot(
    workers=(
        WorkerSnapshot(
            worker_id=WorkerId("prefill-0"),
            pool="prefill",
            role=Role.PREFILL,
            incarnation=3,
            up=True,
            restarts=2,
            arena_blocks=10,
            block_tokens=16,
            start_s={"process": 0.5, "weights": 2.0},
            stats=WorkerStats(held_blocks=4, cached_blocks=5, free_blocks=1, waiting=7),
        ),
        WorkerSnapshot(
            worker_id=WorkerId("decode-0"), pool="decode", role=Role.DECODE, incarnation=1, up=False
        ),
    ),
    waiting_requests=6,
    running_requests=5,
    bounces_total=9,
)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_names_follow_the_rules(metric: Metric) -> None:
    assert metric.name.startswith("diptych_") and ":" not in metric.name
    assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER)
    assert bool(metric.buckets) == (metric.kind is Kind.HISTOGRAM)
    assert list(metric.buckets) == sorted(set(metric.buckets))
    assert metric.help and metric.formula
    stem = metric.name.removesuffix("_total")
    if metric.name not in UNITS_SAID_BY_THE_NOUN and metric.unit in UNIT_SUFFIX:
        assert stem.endswith(UNIT_SUFFIX[metric.unit])


def test_names_are_unique_and_all_are_in_the_table() -> None:
    declared = [value for value in vars(d).values() if isinstance(value, Metric)]
    assert sorted(metric.name for metric in declared) == sorted({metric.name for metric in METRICS})


def families(export: PrometheusExport) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(export.render().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def test_a_snapshot_becomes_samples() -> None:
    found = families(PrometheusExport(lambda: SNAPSHOT))
    prefill = (("role", "prefill"), ("worker", "prefill-0"))
    assert found["diptych_requests_waiting"] == {(): 6.0}
    assert found["diptych_preemptions_total"] == {(): 9.0}
    assert found["diptych_worker_up"] == {prefill: 1.0, (("role", "decode"), ("worker", "decode-0")): 0.0}
    assert found["diptych_worker_restarts_total"][prefill] == 2.0
    assert found["diptych_kv_blocks_used_ratio"][prefill] == 0.4
    blocks = found["diptych_kv_blocks"]
    states = {dict(labels)["state"]: value for labels, value in blocks.items() if prefill[1] in labels}
    assert states == {"held": 4.0, "cached": 5.0, "free": 1.0, "reserved": 0.0}


def test_every_metric_of_the_table_is_exported() -> None:
    export = PrometheusExport(lambda: SNAPSHOT)
    for metric in METRICS:
        if metric.origin is Origin.REQUEST and metric.kind is Kind.COUNTER:
            export.count(metric, 2.0, *("x" for _ in metric.labels))
        elif metric.origin is Origin.REQUEST:
            export.observe(metric, 0.3, *("x" for _ in metric.labels))
    text = export.render().decode()
    assert "_created" not in text
    for metric in METRICS:
        assert f"# HELP {metric.name} " in text, metric.name
        assert f"# TYPE {metric.name} {metric.kind.value}" in text, metric.name


def test_two_exports_share_nothing() -> None:
    first, second = PrometheusExport(lambda: SNAPSHOT), PrometheusExport(lambda: SNAPSHOT)
    first.count(d.OUTPUT_TOKENS, 5.0)
    assert families(first)["diptych_output_tokens_total"] == {(): 5.0}
    assert families(second)["diptych_output_tokens_total"] == {(): 0.0}
