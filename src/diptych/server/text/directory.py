"""What a model directory says about text: tokeniser, chat template, special tokens, generation defaults.

Knows: file names and formats of the Hugging Face hub. Does not know: weights, HTTP.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from diptych.domain.errors import SpecError
from diptych.domain.ids import TokenId
from diptych.server.text.chat_template import ChatTemplate

_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


class GenerationDefaults(BaseModel):
    """What ``generation_config.json`` wants where the client says nothing. None: the API's own default."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is no such file. Raises `SpecError` for anything else."""
    if not path.is_file():
        return {}
    try:
        data = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise SpecError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise SpecError(f"{path} must hold a JSON object")
    return data


def read_defaults(folder: Path) -> GenerationDefaults:
    """Sampling defaults of the model. Raises `SpecError` naming the key that is out of range."""
    try:
        return GenerationDefaults.model_validate(read_json(folder / "generation_config.json"))
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise SpecError(f"generation_config.json: {where}: {error.errors()[0]['msg']}") from None


def read_special_tokens(folder: Path) -> dict[str, str]:
    """``bos_token`` and its kin by name, as templates use them."""
    named = {**read_json(folder / "special_tokens_map.json"), **read_json(folder / "tokenizer_config.json")}
    texts = {name: _token_text(named.get(name)) for name in _NAMED_TOKENS}
    return {name: text for name, text in texts.items() if text is not None}


def read_chat_template(folder: Path) -> ChatTemplate | None:
    """The default template, or None if the model has none."""
    source = _template_source(folder)
    return None if source is None else ChatTemplate(source, read_special_tokens(folder))


def read_eos_ids(folder: Path) -> tuple[TokenId, ...]:
    """Tokens that end an output, by ``generation_config.json``, else ``config.json``; in rising order.

    Raises `SpecError` for anything that is no token id.
    """
    for name in ("generation_config.json", "config.json"):
        wanted = read_json(folder / name).get("eos_token_id")
        if wanted is not None:
            ids = wanted if isinstance(wanted, list) else [wanted]
            if not all(isinstance(token_id, int) for token_id in ids):
                raise SpecError(f"{folder / name}: eos_token_id must be a token id or a list of them")
            return tuple(sorted(set(ids)))
    return ()


def _template_source(folder: Path) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        try:
            return file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise SpecError(f"{file} is not valid UTF-8: {error}") from None
    match read_json(folder / "tokenizer_config.json").get("chat_template"):
        case str(source):
            return source
        case list(named):  # several templates; "default" is for plain chat
            return next((text for text in map(_default_template, named) if text is not None), None)
        case _:
            return None


def _default_template(named: object) -> str | None:
    match named:
        case {"name": "default", "template": str(source)}:
            return source
        case _:
            return None


def _token_text(token: object) -> str | None:
    match token:
        case str(text) | {"content": str(text)}:
            return text
        case _:
            return None
