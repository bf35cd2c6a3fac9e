"""Tokens to text and back: characters are never split, stop strings are found wherever tokens end."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from diptych.domain.errors import InvalidRequest, SpecError
from diptych.server.model import load_served_model
from diptych.server.text.chat_template import ChatTemplate
from diptych.server.text.detokenize import Detokenizer
from diptych.server.text.directory import read_defaults, read_eos_ids
from diptych.server.text.stop import StopMatcher
from diptych.server.text.tokenizer import TextTokenizer
from support.tiny_model import TEMPLATE, ids_of, tiny_tokenizer

REPLACEMENT = "\ufffd"

# ---------------------------------------------------------------- detokenising


def pieces_of(token_ids: list[int], prompt: list[int] | None = None) -> list[str]:
    detokenizer = Detokenizer(tiny_tokenizer(), prompt or [], skip_special_tokens=True)
    return [*(detokenizer.step(token_id) for token_id in token_ids), detokenizer.finish()]


@given(st.text(max_size=60))
def test_pieces_add_up_and_split_no_character(text: str) -> None:
    pieces = pieces_of(ids_of(text))
    assert "".join(pieces) == text
    if REPLACEMENT not in text:
        assert all(REPLACEMENT not in piece for piece in pieces)


def test_a_character_of_several_tokens_comes_whole() -> None:
    ids = ids_of("a🙂b")
    assert len(ids) > 3
    assert [piece for piece in pieces_of(ids) if piece] == ["a", "🙂", "b"]


def test_bytes_that_are_missing_at_the_end_are_shown_as_such() -> None:
    pieces = pieces_of(ids_of("🙂")[:2])
    assert pieces[:2] == ["", ""] and pieces[2] == REPLACEMENT


@given(st.lists(st.integers(0, 319), max_size=80), st.lists(st.integers(0, 319), max_size=8))
def test_any_tokens_give_text_and_never_fail(token_ids: list[int], prompt: list[int]) -> None:
    pieces = pieces_of(token_ids, prompt)
    assert len("".join(pieces)) <= sum(len(tiny_tokenizer().token_bytes(i)) for i in token_ids)


def test_what_is_no_text_is_not_held_for_ever() -> None:
    (lone,) = (i for i in range(320) if tiny_tokenizer().token_bytes(i) == b"\x80")
    pieces = pieces_of([lone] * 100)
    assert "".join(pieces) == REPLACEMENT * 100
    assert len([piece for piece in pieces if piece]) > 1


def byte_fallback_tokenizer() -> TextTokenizer:
    vocabulary = {"<unk>": 0, "\u2581a": 1, "b": 2} | {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<unk>"))
    raw.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return TextTokenizer(raw)


def test_byte_fallback_that_takes_text_back_goes_on() -> None:
    """A broken byte behind a good character makes the library refuse: both must still come out."""
    good, broken = [3 + byte for byte in "你".encode()], [3 + 0xE5, 2]
    detokenizer = Detokenizer(byte_fallback_tokenizer(), skip_special_tokens=True)
    pieces = [detokenizer.step(token_id) for token_id in (1, *good, *broken, 2)] + [detokenizer.finish()]
    assert "".join(pieces) == f"a你{REPLACEMENT}bb"


def test_the_prompt_decides_about_the_leading_space() -> None:
    tokenizer = byte_fallback_tokenizer()
    assert Detokenizer(tokenizer, [2], skip_special_tokens=True).step(1) == " a"
    assert Detokenizer(tokenizer, [], skip_special_tokens=True).step(1) == "a"


def test_text_and_bytes_of_single_tokens() -> None:
    tokenizer = tiny_tokenizer()
    (first, *_) = ids_of("🙂")
    assert tokenizer.token_bytes(first) == "🙂".encode()[: len(tokenizer.token_bytes(first))]
    assert tokenizer.token_text(first).startswith("bytes:\\xf0")
    assert tokenizer.token_text(1) == "</s>"
    assert tokenizer.token_bytes(10**6) == b""
    fallback = byte_fallback_tokenizer()
    assert fallback.token_text(1) == " a"
    assert fallback.token_text(3 + 0xE4) == "bytes:\\xe4"


@given(st.text(max_size=40))
def test_bytes_of_tokens_add_up(text: str) -> None:
    assert b"".join(map(tiny_tokenizer().token_bytes, ids_of(text))) == text.encode()


# ---------------------------------------------------------------- stop strings

letters = st.text("abc", max_size=30)
stop_lists = st.lists(st.text("abc", min_size=1, max_size=5), min_size=1, max_size=4)


def run_stop(pieces: list[str], stops: list[str], *, include: bool) -> tuple[str, str | None, int]:
    """Text that went out, the match, and how many pieces had been read by then."""
    matcher = StopMatcher(stops, include=include)
    out, read = "", 0
    for piece in pieces:
        out += matcher.feed(piece)
        read += 1
        if matcher.matched is not None:
            return out, matcher.matched, read
    return out + matcher.finish(), None, read


def expected_stop(text: str, stops: list[str]) -> tuple[int, str] | None:
    """End and stop string by definition: the first character that completes one, the longest of them."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return end, max(found, key=len)
    return None


@given(letters, stop_lists, st.lists(st.integers(0, 30), max_size=8), st.booleans())
def test_stop_strings_do_not_depend_on_the_cuts(
    text: str, stops: list[str], cuts: list[int], include: bool
) -> None:
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[a:b] for a, b in pairwise(edges)]
    out, matched, read = run_stop(pieces, stops, include=include)
    expected = expected_stop(text, stops)
    if expected is None:
        assert (out, matched) == (text, None)
    else:
        end, stop = expected
        assert matched == stop
        assert out == (text[:end] if include else text[: end - len(stop)])
        assert read == next(i for i, edge in enumerate(edges) if edge >= end), "found with its last character"


@given(letters, stop_lists)
def test_what_goes_out_is_never_taken_back(text: str, stops: list[str]) -> None:
    matcher, out = StopMatcher(stops), ""
    for character in text:
        out += matcher.feed(character)
        assert all(stop not in out for stop in stops)
        assert text.startswith(out)


def test_text_is_held_no_longer_than_it_could_be_a_stop_string() -> None:
    matcher = StopMatcher(["END"])
    assert [matcher.feed(piece) for piece in ("on", "eE", "N", "O", "EN", "D!")] == [
        "on", "e", "", "ENO", "", ""
    ]  # fmt: skip
    assert matcher.matched == "END"


def test_without_looking_everything_passes() -> None:
    matcher = StopMatcher(["b"])
    assert matcher.feed("abc", look=False) == "abc"
    assert matcher.feed("ab") == "a" and matcher.matched == "b"


# ---------------------------------------------------------------- templates

MESSAGES = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "well "}]


def test_a_template_renders_with_special_tokens_and_extras() -> None:
    source = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{{ mood }}"
    template = ChatTemplate(source, {"bos_token": "<s>"})
    assert template.render(MESSAGES[:1], extra={"mood": "!"}) == "<s>[user]hi!"


def test_the_last_message_can_be_left_open() -> None:
    text = ChatTemplate(TEMPLATE, {}).render(
        MESSAGES, add_generation_prompt=False, continue_final_message=True
    )
    assert text.endswith("<|assistant|>well ")


def test_hub_conventions_of_templates() -> None:
    source = "{% generation %}{{ messages | tojson }}{% endgeneration %}{{ strftime_now('%Y')|length }}"
    text = ChatTemplate(source, {}).render([{"role": "user", "content": "<é>"}])
    assert text == '[{"role": "user", "content": "<é>"}]4'
    loops = "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}x{% endfor %}"
    assert ChatTemplate(loops, {}).render(MESSAGES) == "x"


def test_developer_becomes_system_where_the_template_knows_no_better() -> None:
    message = [{"role": "developer", "content": "x"}]
    assert ChatTemplate("{{ messages[0].role }}", {}).render(message) == "system"
    assert ChatTemplate("{# developer #}{{ messages[0].role }}", {}).render(message) == "developer"


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages[7].content }}",
        "{{ 1 / 0 }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages[0]['content'] + 1 }}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
    ],
)
def test_what_a_template_refuses_is_the_clients_error(source: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        ChatTemplate(source, {}).render(MESSAGES)
    assert caught.value.param == "messages"


def test_a_broken_template_is_found_when_it_is_loaded() -> None:
    with pytest.raises(SpecError, match="not valid"):
        ChatTemplate("{% for %}", {})


# ---------------------------------------------------------------- model directories


def write_model(folder: Path, **files: object) -> Path:
    (folder / "tokenizer.json").write_text(tiny_tokenizer().raw.to_str(), encoding="utf-8")
    for name, data in files.items():
        (folder / f"{name}.json").write_text(json.dumps(data), encoding="utf-8")
    return folder


def test_a_model_directory_is_read(tmp_path: Path) -> None:
    folder = write_model(
        tmp_path,
        config={"max_position_embeddings": 128, "vocab_size": 512, "eos_token_id": 9},
        tokenizer_config={"chat_template": TEMPLATE, "bos_token": {"content": "<s>"}, "eos_token": "</s>"},
        generation_config={"eos_token_id": [5, 1], "temperature": 0.6, "top_k": 20, "other": 1},
    )
    model = load_served_model(folder, names=("m",), block_tokens=16)
    assert (model.max_model_tokens, model.vocab_size, model.eos_token_ids) == (128, 512, (1, 5))
    assert model.defaults.temperature == 0.6 and model.defaults.top_p is None
    assert model.chat_template is not None
    assert (
        load_served_model(folder, names=("m",), block_tokens=16, max_model_tokens=64).max_model_tokens == 64
    )
    (folder / "chat_template.jinja").write_text("from the file", encoding="utf-8")
    own = load_served_model(folder, names=("m",), block_tokens=16).chat_template
    assert own is not None and own.render(MESSAGES) == "from the file"


def test_what_is_missing_has_a_fallback_or_a_name(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"tokenizer\.json"):
        load_served_model(tmp_path, names=("m",), block_tokens=16)
    folder = write_model(tmp_path, tokenizer_config={"eos_token": "</s>"})
    with pytest.raises(SpecError, match="max_position_embeddings"):
        load_served_model(folder, names=("m",), block_tokens=16)
    model = load_served_model(folder, names=("m",), block_tokens=16, max_model_tokens=32)
    assert model.eos_token_ids == (1,) and model.chat_template is None
    write_model(tmp_path, config={"max_position_embeddings": 16, "eos_token_id": 3})
    assert read_eos_ids(folder) == (3,)
    with pytest.raises(SpecError, match="32"):
        load_served_model(folder, names=("m",), block_tokens=16, max_model_tokens=32)


def test_defaults_out_of_range_name_their_key(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"top_p": 7}', encoding="utf-8")
    with pytest.raises(SpecError, match="top_p"):
        read_defaults(tmp_path)
    (tmp_path / "generation_config.json").write_text("[", encoding="utf-8")
    with pytest.raises(SpecError, match="not valid JSON"):
        read_defaults(tmp_path)


# ---------------------------------------------------------------- how much fits into a token


@given(st.text(max_size=200) | st.sampled_from([" " * 500, "\u03b1\u0313\u0300\u0345" * 50, "river" * 40]))
def test_no_text_has_fewer_tokens_than_its_length_says(text: str) -> None:
    nfc = Tokenizer.from_str(tiny_tokenizer().raw.to_str())
    nfc.normalizer = normalizers.NFC()
    for tokenizer in (tiny_tokenizer(), TextTokenizer(nfc)):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.most_characters is not None
        assert len(text) <= len(ids) * tokenizer.most_characters


def swallowing() -> list[Tokenizer]:
    """Tokenisers in which one token may stand for any length of text."""
    tiny = tiny_tokenizer().raw.to_str()
    strip, added, removed, unknown = (Tokenizer.from_str(tiny) for _ in range(4))
    strip.normalizer = normalizers.Strip()
    added.add_special_tokens([AddedToken("<x>", rstrip=True)])
    removed.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    unknown.pre_tokenizer = pre_tokenizers.Whitespace()
    return [strip, added, removed, unknown]


@pytest.mark.parametrize("raw", swallowing(), ids=["strip", "added", "removed", "unknown"])
def test_where_text_may_vanish_its_length_says_nothing(raw: Tokenizer) -> None:
    assert TextTokenizer(raw).most_characters is None
