"""What a step or a stretch of steps looks like, as plain values to compare."""

from __future__ import annotations

from diptych.domain.ids import RequestId
from diptych.scheduling import ChunkShape, Steady, StepShape

Chunk = tuple[RequestId, int, int, bool]


def of_chunk(chunk: ChunkShape) -> Chunk:
    return chunk.request_id, chunk.new_tokens, chunk.cached_tokens, chunk.sample


def of_step(shape: StepShape | None) -> tuple[object, ...] | None:
    if shape is None:
        return None
    chunks = [of_chunk(chunk) for chunk in shape.chunks]
    who = (shape.imports, shape.left_out)
    return (shape.step, chunks, shape.decodes, shape.context_tokens, *who, shape.copied_blocks)


def of_steady(ahead: Steady | None) -> tuple[int, int, int] | None:
    return None if ahead is None else (ahead.decodes, ahead.context_tokens, ahead.steps)
