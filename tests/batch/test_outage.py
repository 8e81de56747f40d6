"""A source that is gone ends a run; bad items do not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cliprt import DeploymentError
from cliprt_batch._decode_process import Seen
from cliprt_batch._items import Item, Ref
from cliprt_batch._outage import IN_A_ROW, Outage
from cliprt_batch._outcome import Part
from cliprt_batch._records import PART_ITEMS

READ, GONE, DAMAGED, NO_PICTURE, FAULT = "read", "gone", "damaged", "no picture", "fault"
TRIED = (READ, GONE, DAMAGED)


def part_of(kinds: Sequence[str], first: int = 0) -> Part:
    """A finished part of items of these kinds, whose keys are numbered from one on."""
    part = Part(("image",), 2)
    items = [
        Item(
            f"k{first + number}",
            None if kind == NO_PICTURE else Ref(f"/mnt/{first + number}.jpg"),
            fault="the line is no JSON" if kind == FAULT else None,
        )
        for number, kind in enumerate(kinds)
    ]
    pictures = part.add(range(first, first + len(kinds)), items)
    seen = {
        READ: Seen(8, 8, "00"),
        GONE: Seen(stage="read", reason="the disk is gone"),
        DAMAGED: Seen(sha256="00", stage="decode", reason="no picture"),
    }
    # Those of the second half first: windows need not come in order.
    places = sorted(pictures, key=lambda place: (place < len(kinds) // 2, place))
    found = [seen[kinds[place]] for place in places]
    good = sum(one.stage is None for one in found)
    part.take_pictures(places, found, np.ones((good, 2), np.float32))
    return part


def fails_at(parts: Sequence[Sequence[str]], *, keep_going: bool = False) -> int | None:
    """Which part a run ends at, from 0; None where none does."""
    outage, first = Outage(keep_going), 0
    for number, kinds in enumerate(parts):
        try:
            outage.look(part_of(kinds, first))
        except DeploymentError:
            return number
        first += len(kinds)
    return None


def test_two_whole_parts_that_cannot_be_read_end_a_run() -> None:
    assert fails_at([[READ] * 512, [GONE] * 512, [GONE] * 511 + [READ]]) is None
    assert fails_at([[READ] * 512, [GONE] * 512, [GONE] * 512]) == 2
    assert IN_A_ROW == 2 * PART_ITEMS == 1024


def test_the_row_goes_over_parts_of_any_size() -> None:
    assert fails_at([[GONE] * 100] * 10) is None
    assert fails_at([[GONE] * 100] * 11) == 10
    assert fails_at([[READ] + [GONE] * 511, [], [GONE] * 512]) is None
    assert fails_at([[READ] + [GONE] * 511, [], [GONE] * 512, [], [GONE]]) == 4


@pytest.mark.parametrize("other", [READ, DAMAGED])
def test_a_picture_that_was_read_ends_the_row(other: str) -> None:
    assert fails_at([[GONE] * 511 + [other], [GONE] * 512, [GONE] * 511 + [other]] * 3) is None


@pytest.mark.parametrize("other", [NO_PICTURE, FAULT])
def test_items_without_a_picture_to_read_neither_count_nor_end_the_row(other: str) -> None:
    assert fails_at([[other] * 512] * 4) is None
    assert fails_at([[GONE, other] * 256] * 3) is None
    assert fails_at([[GONE, other] * 256] * 4) == 3


def test_all_that_fails_may_be_taken_for_failed() -> None:
    assert fails_at([[GONE] * 512] * 4, keep_going=True) is None


def test_captions_alone_are_no_outage() -> None:
    part = Part(("text",), 2)
    part.add(range(2000), [Item(f"k{row}", fault="no line") for row in range(2000)])
    Outage(keep_going=False).look(part)


def test_the_message_has_the_first_reason_and_what_to_do() -> None:
    outage = Outage(keep_going=False)
    outage.look(part_of([READ, GONE, READ] + [GONE] * 509))
    with pytest.raises(DeploymentError) as caught:
        outage.look(part_of([GONE] * 515, 512))
    message = str(caught.value)
    assert message.startswith(
        "the last 1,024 pictures could not be read, the first of them, 'k3', for this reason: "
        "the disk is gone; is the disk mounted"
    )
    for way in ("the same command goes on", "--retry-failed", "--keep-going"):
        assert way in message


@given(st.lists(st.lists(st.sampled_from([GONE, FAULT, READ]), max_size=3), max_size=6))
def test_only_the_order_of_items_counts(counts: list[list[str]]) -> None:
    # Each kind stands for 300 items, so that rows of either length are drawn.
    parts = [[kind for kind in kinds for _ in range(300)] for kinds in counts]
    tried = "".join("x" if kind == GONE else "." for kinds in parts for kind in kinds
                    if kind in TRIED)  # fmt: skip
    assert (fails_at(parts) is not None) == ("x" * IN_A_ROW in tried)
