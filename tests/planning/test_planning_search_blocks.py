"""KV blocks of a planned cluster for a workload that names blocks of its own."""

from __future__ import annotations

import pytest

from diptych.domain.errors import SpecError
from diptych.planning.search.plan import kv_block_tokens


@pytest.mark.parametrize(
    ("named", "block"), [(1, 1), (7, 7), (16, 16), (512, 512), (700, 350), (1024, 512), (1030, 206)]
)
def test_the_largest_divisor_that_is_not_too_large(named: int, block: int) -> None:
    assert kv_block_tokens(named) == block


@pytest.mark.parametrize("named", [701, 1042])
def test_blocks_that_can_not_be_cut_name_the_remedy(named: int) -> None:
    with pytest.raises(SpecError, match=rf"{named} tokens.*--to-block-tokens 512"):
        kv_block_tokens(named)
