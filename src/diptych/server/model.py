"""The served model as the front end sees it.

Knows: names, tokeniser, template, limits. Does not know: weights, workers.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from diptych import __version__
from diptych.domain.errors import SpecError
from diptych.domain.ids import BlockHash, TokenId
from diptych.domain.kv import hash_root
from diptych.server.text.chat_template import ChatTemplate
from diptych.server.text.directory import (
    GenerationDefaults,
    read_chat_template,
    read_defaults,
    read_eos_ids,
    read_json,
    read_special_tokens,
)
from diptych.server.text.tokenizer import TOKENIZER_FILE, TextTokenizer
from diptych.server.wall import wall_s


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """One model under one or more names; the first is its own."""

    names: tuple[str, ...]
    tokenizer: TextTokenizer
    chat_template: ChatTemplate | None
    defaults: GenerationDefaults
    eos_token_ids: tuple[TokenId, ...]
    vocab_size: int
    """Token ids that the network knows; a tokeniser may know fewer, or more."""
    max_model_tokens: int
    """Longest prompt plus output."""
    block_tokens: int
    cache_key: str
    """Names the KV's content in block hashes: the same for equal weights and numbers only."""
    created_s: int

    @property
    def name(self) -> str:
        """The model's own name."""
        return self.names[0]

    @property
    def fingerprint(self) -> str:
        """`system_fingerprint`: changes with the model and with the version of diptych."""
        digest = blake2b(f"{self.cache_key}\x00{__version__}".encode(), digest_size=5)
        return f"fp_{digest.hexdigest()}"

    def cache_root(self, salt: str) -> BlockHash:
        """Parent of the first block's hash of a tenant."""
        return hash_root(self.cache_key, salt)


def load_served_model(
    folder: Path,
    *,
    names: tuple[str, ...],
    block_tokens: int,
    max_model_tokens: int | None = None,
    cache_key: str | None = None,
    text_folder: Path | None = None,
) -> ServedModel:
    """Read what the front end needs from a model directory.

    ``names``: at least one. ``max_model_tokens``: default and upper bound are ``max_position_embeddings``.
    ``text_folder``: where tokeniser and template come from, if not from ``folder``.
    Raises `SpecError` for a directory that can not be served.
    """
    if not names:
        raise SpecError("a served model needs at least one name")
    text_folder = text_folder or folder
    tokenizer = TextTokenizer.from_file(text_folder / TOKENIZER_FILE)
    config = read_json(folder / "config.json")
    return ServedModel(
        names=names,
        tokenizer=tokenizer,
        chat_template=read_chat_template(text_folder),
        defaults=read_defaults(folder),
        eos_token_ids=_eos_ids(folder, tokenizer),
        vocab_size=int(config.get("vocab_size") or tokenizer.vocab_size),
        max_model_tokens=_context(config.get("max_position_embeddings"), max_model_tokens),
        block_tokens=block_tokens,
        cache_key=cache_key or names[0],
        created_s=wall_s(),
    )


def _eos_ids(folder: Path, tokenizer: TextTokenizer) -> tuple[TokenId, ...]:
    if ids := read_eos_ids(folder):
        return ids
    spelled = read_special_tokens(folder).get("eos_token")
    found = None if spelled is None else tokenizer.id_of(spelled)
    return () if found is None else (found,)


def _context(of_model: int | None, wanted: int | None) -> int:
    match of_model, wanted:
        case None, None:
            raise SpecError("config.json has no max_position_embeddings: set model.max_model_tokens")
        case None, int(tokens):
            return tokens
        case int(most), None:
            return most
        case int(most), int(tokens) if tokens <= most:
            return tokens
        case _:
            raise SpecError(f"model.max_model_tokens is {wanted}, but the model can do {of_model}")
