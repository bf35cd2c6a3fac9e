"""Drives an engine step by step as a scheduler would, with block tables it deals out itself."""

from __future__ import annotations

from collections.abc import Sequence

from diptych.adapters.protocol import EngineAdapter
from diptych.domain.ids import RequestId
from diptych.domain.kv import blocks_for
from diptych.domain.request import SamplingParams
from diptych.domain.step import NewSequence, Slice, StepPlan, StepResult

GREEDY = SamplingParams(max_tokens=64, seed=0, temperature=0.0)


class Track:
    """One request on its way through an engine."""

    def __init__(
        self, name: str, prompt: Sequence[int], blocks: tuple[int, ...], sampling: SamplingParams
    ) -> None:
        self.request_id = RequestId(name)
        self.prompt_tokens = len(prompt)
        self.token_ids = list(prompt)
        self.blocks = blocks
        self.sampling = sampling
        self.computed = 0
        self.announced = False

    @property
    def output(self) -> list[int]:
        """Tokens sampled so far."""
        return self.token_ids[self.prompt_tokens :]

    def next_slice(self, most_tokens: int) -> Slice:
        """The next ``most_tokens`` tokens that have no KV yet; samples if these are all."""
        end = min(len(self.token_ids), self.computed + most_tokens)
        piece = Slice(
            request_id=self.request_id,
            token_ids=tuple(self.token_ids[self.computed : end]),
            start=self.computed,
            block_table=self.blocks,
            sample=end == len(self.token_ids),
        )
        self.computed = end
        return piece

    def announcement(self) -> NewSequence:
        """What the engine is told once."""
        self.announced = True
        return NewSequence(
            request_id=self.request_id,
            token_ids=tuple(self.token_ids),
            prompt_tokens=self.prompt_tokens,
            sampling=self.sampling,
        )


class EngineDriver:
    """Steps over tracks; each gets fresh blocks for ``most_tokens`` tokens."""

    def __init__(self, engine: EngineAdapter, most_tokens: int = 128) -> None:
        self.engine = engine
        self._most_tokens = most_tokens
        self._next_block = 0
        self._step = 0

    def track(self, name: str, prompt: Sequence[int], sampling: SamplingParams = GREEDY) -> Track:
        """A new request with blocks of its own (in descending order, so that tables are no ranges)."""
        count = blocks_for(self._most_tokens, self.engine.layout.block_tokens)
        first, self._next_block = self._next_block, self._next_block + count
        return Track(name, prompt, tuple(range(first + count - 1, first - 1, -1)), sampling)

    def step(self, *pieces: tuple[Track, int]) -> StepResult:
        """One step with up to n tokens of each (track, n); sampled tokens are appended to their tracks."""
        new = tuple(track.announcement() for track, _ in pieces if not track.announced)
        slices = tuple(track.next_slice(tokens) for track, tokens in pieces)
        result = self.engine.execute(StepPlan(step=self._step, slices=slices, new=new))
        self._step += 1
        for track, _ in pieces:
            if track.request_id in result.sampled:
                track.token_ids.append(result.sampled[track.request_id].token_id)
        return result

    def prefill(self, track: Track, chunk: int) -> None:
        """Run the prompt in chunks, alone, until the first token is sampled."""
        while not track.output:
            self.step((track, chunk))

    def decode(self, tracks: Sequence[Track], steps: int) -> None:
        """Run ``steps`` steps with one token of every track."""
        for _ in range(steps):
            self.step(*((track, 1) for track in tracks))
