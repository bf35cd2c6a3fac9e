"""Text of the built-in model's world that its training never drew, as tokens.

Knows: the generator of the corpus. Does not know: engines.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import torch
from tokenizers import Tokenizer
from torch import Tensor
from training.tales import data
from training.tales.chat import ASSISTANT, END
from training.tales.dialogues import LATER, Talk
from training.tales.text import documents
from training.tales.world import build_world

from diptych.builtin import builtin_model_dir

SEED = 990_117
"""Training draws from seeds of its own: a million times its seed, plus the step."""

ROWS, ROW_TOKENS = 24, 512
PROMPTS = 200


@dataclass(frozen=True)
class HeldOut:
    """Rows of packed documents; which of their tokens the model is to produce; prompts that end before an
    answer; the token that ends one.

    Shapes: R rows, T tokens.
    """

    tokens_RT: Tensor
    produced_RT: Tensor
    prompts: tuple[tuple[int, ...], ...]
    end: int


def held_out() -> HeldOut:
    """The same in every run."""
    tokenizer = Tokenizer.from_file(str(builtin_model_dir() / "tokenizer.json"))
    talk = Talk(build_world())
    tokens_RT, produced_RT = data.batch(tokenizer, talk, SEED, ROWS, ROW_TOKENS, LATER)
    asked = (it[:-1] for it in documents(talk, SEED + 1, mix=LATER) if it[-1].role == "assistant")
    answer = _id_of(ASSISTANT, tokenizer)
    prompts = tuple((*data.encode(tokenizer, it)[0], answer) for it in islice(asked, PROMPTS))
    end = _id_of(END, tokenizer)
    return HeldOut(torch.from_numpy(tokens_RT), torch.from_numpy(produced_RT), prompts, end)


def _id_of(token: str, tokenizer: Tokenizer) -> int:
    found = tokenizer.token_to_id(token)
    if found is None:
        raise ValueError(f"the built-in tokenizer has no {token!r}")
    return found
