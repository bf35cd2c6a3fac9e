"""Layout arithmetic and the chained hash."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.domain.errors import SpecError
from diptych.domain.kv import HASH_BYTES, KVLayout, blocks_for, extend_hashes, hash_root

ROOT = hash_root("model", "salt")
TOKENS = st.lists(st.integers(0, 200_000), max_size=40)


def layout(**changes: int | str) -> KVLayout:
    """Two layers, three heads of width 8, blocks of 16 tokens."""
    fields = {"layers": 2, "kv_heads": 3, "head_dim": 8, "block_tokens": 16, "dtype": "float32"} | changes
    return KVLayout(**fields)  # type: ignore[arg-type]


def test_sizes() -> None:
    one = layout()
    assert one.plane_block_bytes == 3 * 16 * 8 * 4
    assert one.block_bytes == 2 * 2 * one.plane_block_bytes
    assert one.token_bytes == 2 * 2 * 3 * 8 * 4
    assert one.segment_bytes(10) == 10 * one.block_bytes
    assert layout(dtype="bfloat16").block_bytes * 2 == one.block_bytes


def test_planes_fill_a_segment_without_gap_or_overlap() -> None:
    one, blocks = layout(layers=3), 5
    starts = [one.plane_offset_bytes(layer, value, blocks) for layer in range(3) for value in (False, True)]
    size = blocks * one.plane_block_bytes
    assert starts == [number * size for number in range(6)]
    assert starts[-1] + size == one.segment_bytes(blocks)


def test_llama_8b_has_128_kib_of_kv_for_a_token() -> None:
    llama = KVLayout(layers=32, kv_heads=8, head_dim=128, block_tokens=16, dtype="bfloat16")
    assert llama.token_bytes == 128 * 1024


@pytest.mark.parametrize("field", ["layers", "kv_heads", "head_dim", "block_tokens"])
def test_sizes_must_be_positive(field: str) -> None:
    with pytest.raises(SpecError, match="positive"):
        layout(**{field: 0})


def test_an_unknown_dtype_is_named() -> None:
    with pytest.raises(SpecError, match="'int4'"):
        layout(dtype="int4")


@pytest.mark.parametrize(("tokens", "blocks"), [(0, 0), (1, 1), (16, 1), (17, 2), (32, 2)])
def test_blocks_for_tokens(tokens: int, blocks: int) -> None:
    assert blocks_for(tokens, 16) == blocks


def test_a_root_depends_on_model_and_salt() -> None:
    roots = {
        hash_root("a", ""),
        hash_root("b", ""),
        hash_root("a", "b"),
        hash_root("", "a"),
        hash_root("a\x00b", ""),
    }
    assert len(roots) == 5 and all(len(root) == HASH_BYTES for root in roots)


@given(tokens=TOKENS, block_tokens=st.integers(1, 8))
def test_only_full_blocks_have_a_hash(tokens: list[int], block_tokens: int) -> None:
    hashes = extend_hashes(ROOT, tokens, block_tokens)
    assert len(hashes) == len(tokens) // block_tokens
    assert all(len(block_hash) == HASH_BYTES for block_hash in hashes)


@given(tokens=TOKENS, block_tokens=st.integers(1, 8), cut=st.integers(0, 10))
def test_hashes_can_be_extended_in_pieces(tokens: list[int], block_tokens: int, cut: int) -> None:
    """What a resumed request does: hashes of the prompt are there, the output's come behind."""
    whole = extend_hashes(ROOT, tokens, block_tokens)
    first = whole[: min(cut, len(whole))]
    parent = first[-1] if first else ROOT
    assert (*first, *extend_hashes(parent, tokens[len(first) * block_tokens :], block_tokens)) == whole


@given(tokens=st.lists(st.integers(0, 9), min_size=8, max_size=24), at=st.integers(0, 23))
def test_a_changed_token_changes_its_block_and_all_behind_it(tokens: list[int], at: int) -> None:
    at %= len(tokens)
    other = [*tokens[:at], tokens[at] + 1, *tokens[at + 1 :]]
    before, after = extend_hashes(ROOT, tokens, 4), extend_hashes(ROOT, other, 4)
    assert [old == new for old, new in zip(before, after, strict=True)] == [
        number < at // 4 for number in range(len(before))
    ]


def test_equal_blocks_in_other_places_differ() -> None:
    hashes = extend_hashes(ROOT, [1, 2, 1, 2, 1, 2], 2)
    assert len(set(hashes)) == 3


def test_hashes_are_the_same_in_every_process_and_release() -> None:
    """Workers and head compute them apart; a change of the recipe would make every cache miss."""
    assert ROOT.hex() == "05aebf57380e215bd0a04582277ce887"
    assert extend_hashes(ROOT, [1, 2, 3], 3)[0].hex() == "f54b7b0a64a48397d401fcb4964bf9f1"
