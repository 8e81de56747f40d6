"""Which items share a batch depends on nothing but their places in the source.

Some runtimes compute the same numbers in every batch, which would hide it. Here each embedding
holds a checksum of its whole batch.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from batch_inputs import caption, small_pictures, write_source
from batch_runs import output
from numpy.typing import NDArray

from cliprt import Bundle, ServerError
from cliprt._card import Card
from cliprt_batch import JobOptions, embed
from cliprt_batch._source import Source


class Telling:
    """Gives all items of a batch the checksum of the batch; fails after some calls."""

    def __init__(self, card: Card, calls: int = 10**9) -> None:
        self.card, self.threads, self.window = card, 2, 64
        self.described, self.settings = {"computed": "for a test"}, dict[str, Any]()
        self._calls = calls

    def images(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._marked(len(pixels), np.ascontiguousarray(pixels).tobytes())

    def texts(self, texts: Sequence[str]) -> list[Any]:
        return list(self._marked(len(texts), "\n".join(texts).encode()))

    def stop(self) -> None:
        """Nobody waits here."""

    def _marked(self, count: int, data: bytes) -> NDArray[np.float32]:
        self._calls -= 1
        if self._calls < 0:
            raise ServerError("it is over")
        return np.full((count, self.card.dim), zlib.crc32(data) % 2**24, np.float32)


@pytest.mark.parametrize("towers", [("image",), ("text",), ("image", "text")])
def test_batches_of_an_interrupted_run(
    demo_bundle: Bundle, tmp_path: Path, towers: tuple[Any, ...]
) -> None:
    files = {f"{n:05d}.jpg": data for n, data in enumerate(small_pictures(1500).values())}
    captions = {name: caption(number) for number, name in enumerate(files)}
    for number in range(3, 1500, 40):
        files[f"{number:05d}.jpg"] = b"no picture"
    source = Source(str(write_source("jsonl", tmp_path / "source", files, captions)))
    options = JobOptions(towers=towers, shard_size=1100)
    embed(source, tmp_path / "alone", Telling(demo_bundle.card), options, workers=2)
    lives = 0
    for calls in (0, 1, 1, 9, 14, 10):
        encoder = Telling(demo_bundle.card, calls)
        try:
            embed(source, tmp_path / "out", encoder, options, workers=1 + lives % 3)
        except ServerError:
            lives += 1
    embed(source, tmp_path / "out", Telling(demo_bundle.card), options, workers=4)
    assert lives >= 3
    assert output(tmp_path / "out") == output(tmp_path / "alone")
