"""Inputs with their answers, and bad ones with the words that refuse them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from bad_pictures import BAD, TOO_LARGE
from cases import arrays, demo_pictures, texts
from hostile import strings
from numpy.typing import NDArray
from PIL import Image

from cliprt import Bundle, Limits
from cliprt_engines import LocalClip
from soak.books import TOLERANCE, Refusal

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden" / "demo.npz"

# Hostile strings beyond this cost more than they tell.
_MOST_CHARACTERS = 2_000

# Encoded pictures beyond this are refused by every way in, but take long to travel.
_MOST_BYTES = 100_000


@dataclass(frozen=True)
class Pool:
    """Inputs of one kind, and the embedding of each.

    Attributes:
        items: texts, encoded pictures, or uint8 arrays [height, width, 3].
        rows: float32 [n, dim].
    """

    items: Sequence[Any]
    rows: NDArray[np.float32]

    def some(self, drawn: random.Random, most: int) -> tuple[list[Any], NDArray[np.float32]]:
        """From one to ``most`` items in any order, some of them twice, and their rows."""
        places = drawn.choices(range(len(self.items)), k=drawn.randint(1, most))
        return [self.items[place] for place in places], self.rows[places]


@dataclass(frozen=True)
class Known:
    """All inputs.

    Attributes:
        texts: short, long, hostile.
        files: encoded pictures.
        arrays: decoded ones, of many sizes.
        bad_files: encoded pictures that are refused, with the words.
        bad_images: the same and more, what only a Python caller can pass.
        bad_texts: texts that are refused, with the words.
    """

    texts: Pool
    files: Pool
    arrays: Pool
    bad_files: Sequence[tuple[bytes, str]]
    bad_images: Sequence[tuple[Any, str]]
    bad_texts: Sequence[tuple[str, str]]


def known(bundle: Bundle) -> Known:
    """Draws and computes them.

    The demo's pictures and half a hundred texts have the answers of transformers, kept as golden
    files; ``LocalClip``, which must give the same ones here and now, adds those of the rest.

    Raises:
        SystemExit: it does not.
    """
    with np.load(GOLDEN) as file:
        golden = dict(file)
    files = [path.read_bytes() for path in demo_pictures()]
    given = texts(32)
    odd = [text for text in strings() if len(text) <= _MOST_CHARACTERS]
    drawn = arrays(64, 8)
    more = [encoded(array, kind) for array in drawn for kind in ("JPEG", "PNG")]
    with LocalClip(bundle) as clip:
        for found, right in (
            (clip.encode_image(files), golden["images"]),
            (clip.encode_text(given), golden["texts"]),
        ):
            if np.abs(found - right).max() > TOLERANCE:
                raise SystemExit("LocalClip does not give the golden answers; nothing to compare")
        found_odd, found_more = clip.encode_text(odd), clip.encode_image(more)
        found_drawn = clip.encode_image(drawn)
    bad = [*BAD.values(), TOO_LARGE["bomb"], TOO_LARGE["long"]]
    limit = Limits().max_text_characters
    return Known(
        Pool([*given, *odd], np.concatenate([golden["texts"], found_odd])),
        Pool([*files, *more], np.concatenate([golden["images"], found_more])),
        Pool(drawn, np.asarray(found_drawn)),
        [(one, words) for one, words in bad if isinstance(one, bytes) and len(one) <= _MOST_BYTES],
        bad,
        [("a" * (limit + 1), "max_text_characters"), ("\ud800", "surrogate")],
    )


def spoiled(
    items: Sequence[Any], bad: Sequence[tuple[Any, str]], drawn: random.Random
) -> tuple[list[Any], Refusal]:
    """The items with a bad one among them, and the refusal that names it."""
    one, words = drawn.choice(bad)
    place = drawn.randint(0, len(items))
    return [*items[:place], one, *items[place:]], Refusal(words, place)


def encoded(array: NDArray[np.uint8], kind: str) -> bytes:
    """A file of one of Pillow's kinds."""
    buffer = BytesIO()
    Image.fromarray(array).save(buffer, kind)
    return buffer.getvalue()
