"""A served model with a tokeniser that is trained on the spot: byte-level, a few hundred tokens.

Knows: the server's view of a model. Does not know: weights, HTTP.
"""

from __future__ import annotations

from functools import cache

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from diptych.server.model import ServedModel
from diptych.server.text.chat_template import ChatTemplate
from diptych.server.text.directory import GenerationDefaults
from diptych.server.text.tokenizer import TextTokenizer

SPECIAL = ("<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
EOS = 1
SENTENCES = (
    "Once upon a time a small fox lived in the dark forest near the river.",
    "The fox said hello to the old owl, and the owl said nothing at all.",
    "Every day the children went to the river to look for the fox.",
)
TEMPLATE = (
    "<s>{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@cache
def tiny_tokenizer() -> TextTokenizer:
    """About 320 tokens; any text can be spelled, multi-byte characters as several tokens."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(SENTENCES, trainer)
    return TextTokenizer(raw)


def tiny_model(
    *,
    max_model_tokens: int = 256,
    template: str | None = TEMPLATE,
    defaults: GenerationDefaults = GenerationDefaults(),
) -> ServedModel:
    """Served as ``tiny`` and, by an alias, as ``org/tiny``."""
    tokenizer = tiny_tokenizer()
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    return ServedModel(
        names=("tiny", "org/tiny"),
        tokenizer=tokenizer,
        chat_template=None if template is None else ChatTemplate(template, special),
        defaults=defaults,
        eos_token_ids=(EOS,),
        vocab_size=tokenizer.vocab_size,
        max_model_tokens=max_model_tokens,
        block_tokens=4,
        cache_key="tiny-weights",
        created_s=1_700_000_000,
    )


def ids_of(text: str) -> list[int]:
    """Token ids of ``text`` without special tokens added."""
    return tiny_tokenizer().encode(text, add_special_tokens=False)
