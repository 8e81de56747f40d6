"""An error costs the parts under way, and nothing of those after it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from cases import demo_pictures
from numpy.typing import NDArray

from cliprt import Bundle, Limits, ServerError
from cliprt._card import Card
from cliprt_batch._items import Item, Ref
from cliprt_batch._pipeline import Chunk, Pipeline, Times


class Failing:
    """Fails as long as it is broken, once it has done some."""

    def __init__(self, card: Card) -> None:
        self.card, self.threads, self.window, self.left = card, 2, 4, 0
        self.described: dict[str, str] = {}
        self.settings: dict[str, Any] = {}

    def images(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.left -= 1
        if self.left < 0:
            raise ServerError("it is over")
        return np.full((len(pixels), self.card.dim), 0.5, np.float32)

    def texts(self, texts: Sequence[str]) -> list[Any]:
        raise AssertionError("there are none")

    def stop(self) -> None:
        """Nobody waits here."""


def chunks(unit: str, count: int) -> Iterator[Chunk[str]]:
    path = str(demo_pictures()[0])
    for first in range(0, count, 4):
        items = [Item(f"{unit}{row}", Ref(path)) for row in range(first, first + 4)]
        yield Chunk(unit, range(first, first + 4), items, ends=first % 8 == 4)


@pytest.mark.parametrize("some", [0, 1, 7])
def test_what_failed_does_not_come_back(demo_bundle: Bundle, some: int) -> None:
    encoder = Failing(demo_bundle.card)
    pipeline = Pipeline(
        encoder, towers=("image",), limits=Limits(), workers=2, fast_jpeg=False, times=Times()
    )
    told: list[int] = []
    try:
        for _ in range(4):  # more windows in all than there is room for
            encoder.left = some
            with pytest.raises(ServerError, match="it is over"):
                list(pipeline.run(chunks("a", 80), lambda items, failed: None))
        encoder.left = 10**9
        found = list(pipeline.run(chunks("b", 80), lambda items, failed: told.append(items)))
    finally:
        pipeline.close()
    assert [label for label, _ in found] == ["b"] * 10
    keys = [key for _, part in found for key in part.table("float32")["key"].to_pylist()]
    assert keys == [f"b{row}" for row in range(80)]
    assert sum(told) == 80
