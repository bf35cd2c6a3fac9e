"""A head with toy engines behind real HTTP: ``python live_toy_head.py MODEL_DIR --port PORT``.

Knows: how `diptych serve` puts its parts together, with an engine that the command line does not offer. The
model directory gives the tokeniser and the shape only.
"""

from __future__ import annotations

import asyncio
import sys

from diptych.adapters.toy import ToyEngine
from diptych.cli.hosting import HttpHost, Stopper
from diptych.cli.http import listen
from diptych.cli.model import served_model
from diptych.cli.view import ClusterAsServed
from diptych.domain.cluster import ClusterSpec, KVSpec, LimitsSpec, ModelSpec
from diptych.domain.errors import DiptychError
from diptych.runtime.cluster import Cluster
from diptych.server.app import create_app
from diptych.server.config import ServerConfig


async def main(model_dir: str, port: int) -> None:
    """Serve until SIGTERM."""
    limits = LimitsSpec(
        heartbeat_interval_s=0.1, heartbeat_timeout_s=120, restart_backoff_s=0.05, restart_backoff_max_s=0.2
    )
    spec = ClusterSpec(
        model=ModelSpec(path=model_dir, max_model_tokens=1024),
        kv=KVSpec(block_tokens=16, memory_bytes=1 << 20),
        limits=limits,
    )
    engine = ToyEngine(vocab_size=2000, prefill_s_per_token=0.0001, decode_s_per_step=0.005)
    cluster = Cluster(spec, engine=engine)
    stopper, config = Stopper(), ServerConfig(port=port)

    async def life() -> DiptychError:
        await cluster.__aenter__()
        return await cluster.failed()

    app = create_app(ClusterAsServed(cluster), served_model(spec, cluster), config)
    with listen(config.host, config.port) as listener, stopper.listening():
        try:
            await HttpHost(app, config).run(listener, stopper, life())
        finally:
            await cluster.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[sys.argv.index("--port") + 1])))
