"""How a batch is shared out among threads, and which tokens of a text count."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cliprt._texts import real_lengths
from cliprt_engines import CpuSettings
from cliprt_triton.models._pieces import cut, take


@given(
    lengths=st.lists(st.integers(1, 77), min_size=1, max_size=128),
    workers=st.integers(1, 8),
    batch=st.integers(1, 32),
)
def test_every_item_is_in_one_piece(lengths: list[int], workers: int, batch: int) -> None:
    pieces = cut(np.array(lengths), CpuSettings(workers=workers, batch=batch))
    assert sorted(index for piece in pieces for index in piece) == list(range(len(lengths)))
    assert all(len(piece) for piece in pieces)


@pytest.mark.parametrize(
    ("items", "sizes"),
    [(1, [1]), (2, [1, 1]), (16, [8, 8]), (20, [10, 10]), (32, [8, 8, 8, 8]), (64, [8] * 8)],
)
def test_pictures_are_shared_out_evenly(items: int, sizes: list[int]) -> None:
    pieces = cut(np.ones(items, dtype=np.intp), CpuSettings(workers=2, batch=8))
    assert [len(piece) for piece in pieces] == sizes


@given(items=st.integers(1, 256), workers=st.integers(1, 8), batch=st.integers(1, 32))
def test_a_piece_is_at_most_half_as_large_again(items: int, workers: int, batch: int) -> None:
    pieces = cut(np.ones(items, dtype=np.intp), CpuSettings(workers=workers, batch=batch))
    assert max(map(len, pieces)) <= int(np.ceil(1.5 * batch))


def test_texts_are_shared_out_by_tokens_the_longest_first() -> None:
    lengths = np.array([4] * 12 + [12] * 4)
    pieces = cut(lengths, CpuSettings(workers=2, batch=8))
    assert [sorted(lengths[piece].tolist()) for piece in pieces] == [[12] * 4, [4] * 12]


def test_what_follows_the_first_end_does_not_count() -> None:
    tokens = np.array([[9, 1, 5, 5], [9, 5, 1, 5], [9, 1, 2, 3]], dtype=np.int32)
    assert real_lengths(tokens, 5).tolist() == [3, 2, 4]
    assert real_lengths(np.array([[1, 7, 3, 7]], dtype=np.int32), None).tolist() == [2]


def test_rows_that_lie_behind_each_other_are_not_copied() -> None:
    rows = np.arange(12).reshape(6, 2)
    together, apart = take(rows, np.array([2, 3, 4])), take(rows, np.array([4, 2, 3]))
    assert np.shares_memory(together, rows)
    assert together.tolist() == rows[2:5].tolist()
    assert apart.tolist() == rows[[4, 2, 3]].tolist()
