"""Errors that a caller keeps keep nothing else alive, and need no garbage collector to go."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from cliprt import Client, DeadlineExceeded, InvalidInput

COUNT = 100


class Picture(np.ndarray[Any, np.dtype[np.uint8]]):
    """An array that can be watched."""


class Watched:
    """Makes pictures and counts those that are still held."""

    def __init__(self) -> None:
        self._made: list[weakref.ref[Picture]] = []

    def pictures(self) -> Iterator[Picture]:
        for _ in range(COUNT):
            picture = np.zeros((64, 64, 3), np.uint8).view(Picture)
            self._made.append(weakref.ref(picture))
            yield picture
            del picture

    def held(self) -> int:
        return sum(made() is not None for made in self._made)


@pytest.fixture
def watched() -> Iterator[Watched]:
    gc.collect()
    gc.disable()
    yield Watched()
    gc.enable()


def test_errors_of_requests_in_the_places_of_items(client: Client, watched: Watched) -> None:
    found = client.encode_image(watched.pictures(), on_error="return", timeout_s=1e-5)
    assert {type(item) for item in found} == {DeadlineExceeded}
    assert watched.held() == 0


def test_errors_of_items_in_their_places(client: Client, watched: Watched) -> None:
    def turned() -> Iterator[Any]:
        for picture in watched.pictures():
            yield picture.transpose()
            del picture

    found = client.encode_image(turned(), on_error="return")
    assert {type(item) for item in found} == {InvalidInput}
    assert watched.held() == 0


@pytest.mark.parametrize("change", [lambda picture: picture, np.transpose])
def test_an_error_that_was_raised(
    client: Client, watched: Watched, change: Callable[[Any], Any]
) -> None:
    with pytest.raises((DeadlineExceeded, InvalidInput)):
        client.encode_image(map(change, watched.pictures()), timeout_s=1e-5)
    assert watched.held() == 0
