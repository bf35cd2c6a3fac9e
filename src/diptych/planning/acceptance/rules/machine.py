"""Splitwise's machines: medians of perf_model.csv, Llama-2-70B on 8 GPUs.

Knows: prompt seconds over the tokens of a batch (prompt × batch size), step seconds over sequences. Does not
know:
queues.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from statistics import median

from diptych.domain.fleet import DecodeFit, PrefillFit, ProfileSpec
from diptych.planning.acceptance.files import read_csv

A100, H100, CAPPED = "a100-80gb", "h100-80gb", "h100-80gb-pcap"
MOST_SEQUENCES = 512
STEP_PROMPT = 512
"""Prompt tokens of the rows whose token times make the step table."""


@dataclass(frozen=True)
class Machine:
    """Seconds of work. Between measured rows straight lines; beyond the last the line of the last two; below
    the
    smallest prompt its time."""

    measured_prompt_s: dict[int, float]
    """Single prompts, tokens → median seconds."""
    batch_s: tuple[tuple[int, float], ...]
    """(tokens of a batch, seconds): medians of the medians of all (prompt, batch size) with so many
    tokens."""
    steps_s: tuple[tuple[int, float], ...]
    """(sequences, seconds)."""
    _prompts: dict[int, float] = field(default_factory=dict)
    _steps: dict[int, float] = field(default_factory=dict)

    def prompt_s(self, tokens: int) -> float:
        """A batch of prompts with so many tokens."""
        value = self._prompts.get(tokens)
        if value is None:
            value = self._prompts[tokens] = _line(self.batch_s, max(tokens, self.batch_s[0][0]))
        return value

    def step_s(self, sequences: int) -> float:
        """One token for each."""
        value = self._steps.get(sequences)
        if value is None:
            value = self._steps[sequences] = _line(self.steps_s, sequences)
        return value

    def profile(self, kv_tokens: int, handoff_s: float = 0.0, mixed_factor: float = 1.0) -> ProfileSpec:
        """The same for a spec's pool. A mixed step there adds prefill's growth to the decode step; Splitwise
        takes
        the prompt time instead, which differs little for long prompts."""
        return ProfileSpec(
            prefill=PrefillFit(by_tokens=((1, self.batch_s[0][1]), *self.batch_s)),
            decode=(DecodeFit(by_batch=self.steps_s),),
            kv_tokens=kv_tokens,
            handoff_fixed_s=handoff_s,
            mixed_prefill_factor=mixed_factor,
            chips=8,
        )


@lru_cache(maxsize=8)
def read_machine(data: Path, hardware: str) -> Machine:
    """Medians of one kind of machine."""
    prompts: dict[tuple[int, int], list[float]] = defaultdict(list)
    steps: dict[int, list[float]] = defaultdict(list)
    for row in read_csv(data, "validation/splitwise/perf_model.csv"):
        if (row["model"], row["hardware"], row["tensor_parallel"]) != ("llama2-70b", hardware, "8"):
            continue
        prompt, batch = int(row["prompt_size"]), int(row["batch_size"])
        prompts[prompt, batch].append(float(row["prompt_time"]) / 1e3)
        if prompt == STEP_PROMPT:
            steps[batch].append(float(row["token_time"]) / 1e3)
    by_tokens: dict[int, list[float]] = defaultdict(list)
    for (prompt, batch), times in prompts.items():
        by_tokens[prompt * batch].append(median(times))
    return Machine(
        measured_prompt_s={prompt: median(times) for (prompt, batch), times in prompts.items() if batch == 1},
        batch_s=tuple((tokens, median(times)) for tokens, times in sorted(by_tokens.items())),
        steps_s=tuple((batch, median(times)) for batch, times in sorted(steps.items())),
    )


def _line(rows: tuple[tuple[int, float], ...], x: float) -> float:
    i = min(max(bisect_right(rows, x, key=lambda row: row[0]), 1), len(rows) - 1)
    (low, first), (high, second) = rows[i - 1], rows[i]
    return first + (second - first) * (x - low) / (high - low)
