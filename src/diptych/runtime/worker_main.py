"""The worker process: ``python -m diptych.runtime.worker_main --socket … --kv-fd …``.

Started by the supervisor only. It greets the head, pins itself to its cores, and only then loads its engine
(thread pools size themselves by what they see at import). It ends with the head: by signal if the head dies,
by end of stream if the connection closes.
Knows: process, signals, threads, cores. Does not know: decisions, tokens.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable

from diptych.adapters.build import EngineMemory, build_engine, owns_kv_memory
from diptych.adapters.protocol import EngineAdapter
from diptych.domain.errors import DiptychError
from diptych.domain.ids import WorkerId
from diptych.runtime.clock import MonotonicClock
from diptych.runtime.stages import Stages
from diptych.runtime.wire import (
    SECRET_VARIABLE,
    WIRE_VERSION,
    Begin,
    BlockingChannel,
    Hello,
    Ready,
    Refused,
    StartupFailed,
    Welcome,
)
from diptych.runtime.worker import StepFailed, Worker
from diptych.scheduling import Scheduler, SchedulerConfig
from diptych.transfer.segment import SharedSegment

EXIT_STEP_FAILED = 70
"""A step raised. The head runs the requests elsewhere."""
EXIT_STARTUP_FAILED = 71
"""The engine could not be built; the reason was sent as `StartupFailed`."""
EXIT_REFUSED = 72
"""The head did not want us, or broke the protocol."""

_PR_SET_PDEATHSIG = 1

log = logging.getLogger("diptych.worker")


def main(argv: list[str] | None = None) -> int:
    """Run one worker until the head ends it. Returns the exit status."""
    arguments = _parse(argv)
    _die_with(arguments.parent_pid)
    _leave_signals_to_one_thread()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    channel = _connect(arguments)
    welcome = channel.receive()
    match welcome:
        case Welcome():
            return _serve(arguments, channel, welcome)
        case Refused():
            log.error("the head refused this worker: %s (%s)", welcome.message, welcome.code)
        case _:
            log.error("expected a welcome, got %r", welcome)
    return EXIT_REFUSED


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="diptych-worker", description="A worker; the supervisor starts it.")
    parser.add_argument("--socket", required=True)
    parser.add_argument("--worker-id", required=True)
    parser.add_argument("--incarnation", type=int, required=True)
    parser.add_argument("--kv-fd", type=int, required=True)
    parser.add_argument("--weights-fd", type=int)
    parser.add_argument("--parent-pid", type=int, required=True)
    return parser.parse_args(argv)


def _die_with(parent_pid: int) -> None:
    """Have the kernel kill us when the head dies, also while a step runs and nobody reads the socket."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it died before the call above
        os._exit(EXIT_REFUSED)


def _leave_signals_to_one_thread() -> None:
    """SIGINT is for the head to interpret. SIGTERM waits for `_stop_on_sigterm`; threads inherit the mask."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def _connect(arguments: argparse.Namespace) -> BlockingChannel:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(arguments.socket)
    channel = BlockingChannel(connection)
    channel.send(
        Hello(
            version=WIRE_VERSION,
            worker_id=WorkerId(arguments.worker_id),
            incarnation=arguments.incarnation,
            secret=os.environ.pop(SECRET_VARIABLE, ""),
            pid=os.getpid(),
        )
    )
    return channel


def _serve(arguments: argparse.Namespace, channel: BlockingChannel, welcome: Welcome) -> int:
    stages = Stages(MonotonicClock().now_s)
    _pin(welcome)
    engine = _start_engine(arguments, channel, welcome, stages)
    if engine is None:
        return EXIT_STARTUP_FAILED
    begin = channel.receive()
    if not isinstance(begin, Begin):
        log.error("expected the order to begin, got %r", begin)
        return EXIT_REFUSED
    return _run(arguments, channel, welcome, engine, begin)


def _pin(welcome: Welcome) -> None:
    """Before torch is imported: its thread pools size themselves by the cores that they see."""
    if welcome.cores:
        os.sched_setaffinity(0, welcome.cores)
    os.environ["OMP_NUM_THREADS"] = str(welcome.threads)


def _start_engine(
    arguments: argparse.Namespace, channel: BlockingChannel, welcome: Welcome, stages: Stages
) -> EngineAdapter | None:
    """Build and warm the engine and say `Ready`; or say `StartupFailed` and answer None."""
    try:
        memory = _map(arguments, welcome)
        stages.reached("kv_memory")
        built = build_engine(
            welcome.engine,
            memory,
            seed=welcome.seed,
            threads=welcome.threads,
            max_running=welcome.max_running,
            reached=stages.reached,
        )
        built.engine.warm_up()
        stages.reached("warm_up")
    except DiptychError as error:
        channel.send(StartupFailed(error.code, str(error)))
        return None
    except Exception as error:
        log.exception("the engine could not be built")
        channel.send(StartupFailed(DiptychError.code, f"{type(error).__name__}: {error}"))
        return None
    channel.send(Ready(built.engine.layout, built.description, stages.seconds))
    return built.engine


def _map(arguments: argparse.Namespace, welcome: Welcome) -> EngineMemory:
    if owns_kv_memory(welcome.engine):
        return EngineMemory(None, welcome.arena.blocks, welcome.layout.block_tokens)
    segment = SharedSegment.attach(arguments.kv_fd, welcome.layout.segment_bytes(welcome.domain_blocks))
    return EngineMemory(
        segment.buffer, welcome.domain_blocks, welcome.layout.block_tokens, arguments.weights_fd
    )


def _run(
    arguments: argparse.Namespace,
    channel: BlockingChannel,
    welcome: Welcome,
    engine: EngineAdapter,
    begin: Begin,
) -> int:
    scheduler = Scheduler(scheduler_config(welcome), begin.adopted)
    worker_id = WorkerId(arguments.worker_id)
    worker = Worker(worker_id, arguments.incarnation, scheduler, engine, MonotonicClock(), channel.send)
    _start_thread("diptych-io", _listen, channel, worker)
    _start_thread("diptych-heartbeat", _beat, worker, welcome.heartbeat_interval_s)
    _start_thread("diptych-sigterm", _stop_on_sigterm, worker)
    try:
        worker.run()
    except StepFailed as failure:
        log.exception("a step failed; its requests: %s", ", ".join(failure.request_ids))
        return EXIT_STEP_FAILED
    except OSError:
        log.warning("the head has gone")
    return 0


def scheduler_config(welcome: Welcome) -> SchedulerConfig:
    """What the scheduler has to know of it."""
    return SchedulerConfig(
        arena=welcome.arena,
        block_tokens=welcome.layout.block_tokens,
        block_bytes=welcome.layout.block_bytes,
        token_budget=welcome.token_budget,
        max_running=welcome.max_running,
        prompt_cache=welcome.prompt_cache,
        chunked_prefill=welcome.chunked_prefill,
    )


def _start_thread(name: str, target: Callable[..., None], *arguments: object) -> None:
    threading.Thread(target=target, args=arguments, name=name, daemon=True).start()


def _listen(channel: BlockingChannel, worker: Worker) -> None:
    """Apply commands until the head is gone; then there is nobody left to work for."""
    status = EXIT_REFUSED
    try:
        while (message := channel.receive()) is not None:
            match message:
                case Welcome() | Refused() | Begin():
                    log.error("out of order: %s", type(message).__name__)
                    break
                case _:
                    worker.accept(message)
        else:
            status = 0
    except OSError:
        status = 0  # the head closed while we were answering
    except Exception:
        log.exception("the worker cannot go on")
    finally:
        os._exit(status)


def _beat(worker: Worker, interval_s: float) -> None:
    """Heartbeats; a head that is gone is noticed by `_listen`."""
    with contextlib.suppress(OSError):
        worker.beat(interval_s)


def _stop_on_sigterm(worker: Worker) -> None:
    signal.sigwait({signal.SIGTERM})
    worker.stop()


if __name__ == "__main__":
    sys.exit(main())
