"""The endless seeded stream of training documents.

Knows how the sorts of document are mixed and roughened. Does not know tokens.
"""

from collections.abc import Iterator
from random import Random

from training.tales.chat import Document, Turn
from training.tales.dialogues import FIRST, Mix, Talk

LONG_READING = 24


def documents(talk: Talk, seed: int, long: bool = False, mix: Mix = FIRST) -> Iterator[Document]:
    """Documents without end; `long` makes some passages fill a thousand tokens and more."""
    rng = Random(seed)
    makers, shares = zip(*mix, strict=True)
    while True:
        if long and rng.random() < 0.06:
            yield talk.read(rng, most=LONG_READING) if rng.random() < 0.9 else talk.noise(rng)
            continue
        (maker,) = rng.choices(makers, shares)
        yield roughen(rng, maker(talk, rng))


def roughen(rng: Random, document: Document) -> Document:
    """The document with short questions at times written carelessly, as people do."""
    return [_careless(rng, turn) if turn.role == "user" else turn for turn in document]


def _careless(rng: Random, turn: Turn) -> Turn:
    text = turn.text
    if len(text) > 120 or text.startswith(("Repeat", "Say this", "Please repeat")):
        return turn
    draw = rng.random()
    if draw < 0.06:
        text = text.lower()
    elif draw < 0.10:
        text = f"Please tell me: {text}"
    elif draw < 0.12:
        text = f"{text} Thank you."
    if rng.random() < 0.08:
        text = text.rstrip("?.!")
    return Turn(turn.role, text) if text else turn
