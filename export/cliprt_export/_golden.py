"""Known answers: inputs kept in the bundle with the embeddings that the original weights give."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliprt._limits import Limits
from cliprt._texts import TextTokenizer
from cliprt_export._model import ImageSide, TextSide
from cliprt_export._reference import embed

# From one token to beyond every usual context, with what tokenizers trip over.
TEXTS = (
    "a",
    "a photo of a cat",
    "Three RED circles, left of 2 blue squares!",
    "naïve café — 東京の猫 🐈",
    "a very long caption about " + "many different things and " * 40,
)


@dataclass(frozen=True)
class KnownAnswers:
    """Inputs and reference outputs of one tower.

    Attributes:
        inputs: pixels, uint8 [n, height, width, 3], or tokens, int32 [n, length].
        embeddings: float32 [n, dim], rows of length 1.
        peaks: greatest magnitude of every step on the way, by the names of ``_reference``.
    """

    inputs: NDArray[np.uint8] | NDArray[np.int32]
    embeddings: NDArray[np.float32]
    peaks: dict[str, float]


def known_answers(side: ImageSide | TextSide) -> KnownAnswers:
    """Draws the inputs of a tower and computes the reference outputs in NumPy."""
    inputs: NDArray[np.uint8] | NDArray[np.int32]
    if isinstance(side, ImageSide):
        inputs = test_pictures(side.spec.height, side.spec.width)
    else:
        tokenizer = TextTokenizer(side.tokenizer_json, side.spec, Limits())
        inputs = tokenizer.pad(tokenizer(TEXTS))
    peaks: dict[str, float] = {}

    def observe(name: str, values: NDArray[np.float32]) -> None:
        peaks[name] = float(np.abs(values).max())

    return KnownAnswers(inputs, embed(side.tower, side.tensors, inputs, observe), peaks)


def save_golden(path: Path, answers: dict[str, KnownAnswers]) -> None:
    """Writes ``golden.npz``; equal content gives equal bytes.

    Args:
        path: the file.
        answers: by tower, ``image`` and ``text``; one of them may be missing.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for tower, known in answers.items():
        arrays["pixels" if tower == "image" else "tokens"] = known.inputs
        arrays[f"{tower}_embedding"] = known.embeddings
    if "text" in answers:
        arrays["texts"] = np.array(TEXTS)
    np.savez(path, **arrays)


def test_pictures(height: int, width: int) -> NDArray[np.uint8]:
    """Four pictures made with integers alone: gradients, a checkerboard, stripes, noise.

    Returns:
        uint8 [4, height, width, 3].
    """
    y, x = np.mgrid[0:height, 0:width].astype(np.int64)
    gradient = np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)])
    board = np.stack([(x // 8 + y // 8) % 2 * 255, (x // 16 + y // 16) % 2 * 200, 0 * x + 40])
    stripes = np.stack([(x * 7) % 256, 0 * x + 128, (y * 3) % 256])
    # A multiplicative hash of the position (Knuth): noise that every machine draws alike.
    position = y * width + x
    noise = np.stack([(position * 2654435761 + c * 40503) // 2**13 % 256 for c in range(3)])
    pictures = np.stack([gradient, board, stripes, noise])
    return np.asarray(pictures.transpose(0, 2, 3, 1), dtype=np.uint8)
