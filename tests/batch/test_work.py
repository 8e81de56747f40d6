"""Where a source is cut into parts and windows depends on its items alone."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cliprt_batch import JobOptions, _work
from cliprt_batch._items import Item, Ref
from cliprt_batch._records import PART_ITEMS
from cliprt_batch._work import Work, _picked, _with_last


def items(count: int, **values: Any) -> Iterator[tuple[int, Item]]:
    return ((row, Item(str(row), **values)) for row in range(count))


def work(window: int) -> Work:
    found = Work.__new__(Work)
    found._window = window
    return found


@given(st.integers(0, 3 * PART_ITEMS + 5), st.sampled_from([1, 7, 64, 512, 600]))
def test_parts_and_windows(count: int, window: int) -> None:
    cut = list(work(window)._cut(items(count)))
    assert [row for _, rows, _, _ in cut for row in rows] == list(range(count))
    assert all(1 <= len(rows) == len(some) <= window for _, rows, some, _ in cut)
    parts: dict[int, int] = {}
    for number, rows, _, _ in cut:
        parts[number] = parts.get(number, 0) + len(rows)
    whole, rest = divmod(count, PART_ITEMS)
    assert list(parts.values()) == [PART_ITEMS] * whole + [rest] * bool(rest)
    ends = [number for number, _, _, end in cut if end]
    assert ends == list(parts), "each part ends once"


@given(st.integers(0, 2 * PART_ITEMS), st.integers(0, 2))
def test_a_resumed_run_cuts_where_the_first_one_did(count: int, parts: int) -> None:
    whole = list(work(64)._cut(items(count)))
    first = parts * PART_ITEMS
    resumed = list(work(64)._cut(item for item in items(count) if item[0] >= first))
    assert [rows for number, rows, _, _ in whole if number >= parts] == [
        rows for _, rows, _, _ in resumed
    ]


def test_large_pictures_share_a_window_with_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_work, "_WINDOW_BYTES", 1000)
    sizes = [len(rows) for _, rows, _, _ in work(64)._cut(items(10, image=bytes(400)))]
    assert sizes == [3, 3, 3, 1]
    sizes = [len(rows) for _, rows, _, _ in work(64)._cut(items(10, image=Ref("/x", 0, 400)))]
    assert sizes == [10], "what is read by the processes takes no memory here"


@given(st.lists(st.integers()))
def test_the_last_one_is_marked(values: list[int]) -> None:
    marked = list(_with_last(iter(values)))
    assert [value for value, _ in marked] == values
    assert [last for _, last in marked] == [False] * (len(values) - 1) + [True] * bool(values)


@given(st.sets(st.integers(0, 3000), max_size=30))
def test_rows_are_picked_wherever_they_are(rows: set[int]) -> None:
    plan = SimpleNamespace(read=lambda unit, start: (Item(str(row)) for row in range(start, 3001)))
    picked = list(_picked(plan, None, sorted(rows)))  # type: ignore[arg-type]
    assert [(row, item.key) for row, item in picked] == [(row, str(row)) for row in sorted(rows)]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"towers": ()}, "towers must be"),
        ({"towers": ("audio",)}, "towers must be"),
        ({"shard_size": 0}, "at least 1"),
    ],
)
def test_options_are_checked(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        JobOptions(**wrong)
