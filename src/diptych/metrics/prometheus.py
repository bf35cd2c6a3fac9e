"""Prometheus' view of the definitions, in a registry of its own.

Knows: `prometheus_client`, the table of definitions. Does not know: HTTP, who records what and when.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from diptych.metrics import definitions as d
from diptych.metrics.definitions import METRICS, Kind, Metric, Origin
from diptych.metrics.snapshot import ClusterSnapshot, WorkerSnapshot

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of what `PrometheusExport.render` gives."""


class PrometheusExport:
    """Counters and histograms that are recorded here, and gauges read from a snapshot when asked for."""

    def __init__(self, snapshot: Callable[[], ClusterSnapshot], registry: CollectorRegistry | None = None):
        self.registry = registry or CollectorRegistry(auto_describe=False)
        self._counters: dict[str, Counter] = {}
        self._histograms: dict[str, Histogram] = {}
        for metric in METRICS:
            if metric.origin is Origin.REQUEST:
                self._declare(metric)
        self.registry.register(SnapshotCollector(snapshot))

    def count(self, metric: Metric, amount: float = 1.0, *labels: str) -> None:
        """Add to a counter. ``labels`` in the order of ``metric.labels``."""
        counter = self._counters[metric.name]
        (counter.labels(*labels) if metric.labels else counter).inc(amount)

    def observe(self, metric: Metric, value: float, *labels: str) -> None:
        """Put one value into a histogram. ``labels`` in the order of ``metric.labels``."""
        histogram = self._histograms[metric.name]
        (histogram.labels(*labels) if metric.labels else histogram).observe(value)

    def render(self) -> bytes:
        """Everything in Prometheus' text form."""
        return generate_latest(_WithoutCreation(self.registry))

    def _declare(self, metric: Metric) -> None:
        match metric.kind:
            case Kind.COUNTER:
                self._counters[metric.name] = Counter(
                    metric.name, metric.help, metric.labels, registry=self.registry
                )
            case Kind.HISTOGRAM:
                self._histograms[metric.name] = Histogram(
                    metric.name, metric.help, metric.labels, buckets=metric.buckets, registry=self.registry
                )
            case Kind.GAUGE:
                raise ValueError(f"{metric.name}: gauges are read from a snapshot, not recorded")


class _WithoutCreation(Collector):
    """Leaves out when each series began: twice the series for what a scraper finds out by itself."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Family]:
        for family in self._registry.collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family


Samples = list[tuple[tuple[str, ...], float]]
"""Label values and value of each sample of one metric."""


class SnapshotCollector(Collector):
    """Turns one snapshot into samples each time it is asked."""

    def __init__(self, snapshot: Callable[[], ClusterSnapshot]) -> None:
        self._snapshot = snapshot

    def describe(self) -> Iterable[Family]:
        """Nothing: names are known to be unique by the table, and asking would take a snapshot."""
        return ()

    def collect(self) -> Iterator[Family]:
        """One family for each metric whose origin is a snapshot."""
        for metric, samples in snapshot_samples(self._snapshot()).items():
            yield _family(metric, samples)


def snapshot_samples(snapshot: ClusterSnapshot) -> dict[Metric, Samples]:
    """All samples of the metrics whose origin is a snapshot."""
    found: dict[Metric, Samples] = {
        d.WAITING: [((), snapshot.waiting_requests)],
        d.RUNNING: [((), snapshot.running_requests)],
        d.PREEMPTIONS: [((), snapshot.bounces_total)],
    }
    for worker in snapshot.workers:
        for metric, extra, value in _worker_samples(worker):
            labels = (str(worker.worker_id), worker.role.value, *extra)
            found.setdefault(metric, []).append((labels, value))
    return found


def _worker_samples(worker: WorkerSnapshot) -> Iterator[tuple[Metric, tuple[str, ...], float]]:
    """Metric, labels after worker and role, value."""
    stats = worker.stats
    yield d.WORKER_UP, (), float(worker.up)
    yield d.WORKER_RESTARTS, (), worker.restarts
    for stage, took_s in worker.start_s.items():
        yield d.WORKER_START_SECONDS, (stage,), took_s
    yield d.WORKER_REQUESTS, ("waiting",), stats.waiting
    yield d.WORKER_REQUESTS, ("running",), stats.running
    yield d.WORKER_QUEUED_TOKENS, (), stats.queued_tokens
    yield d.WORKER_TOKENS, ("prefill",), stats.prefill_tokens_total
    yield d.WORKER_TOKENS, ("decode",), stats.decode_tokens_total
    yield d.WORKER_BUSY_SECONDS, ("prefill",), stats.prefill_s_total
    yield d.WORKER_BUSY_SECONDS, ("decode",), stats.decode_s_total
    yield d.KV_USED_RATIO, (), stats.held_blocks / worker.arena_blocks if worker.arena_blocks else 0.0
    yield d.KV_BLOCKS, ("held",), stats.held_blocks
    yield d.KV_BLOCKS, ("cached",), stats.cached_blocks
    yield d.KV_BLOCKS, ("free",), stats.free_blocks
    yield d.KV_BLOCKS, ("reserved",), stats.reserved_blocks
    yield d.KV_LEASES, (), stats.leases
    yield d.KV_BLOCK_TOKENS, (), worker.block_tokens


def _family(metric: Metric, samples: Samples) -> Family:
    kind = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
    family = kind(metric.name, metric.help, labels=metric.labels)
    for labels, value in samples:
        family.add_metric(labels, value)
    return family
