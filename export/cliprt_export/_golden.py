"""Known answers: inputs kept in the bundle with the embeddings that the original weights give."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cliprt._limits import Limits
from cliprt._texts import TextTokenizer
from cliprt_export._model import ClipModel
from cliprt_export._reference import embed_pixels, embed_tokens

# From one token to beyond every usual context, with what tokenizers trip over.
TEXTS = (
    "a",
    "a photo of a cat",
    "Three RED circles, left of 2 blue squares!",
    "naïve café — 東京の猫 🐈",
    "a very long caption about " + "many different things and " * 40,
)


@dataclass(frozen=True)
class Golden:
    """Inputs and reference outputs of both towers.

    Attributes:
        pixels: uint8 [n, height, width, 3].
        tokens: int32 [m, length].
        image_embedding: float32 [n, dim], rows of length 1.
        text_embedding: float32 [m, dim], rows of length 1.
    """

    pixels: NDArray[np.uint8]
    tokens: NDArray[np.int32]
    image_embedding: NDArray[np.float32]
    text_embedding: NDArray[np.float32]

    def save(self, path: Path) -> None:
        """Writes ``golden.npz``; equal content gives equal bytes."""
        np.savez(
            path,
            pixels=self.pixels,
            tokens=self.tokens,
            texts=np.array(TEXTS),
            image_embedding=self.image_embedding,
            text_embedding=self.text_embedding,
        )


def make_golden(model: ClipModel) -> Golden:
    """Draws the inputs and computes the reference outputs in NumPy."""
    pixels = test_pictures(model.image.height, model.image.width)
    tokenizer = TextTokenizer(model.tokenizer_json, model.text_spec, Limits())
    tokens = tokenizer.pad(tokenizer(TEXTS))
    return Golden(
        pixels=pixels,
        tokens=tokens,
        image_embedding=embed_pixels(model.image, model.image_tensors, pixels),
        text_embedding=embed_tokens(model.text, model.text_tensors, tokens),
    )


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
