"""Each metric once: its name, unit, formula and labels. Server, dashboard and docs read this table.

Knows: what is measured. Does not know: who measures it or who reads it.

Units are base units (seconds, bytes, tokens) and stand in the name; counters end in ``_total``. Labels are
bounded: nothing that a client sends becomes a label value.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """How a metric moves."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Origin(StrEnum):
    """Where the values come from."""

    REQUEST = "request"
    """Recorded when a request passes a moment or ends."""
    SNAPSHOT = "snapshot"
    """Read from a `ClusterSnapshot` at the moment of asking."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One declaration. ``buckets`` are upper bounds, for histograms only."""

    name: str
    kind: Kind
    origin: Origin
    unit: str
    formula: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


LATENCY_BUCKETS_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 150.0, 600.0
)  # fmt: skip
"""From a token of a small model to the longest wait that a queue allows."""

PHASE_BUCKETS_S = (0.0001, 0.00025, 0.0005, *LATENCY_BUCKETS_S)
"""Handing over or tokenising may take much less than a step."""

LENGTH_BUCKETS_TOKENS = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0)

# ---------------------------------------------------------------- requests

REQUESTS = Metric(
    name="diptych_requests_total",
    kind=Kind.COUNTER,
    origin=Origin.REQUEST,
    unit="requests",
    formula="reports, by outcome",
    help="Requests that ended. outcome: stop, length, aborted, rejected or failed.",
    labels=("outcome",),
)
REJECTIONS = Metric(
    name="diptych_admission_rejections_total",
    kind=Kind.COUNTER,
    origin=Origin.REQUEST,
    unit="requests",
    formula="reports in state rejected, by error code",
    help="Requests that were refused before they were placed.",
    labels=("reason",),
)
TTFT = Metric(
    name="diptych_ttft_seconds",
    kind=Kind.HISTOGRAM,
    origin=Origin.REQUEST,
    unit="seconds",
    formula="first_token - received",
    help="Time to first token on the server's clock: tokenising and waiting included.",
    buckets=LATENCY_BUCKETS_S,
)
ITL = Metric(
    name="diptych_itl_seconds",
    kind=Kind.HISTOGRAM,
    origin=Origin.REQUEST,
    unit="seconds",
    formula="arrival of token i+1 - arrival of token i at the front end",
    help="Gaps between tokens; tokens that arrive together have gaps of zero.",
    buckets=LATENCY_BUCKETS_S,
)
TPOT = Metric(
    name="diptych_tpot_seconds",
    kind=Kind.HISTOGRAM,
    origin=Origin.REQUEST,
    unit="seconds",
    formula="(last_token - first_token) / (output tokens - 1)",
    help="Time per output token after the first; one value for each request with two or more.",
    buckets=LATENCY_BUCKETS_S,
)
E2E = Metric(
    name="diptych_e2e_seconds",
    kind=Kind.HISTOGRAM,
    origin=Origin.REQUEST,
    unit="seconds",
    formula="last_token - received",
    help="From the request to its last token.",
    buckets=LATENCY_BUCKETS_S,
)
PHASE = Metric(
    name="diptych_phase_seconds",
    kind=Kind.HISTOGRAM,
    origin=Origin.REQUEST,
    unit="seconds",
    formula="difference of two neighbouring moments; the phases of a request add up to its whole life",
    help="Time that a request spent in one phase.",
    labels=("phase",),
    buckets=PHASE_BUCKETS_S,
)
PROMPT_TOKENS = Metric(
    name="diptych_prompt_tokens_total",
    kind=Kind.COUNTER,
    origin=Origin.REQUEST,
    unit="tokens",
    formula="cached: found in a prompt cache; computed: prompt tokens - cached",
    help="Prompt tokens of finished requests, by where their KV came from.",
    labels=("source",),
)
OUTPUT_TOKENS = Metric(
    name="diptych_output_tokens_total",
    kind=Kind.COUNTER,
    origin=Origin.REQUEST,
    unit="tokens",
    formula="output tokens that reached the front end",
    help="Output tokens.",
)
PROMPT_LENGTH = Metric(
    name="diptych_prompt_length_tokens",
    kind=Kind.HISTOGRAM,
    origin=Origin.REQUEST,
    unit="tokens",
    formula="prompt tokens of one request",
    help="Prompt lengths of finished requests.",
    buckets=LENGTH_BUCKETS_TOKENS,
)
OUTPUT_LENGTH = Metric(
    name="diptych_output_length_tokens",
    kind=Kind.HISTOGRAM,
    origin=Origin.REQUEST,
    unit="tokens",
    formula="output tokens of one request",
    help="Output lengths of finished requests.",
    buckets=LENGTH_BUCKETS_TOKENS,
)
PREFIX_QUERIES = Metric(
    name="diptych_prefix_cache_queries_total",
    kind=Kind.COUNTER,
    origin=Origin.REQUEST,
    unit="tokens",
    formula="prompt tokens of finished requests",
    help="Prompt tokens that were looked up in the prompt cache.",
)
PREFIX_HITS = Metric(
    name="diptych_prefix_cache_hits_total",
    kind=Kind.COUNTER,
    origin=Origin.REQUEST,
    unit="tokens",
    formula="cached tokens of finished requests",
    help="Prompt tokens that were found in the prompt cache.",
)
HANDOFF_SECONDS = Metric(
    name="diptych_handoff_seconds",
    kind=Kind.HISTOGRAM,
    origin=Origin.REQUEST,
    unit="seconds",
    formula="decode may start - prefill ended",
    help="Time of the move of a request from prefill to decode on another worker.",
    labels=("kind",),
    buckets=PHASE_BUCKETS_S,
)
HANDOFF_BYTES = Metric(
    name="diptych_handoff_bytes_total",
    kind=Kind.COUNTER,
    origin=Origin.REQUEST,
    unit="bytes",
    formula="lent: KV bytes that changed hands where they are; copied: KV bytes that were moved",
    help="KV bytes handed from prefill to decode.",
    labels=("way",),
)

# ---------------------------------------------------------------- cluster

WAITING = Metric(
    name="diptych_requests_waiting",
    kind=Kind.GAUGE,
    origin=Origin.SNAPSHOT,
    unit="requests",
    formula="requests in state queued",
    help="Requests that wait for a place.",
)
RUNNING = Metric(
    name="diptych_requests_running",
    kind=Kind.GAUGE,
    origin=Origin.SNAPSHOT,
    unit="requests",
    formula="requests in state prefilling, handing_off or decoding",
    help="Requests that have a place.",
)
PREEMPTIONS = Metric(
    name="diptych_preemptions_total",
    kind=Kind.COUNTER,
    origin=Origin.SNAPSHOT,
    unit="requests",
    formula="bounced attempts",
    help="Running requests that were given back because KV memory was full.",
)
WORKER_UP = Metric(
    name="diptych_worker_up",
    kind=Kind.GAUGE,
    origin=Origin.SNAPSHOT,
    unit="bool",
    formula="1 if an incarnation of the worker is joined, else 0",
    help="Whether the worker can be given work.",
    labels=("worker", "role"),
)
WORKER_RESTARTS = Metric(
    name="diptych_worker_restarts_total",
    kind=Kind.COUNTER,
    origin=Origin.SNAPSHOT,
    unit="restarts",
    formula="incarnations after the first",
    help="How often the worker was started again.",
    labels=("worker", "role"),
)
WORKER_START_SECONDS = Metric(
    name="diptych_worker_start_seconds",
    kind=Kind.GAUGE,
    origin=Origin.SNAPSHOT,
    unit="seconds",
    formula="seconds of one stage of the start of the present incarnation; nothing until it is ready",
    help="How long the worker took to start, by stage: process, kv_memory, libraries, weights, warm_up.",
    labels=("worker", "role", "stage"),
)
WORKER_REQUESTS = Metric(
    name="diptych_worker_requests",
    kind=Kind.GAUGE,
    origin=Origin.SNAPSHOT,
    unit="requests",
    formula="sequences of the worker's scheduler, by state",
    help="Sequences at a worker. state: waiting or running.",
    labels=("worker", "role", "state"),
)
WORKER_QUEUED_TOKENS = Metric(
    name="diptych_worker_queued_tokens",
    kind=Kind.GAUGE,
    origin=Origin.SNAPSHOT,
    unit="tokens",
    formula="prompt tokens that wait or are half done",
    help="Prefill backlog of a worker.",
    labels=("worker", "role"),
)
WORKER_TOKENS = Metric(
    name="diptych_worker_tokens_total",
    kind=Kind.COUNTER,
    origin=Origin.SNAPSHOT,
    unit="tokens",
    formula="tokens that ran through the model, by phase, since the incarnation started",
    help="Tokens that a worker computed.",
    labels=("worker", "role", "phase"),
)
WORKER_BUSY_SECONDS = Metric(
    name="diptych_worker_busy_seconds_total",
    kind=Kind.COUNTER,
    origin=Origin.SNAPSHOT,
    unit="seconds",
    formula="seconds of steps, by phase: prefill if a step ran any prompt token",
    help="Time that a worker computed.",
    labels=("worker", "role", "phase"),
)
KV_USED_RATIO = Metric(
    name="diptych_kv_blocks_used_ratio",
    kind=Kind.GAUGE,
    origin=Origin.SNAPSHOT,
    unit="ratio",
    formula="held blocks / blocks of the arena, 0..1",
    help="Share of a worker's KV blocks that requests or leases hold.",
    labels=("worker", "role"),
)
KV_BLOCKS = Metric(
    name="diptych_kv_blocks",
    kind=Kind.GAUGE,
    origin=Origin.SNAPSHOT,
    unit="blocks",
    formula="held + cached + free = blocks of the arena; reserved blocks are counted among the last two",
    help="KV blocks of a worker by state: held, cached, free; and reserved.",
    labels=("worker", "role", "state"),
)
KV_LEASES = Metric(
    name="diptych_kv_leases",
    kind=Kind.GAUGE,
    origin=Origin.SNAPSHOT,
    unit="leases",
    formula="leases granted and not yet released",
    help="Leases on blocks of a worker's arena.",
    labels=("worker", "role"),
)
KV_BLOCK_TOKENS = Metric(
    name="diptych_kv_block_tokens",
    kind=Kind.GAUGE,
    origin=Origin.SNAPSHOT,
    unit="tokens",
    formula="slots of one block",
    help="Tokens that one KV block holds.",
    labels=("worker", "role"),
)

METRICS: tuple[Metric, ...] = (
    REQUESTS,
    REJECTIONS,
    TTFT,
    ITL,
    TPOT,
    E2E,
    PHASE,
    PROMPT_TOKENS,
    OUTPUT_TOKENS,
    PROMPT_LENGTH,
    OUTPUT_LENGTH,
    PREFIX_QUERIES,
    PREFIX_HITS,
    HANDOFF_SECONDS,
    HANDOFF_BYTES,
    WAITING,
    RUNNING,
    PREEMPTIONS,
    WORKER_UP,
    WORKER_RESTARTS,
    WORKER_START_SECONDS,
    WORKER_REQUESTS,
    WORKER_QUEUED_TOKENS,
    WORKER_TOKENS,
    WORKER_BUSY_SECONDS,
    KV_USED_RATIO,
    KV_BLOCKS,
    KV_LEASES,
    KV_BLOCK_TOKENS,
)
"""All of them, in the order of the documentation."""
