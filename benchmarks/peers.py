"""Other engines on the same steps, each with the Python of an environment of its own.

``DIPTYCH_PEER_VLLM`` and ``DIPTYCH_PEER_OPENVINO`` name these Pythons; what is not named is left out
(README.md says how to make them). Only the standard library is imported before a peer is chosen.

Knows: how to make a peer take single steps. Does not know: diptych.
"""

from __future__ import annotations

import ctypes
import os
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

SHAPE = Path(__file__).parent / "shapes" / "qwen3-0.6b"

PYTHONS = {"vLLM": "DIPTYCH_PEER_VLLM", "OpenVINO GenAI": "DIPTYCH_PEER_OPENVINO"}
"""Name of a peer → variable with the Python of its environment."""

MOST_TOKENS = 8448
"""Of one sequence, and of one step: a prompt of 8,192 is one step."""

KV_GIB = 2
"""For 16,384 tokens, and some."""
SOME_TOKENS = 64
"""A batch decodes so many steps before it is made anew."""


def present() -> dict[str, str]:
    """Name → Python of the peers that are there."""
    return {name: os.environ[variable] for name, variable in PYTHONS.items() if os.environ.get(variable)}


class Stepping(Protocol):
    """What both peers can do: take requests, then one step at a time."""

    def add(self, name: str, tokens: int, outputs: int) -> None:
        """A request of ``tokens`` prompt tokens that yields exactly ``outputs``."""
        ...

    def step(self) -> dict[str, int]:
        """One step; tokens that requests have got in it."""
        ...

    def drop(self, name: str) -> None:
        """End a request."""
        ...


class Steps:
    """Times prompts and decode steps. A batch goes on from question to question."""

    def __init__(self, engine: Stepping) -> None:
        self._engine = engine
        self._batch: list[Any] = []
        self._names: list[str] = []
        self._left = 0
        self._made = 0

    def __call__(self, asked: list[Any]) -> Callable[[], object]:
        """The step ``asked`` for."""
        if asked[0] == "prefill":
            self._forget()
            name = self._name()
            self._engine.add(name, asked[1], 1)
            return lambda: self._until_each_has([name])
        if asked != self._batch or not self._left:
            self._forget()
            self._begin(asked)
        self._left -= 1
        return self._engine.step

    def _begin(self, asked: list[Any]) -> None:
        _, batch, context = asked
        self._batch, self._left = asked, SOME_TOKENS
        self._names = [self._name() for _ in range(batch)]
        for name in self._names:
            self._engine.add(name, context - 1, 4 * SOME_TOKENS)
        self._until_each_has(self._names)

    def _until_each_has(self, names: list[str]) -> None:
        waiting = set(names)
        while waiting:
            waiting -= self._engine.step().keys()

    def _forget(self) -> None:
        for name in self._names:
            self._engine.drop(name)
        self._names, self._batch = [], []

    def _name(self) -> str:
        self._made += 1
        return str(self._made)


def vllm(threads: int) -> Steps:
    """In this process, compiled, with dummy weights."""
    # A first pass that only decodes would run into tiles that the process never asked for.
    ctypes.CDLL(None).syscall(158, 0x1023, 18)  # arch_prctl, ARCH_REQ_XCOMP_PERM, tile data
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": str(KV_GIB),
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{threads - 1}" if threads > 1 else "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    peer: Any = import_module("vllm")
    engine = peer.LLMEngine.from_engine_args(
        peer.EngineArgs(
            model=str(SHAPE),
            load_format="dummy",
            skip_tokenizer_init=True,
            dtype="bfloat16",
            max_model_len=MOST_TOKENS,
            max_num_batched_tokens=MOST_TOKENS,
            max_num_seqs=32,
            enable_prefix_caching=False,
        )
    )

    class Engine:
        def add(self, name: str, tokens: int, outputs: int) -> None:
            params = peer.SamplingParams(
                temperature=0.0, max_tokens=outputs, ignore_eos=True, detokenize=False
            )
            engine.add_request(name, peer.TokensPrompt(prompt_token_ids=_prompt(tokens)), params)

        def step(self) -> dict[str, int]:
            return {it.request_id: len(it.outputs[0].token_ids) for it in engine.step()}

        def drop(self, name: str) -> None:
            engine.abort_request([name])

    return Steps(Engine())


def openvino(threads: int) -> Steps:
    """Its continuous batching, in bfloat16, on weights exported from the same shape."""
    import numpy

    openvino: Any = import_module("openvino")
    peer: Any = import_module("openvino_genai")
    scheduler = peer.SchedulerConfig()
    scheduler.max_num_batched_tokens, scheduler.max_num_seqs = MOST_TOKENS, 32
    scheduler.cache_size, scheduler.enable_prefix_caching = KV_GIB, False
    options = {
        "INFERENCE_PRECISION_HINT": "bf16",
        "KV_CACHE_PRECISION": "bf16",
        "INFERENCE_NUM_THREADS": threads,
    }
    with tempfile.TemporaryDirectory() as folder:
        _export(Path(folder))
        pipeline = peer.ContinuousBatchingPipeline(folder, scheduler, "CPU", options)
    handles: dict[str, Any] = {}

    class Engine:
        def add(self, name: str, tokens: int, outputs: int) -> None:
            config = peer.GenerationConfig()
            config.max_new_tokens, config.ignore_eos, config.do_sample = outputs, True, False
            ids = openvino.Tensor(numpy.array([_prompt(tokens)]))
            handles[name] = pipeline.add_request(int(name), ids, config)

        def step(self) -> dict[str, int]:
            pipeline.step()
            found: dict[str, int] = {}
            for name, handle in handles.items():
                if handle.can_read():
                    found[name] = sum(len(it.generated_ids) for it in handle.read().values())
            return found

        def drop(self, name: str) -> None:
            handles.pop(name).cancel()

    return Steps(Engine())


def _export(folder: Path) -> None:
    """The shape with random weights, as the peer reads it."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    exporters: Any = import_module("optimum.exporters.openvino")
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(SHAPE)
    with tempfile.TemporaryDirectory() as checkpoint:
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(checkpoint)
        exporters.main_export(
            checkpoint, folder, task="text-generation-with-past", library_name="transformers"
        )


def _prompt(tokens: int) -> list[int]:
    return [7 * i % 1000 for i in range(tokens)]


PEERS: dict[str, Callable[[int], Steps]] = {"vLLM": vllm, "OpenVINO GenAI": openvino}
