"""One worker's scheduling: which tokens run next, and in which blocks.

Knows: one arena of KV blocks, its prompt cache, leases and reservations; the requests on this worker; chunked
continuous batching. Does not know: tensors, time, sockets, other workers, the cluster.
"""

from diptych.scheduling.batcher import KV_PRESSURE, NO_ROOM, TOO_LARGE
from diptych.scheduling.block_pool import BlockPool
from diptych.scheduling.config import SchedulerConfig
from diptych.scheduling.describing import ChunkShape, StepShape
from diptych.scheduling.fetching import Fetch
from diptych.scheduling.leaping import Steady
from diptych.scheduling.scheduler import Scheduler, StepOutcome

__all__ = [
    "KV_PRESSURE",
    "NO_ROOM",
    "TOO_LARGE",
    "BlockPool",
    "ChunkShape",
    "Fetch",
    "Scheduler",
    "SchedulerConfig",
    "Steady",
    "StepOutcome",
    "StepShape",
]
