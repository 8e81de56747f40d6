"""Calls of any length: little is held at once, computing begins at once, and the order is kept."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from cases import arrays, texts
from numpy.typing import NDArray

from cliprt import Bundle, InvalidInput, _embedder
from cliprt_engines import CpuSettings, LocalClip, OnnxTower, _feeding


class Taken:
    """Items that are made when they are asked for, and counted."""

    def __init__(self, item: object, count: int) -> None:
        self._item, self._count = item, count
        self.taken = 0

    def __iter__(self) -> Iterator[object]:
        for _ in range(self._count):
            self.taken += 1
            yield self._item


def test_texts_keep_their_order_beyond_those_sorted_together(
    small_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    strings = texts(77)[:12] * 3
    with LocalClip(small_bundle, settings=CpuSettings(batch=4)) as clip:
        expected = clip.encode_text(strings)
        monkeypatch.setattr(_embedder, "_TEXTS", 7)
        np.testing.assert_allclose(clip.encode_text(iter(strings)), expected, atol=1e-6)
        with pytest.raises(InvalidInput, match="item 30: a text must be a str") as caught:
            clip.encode_text([*strings[:30], 7, "fine"])  # type: ignore[list-item]
        assert caught.value.index == 30
        with pytest.raises(InvalidInput, match="item 20: the text has more than 77 tokens"):
            clip.encode_text(["short"] * 20 + ["word " * 90], truncate=False)


def test_computing_begins_before_all_texts_are_read(
    small_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_embedder, "_TEXTS", 16)
    strings = Taken("a b", 400)
    seen: list[int] = []
    run = OnnxTower.run

    def noting(self: OnnxTower, batch: NDArray[np.int32]) -> NDArray[np.float32]:
        seen.append(strings.taken)
        return run(self, batch)

    with LocalClip(small_bundle, settings=CpuSettings(batch=4)) as clip:
        clip.encode_text("load it")
        monkeypatch.setattr(OnnxTower, "run", noting)
        assert clip.encode_text(strings).shape == (400, clip.card.dim)  # type: ignore[arg-type]
    assert seen[0] < 400


@pytest.mark.parametrize("workers", [1, 64])
def test_few_pictures_wait_on_a_machine_of_many_cores(
    small_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(_feeding, "usable_cores", lambda: 64)
    pictures = Taken(arrays(1, 32)[0], 600)
    go_on, run = threading.Event(), OnnxTower.run

    def waiting(self: OnnxTower, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        go_on.wait(60)
        return run(self, batch)

    with LocalClip(small_bundle, settings=CpuSettings(workers=workers, batch=2)) as clip:
        clip.encode_image(arrays(1, 32))
        monkeypatch.setattr(OnnxTower, "run", waiting)
        thread = threading.Thread(target=clip.encode_image, args=(pictures,))
        thread.start()
        before = -1
        while pictures.taken != before:  # until the call waits for an answer
            before = pictures.taken
            time.sleep(0.3)
        go_on.set()
        thread.join(60)
    assert pictures.taken == 600
    # Beside those that are computed: 8 batches being prepared, 2 that wait, 4 looked at ahead.
    assert before <= 2 * (workers + 8 + 2 + 4)
