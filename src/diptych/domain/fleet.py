"""What a pool's workers run on, as a spec says it: catalogue hardware, a measured profile, or a table of
rates;
and the link between memory domains.

Knows: names, counts and fitted coefficients with their units. Does not know: the catalogue, how seconds
follow
from any of it (`diptych.performance` does).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Seconds = Annotated[float, Field(allow_inf_nan=False)]


class _Spec(BaseModel):
    """Frozen, and an unknown key is an error that names it."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DeviceSpec(_Spec):
    """One worker of a pool is one engine on ``tensor_parallel · pipeline_parallel`` chips (attention data
    parallel ranks share the experts, as expert parallel engines do)."""

    chip: str = Field(
        min_length=1, description="Name in the hardware catalogue (`diptych plan --list-hardware`)."
    )
    tensor_parallel: int = Field(default=1, ge=1, le=1024)
    pipeline_parallel: int = Field(default=1, ge=1, le=64)
    expert_parallel: int = Field(default=1, ge=1, le=1024)
    attention_data_parallel: int = Field(default=1, ge=1, le=1024)
    engine: str = Field(
        default="vllm", description="Whose efficiencies: vllm, trtllm, sglang, or a profile's."
    )
    weights: Literal["bf16", "fp8", "fp4"] = "bf16"
    kv: Literal["bf16", "fp8"] = "bf16"
    power_cap_w: float | None = Field(default=None, gt=0, description="Per chip; decode pools only.")

    @property
    def chips(self) -> int:
        """Chips of one worker."""
        return self.tensor_parallel * self.pipeline_parallel * self.attention_data_parallel


class PrefillFit(_Spec):
    """Seconds of a step that only prefills: ``fixed_s + per_token_s · Σn + per_token2_s · Σ(n² +
    2·n·cached)``, n new tokens of a prompt behind ``cached`` tokens.

    With ``by_tokens``: what a table of (N, seconds of one whole prompt of N tokens) gives for N = Σn,
    straight lines between its rows and through the outer two beyond them, plus ``per_token2_s · (Σ(n² +
    2·n·cached) − N²)``: several short prompts attend to less than one long one."""

    fixed_s: Seconds = 0.0
    per_token_s: Seconds = 0.0
    per_token2_s: Seconds = 0.0
    by_tokens: tuple[tuple[int, Seconds], ...] = ()


class DecodeFit(_Spec):
    """Seconds of a step that only decodes: ``fixed_s + per_context_token_s · Σcontext + per_sequence_s ·
    batch``,
    plus, with ``by_batch``, what a table of (batch, seconds) gives for the batch."""

    fixed_s: Seconds = 0.0
    per_context_token_s: Seconds = 0.0
    per_sequence_s: Seconds = 0.0
    by_batch: tuple[tuple[int, Seconds], ...] = ()
    from_batch: int = Field(default=0, ge=0, description="This fit holds from this batch on.")


class ProfileSpec(_Spec):
    """Measured behaviour of one worker, in place of catalogue hardware.

    A mixed step takes the decode seconds (the prefill's fixed part where nothing decodes) plus the parts of
    the prefill that grow with tokens. Where both run in one step, ``mixed_prefill_factor`` multiplies the
    latter and ``mixed_decode_factor`` what of the decode does not grow with the context: the prompt reads the
    same weights.
    """

    prefill: PrefillFit
    decode: tuple[DecodeFit, ...] = Field(
        min_length=1, description="One fit, or several for ranges of the batch."
    )
    kv_tokens: int = Field(gt=0, description="Tokens of KV that one worker holds.")
    kv_bytes_per_token: int = Field(default=0, ge=0, description="For the handoff; default: the model's.")
    mixed_prefill_factor: float = Field(default=1.0, gt=0)
    mixed_decode_factor: float = Field(default=1.0, gt=0)
    step_overhead_s: float = Field(
        default=0.0, ge=0, description="Added to every step: scheduling, messages."
    )
    dispatch_s: float = Field(
        default=0.0, ge=0, description="From the arrival until an idle worker starts, and back to the client."
    )
    contended_factor: float = Field(
        default=1.0, ge=1, description="On every step while another worker of the host computes."
    )
    handoff_fixed_s: float = Field(
        default=0.0, ge=0, description="Prefill end to decode start, inside a domain."
    )
    handoff_per_token_s: float = Field(default=0.0, ge=0)
    chips: int = Field(default=1, ge=1, description="Accelerators of one worker, for rates per chip.")
    power_busy_w: float | None = Field(default=None, ge=0)
    power_idle_w: float | None = Field(default=None, ge=0)
    cost_per_hour: float | None = Field(default=None, ge=0, description="Money for one worker and hour.")

    @model_validator(mode="after")
    def _tables_rise(self) -> ProfileSpec:
        for name, rows in (("prefill.by_tokens", self.prefill.by_tokens), *_tables(self.decode)):
            keys = [key for key, _ in rows]
            if keys != sorted(set(keys)) or any(key < 1 for key in keys) or len(keys) == 1:
                raise ValueError(f"{name}: needs two or more rows, by rising positive counts, not {keys}")
        ranges = [fit.from_batch for fit in self.decode]
        if ranges != sorted(set(ranges)) or ranges[0] != 0:
            raise ValueError(f"decode: the fits' from_batch must rise from 0, not {ranges}")
        return self


def _tables(fits: tuple[DecodeFit, ...]) -> list[tuple[str, tuple[tuple[int, float], ...]]]:
    return [(f"decode[{i}].by_batch", fit.by_batch) for i, fit in enumerate(fits)]


class RatesSpec(_Spec):
    """Measured rates of one instance: seconds of a whole prompt by length, tokens decoded per second."""

    prefill_s_by_tokens: tuple[tuple[int, Seconds], ...] = Field(min_length=2)
    decode_tokens_per_s: float = Field(gt=0)
    max_batch: int = Field(default=256, ge=1)
    kv_tokens: int = Field(default=10_000_000, gt=0)
    kv_bytes_per_token: int = Field(default=0, ge=0)
    chips: int = Field(default=1, ge=1)
    cost_per_hour: float | None = Field(default=None, ge=0)


class LinkSpec(_Spec):
    """The path on which KV goes from a prefill worker to a decode worker of another memory domain."""

    bandwidth_bytes_per_s: float = Field(gt=0, description="Effective, of one flow alone.")
    latency_s: float = Field(default=1e-5, ge=0, description="Per message.")
    layerwise: bool = Field(default=True, description="Layers leave while later ones are being computed.")
    residual_s: float = Field(default=0.005, ge=0, description="What layer-wise sending cannot hide.")
    shared: bool = Field(
        default=True, description="All flows of the cluster share it; else each pair has its own."
    )
