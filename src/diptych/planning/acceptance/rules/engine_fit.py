"""DistServe's fits of an engine: seconds of prefill batches, decode steps and mixed steps.

Knows: the profile files' form, in ms: prefill [a, b, c] = a + b·Σn + c·Σn²; decode [a, b, c] = a + b·Σcontext
+
c·batch, one fit below a batch of ``threshold`` and one from it on. Does not know: queues.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from diptych.domain.errors import SpecError
from diptych.domain.fleet import DecodeFit, PrefillFit, ProfileSpec
from diptych.planning.acceptance.files import read_csv, read_json

Engine = Literal["distserve", "vllm"]
Coefficients = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class EngineFit:
    """One worker: its fits in seconds, its KV memory in tokens, its chips."""

    prefill: Coefficients
    decode_small: Coefficients
    decode_large: Coefficients
    threshold: int
    kv_tokens: int
    chips: int

    def prefill_s(self, prompts: Sequence[int]) -> float:
        """A batch of whole prompts."""
        a, b, c = self.prefill
        return a + b * sum(prompts) + c * sum(n * n for n in prompts)

    def chunk_s(self, new: int, done: int) -> float:
        """What a chunk behind ``done`` tokens adds to a step."""
        _, b, c = self.prefill
        return b * new + c * (new * new + 2 * new * done)

    def decode_s(self, batch: int, context: int) -> float:
        """A decode step over ``context`` tokens in all."""
        a, b, c = self.decode_small if batch < self.threshold else self.decode_large
        return a + b * context + c * batch

    def profile(self) -> ProfileSpec:
        """The same for a spec's pool."""
        a, b, c = self.prefill
        small, large = self.decode_small, self.decode_large
        return ProfileSpec(
            prefill=PrefillFit(fixed_s=a, per_token_s=b, per_token2_s=c),
            decode=(
                DecodeFit(fixed_s=small[0], per_context_token_s=small[1], per_sequence_s=small[2]),
                DecodeFit(
                    fixed_s=large[0],
                    per_context_token_s=large[1],
                    per_sequence_s=large[2],
                    from_batch=self.threshold,
                ),
            ),
            kv_tokens=self.kv_tokens,
            chips=self.chips,
        )


def read_fit(data: Path, engine: Engine, tensor_parallel: int, model: str = "facebook/opt-13b") -> EngineFit:
    """The fit of a model on A100-80G; raises `SpecError` where the files have none."""
    profiles = read_json(data, f"validation/distserve/profiler-a100-80g.{engine}.json")
    entry = profiles.get(model, {}).get(str(tensor_parallel))
    if entry is None:
        raise SpecError(f"model: no profile of {model} at TP {tensor_parallel}")
    rows = read_csv(data, "validation/distserve/max_num_tokens.csv")
    keyed = {(row["model"], row["tp"], row["pp"]): int(row["max_num_tokens"]) for row in rows}
    return EngineFit(
        prefill=_seconds(entry["prefill"]),
        decode_small=_seconds(entry["decoding_smallbs"]),
        decode_large=_seconds(entry["decoding_largebs"]),
        threshold=entry["decoding_large_small_bs_threshold"],
        kv_tokens=keyed[model, str(tensor_parallel), "1"],
        chips=tensor_parallel,
    )


def _seconds(milliseconds: Sequence[float]) -> Coefficients:
    a, b, c = (value / 1e3 for value in milliseconds)
    return a, b, c
