"""Inputs with known answers, computed in this process from the bundle that is served."""

from __future__ import annotations

import io
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cliprt import Bundle
from cliprt_engines import CpuSettings, LocalClip

# What two runs of one float32 graph differ by, in batches of other sizes and on other threads.
_TOLERANCE = 1e-5

_COLOURS = ("red", "green", "blue", "yellow", "white", "black")
_SHAPES = ("circle", "square", "star", "ring", "triangle", "cross", "stripe", "cat")


Item = TypeVar("Item", str, bytes)


@dataclass(frozen=True)
class Golden(Generic[Item]):
    """Items of one tower and what must be answered to them.

    Attributes:
        items: texts, or encoded pictures.
        embeddings: float32 [n, dim], rows of length 1.
    """

    items: list[Item]
    embeddings: NDArray[np.float32]

    def drawn(self, choose: random.Random, most: int) -> list[int]:
        """Numbers of 1 to ``most`` items; one may occur twice."""
        return choose.choices(range(len(self.items)), k=choose.randint(1, most))

    def wrong(self, numbers: list[int], found: NDArray[np.float32]) -> str | None:
        """What is wrong with the answer to items, if anything is."""
        expected = self.embeddings[numbers]
        if found.shape != expected.shape:
            return f"an answer of the shape {list(found.shape)} to {len(numbers)} items"
        # Written so that what is no number is wrong as well.
        if not (np.abs(found - expected) <= _TOLERANCE).all():
            return f"an answer that is off by {np.abs(found - expected).max():g}"
        return None


def golden_of(bundle: Bundle) -> tuple[Golden[str], Golden[bytes]]:
    """Texts and pictures of mixed sizes, with their embeddings."""
    texts = [f"a {colour} {shape}" for colour in _COLOURS for shape in _SHAPES]
    texts += [" and ".join(texts[start : start + 5]) for start in range(16)]
    pictures = _pictures(24)
    with LocalClip(bundle, settings=CpuSettings()) as clip:
        return (
            Golden(texts, clip.encode_text(texts)),
            Golden(pictures, clip.encode_image(pictures)),
        )


def _pictures(count: int) -> list[bytes]:
    numbers = np.random.default_rng(0)
    files = []
    for number in range(count):
        height, width = numbers.integers(8, 200, 2)
        image = Image.fromarray(numbers.integers(0, 256, (height, width, 3), dtype=np.uint8))
        file = io.BytesIO()
        image.save(file, "PNG" if number % 2 else "JPEG")
        files.append(file.getvalue())
    return files


def demo_checkpoint() -> Path:
    """The checkpoint that comes with the project."""
    return Path(__file__).resolve().parent.parent.parent / "demo" / "checkpoint"
