"""Documents packed end to end into rows of equal length.

Knows tokens and which of them the model is to produce. The rows of a step depend on the seed and the step
alone, so that a run can be taken up again anywhere.
"""

import numpy as np
from tokenizers import Tokenizer

from training.tales.chat import END, Document
from training.tales.dialogues import Mix, Talk
from training.tales.text import documents

# Longer rows than this get long passages.
SHORT = 512


def encode(tokenizer: Tokenizer, document: Document) -> tuple[list[int], list[bool]]:
    """The tokens of a document, and which of them are to be learnt."""
    end = tokenizer.token_to_id(END)
    tokens: list[int] = []
    learnt: list[bool] = []
    for turn in document:
        if turn.mark:
            tokens.append(tokenizer.token_to_id(turn.mark))
            learnt.append(False)
        body = tokenizer.encode(turn.text).ids
        tokens += [*body, end]
        learnt += [turn.learnt] * (len(body) + 1)
    return tokens, learnt


def batch(
    tokenizer: Tokenizer, talk: Talk, seed: int, size: int, length: int, mix: Mix
) -> tuple[np.ndarray, np.ndarray]:
    """`size` rows of `length` + 1 tokens, each beginning with the beginning of a document."""
    stream = documents(talk, seed, length > SHORT, mix)
    tokens = np.empty((size, length + 1), dtype=np.int64)
    learnt = np.empty((size, length + 1), dtype=bool)
    for row in range(size):
        filled = 0
        while filled <= length:
            more, flags = encode(tokenizer, next(stream))
            room = min(len(more), length + 1 - filled)
            tokens[row, filled : filled + room] = more[:room]
            learnt[row, filled : filled + room] = flags[:room]
            filled += room
    return tokens, learnt
