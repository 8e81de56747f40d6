"""Known answers: inputs kept in the bundle with the embeddings that the original weights give."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliprt._limits import Limits
from cliprt._texts import TextTokenizer
from cliprt_export._drawn import known_pictures
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
        inputs = known_pictures(side.spec.height, side.spec.width)
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
