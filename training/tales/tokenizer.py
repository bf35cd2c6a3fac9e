"""The byte-level BPE tokenizer of the built-in model.

Knows how it is learnt from generated text and written as a Hugging Face tokenizer. Any text round-trips,
because every byte is a token of its own before merging.
"""

import json
from itertools import islice
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from training.tales.chat import END, PAD, SPECIALS, TEMPLATE
from training.tales.dialogues import Talk
from training.tales.text import documents

VOCAB = 2048
SAMPLE = 40_000


def learn(talk: Talk, seed: int) -> Tokenizer:
    """A tokenizer learnt from the first documents of a seed."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = (turn.text for document in islice(documents(talk, seed), SAMPLE) for turn in document)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def write(tokenizer: Tokenizer, folder: Path, longest: int) -> None:
    """The tokenizer and its settings as files of a model directory."""
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": PAD,
        "additional_special_tokens": [s for s in SPECIALS if s not in (END, PAD)],
        "clean_up_tokenization_spaces": False,
        "model_max_length": longest,
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
