"""OpenCLIP's and OpenAI's tokenizer and transforms, written anew from their definition."""

from __future__ import annotations

import gzip
import html
import string
from functools import cache
from itertools import pairwise
from typing import Any

import ftfy
import numpy as np
import regex
from checkpoints import MERGES, _byte_letters
from numpy.typing import NDArray
from PIL import Image, ImageOps


class SimpleTokenizer:
    """CLIP's byte-pair encoding, one merge at a time."""

    def __init__(self, special: tuple[str, str], clean: str = "lower") -> None:
        lines = gzip.decompress(MERGES.read_bytes()).decode().splitlines()
        merges = [tuple(line.split()) for line in lines]
        letters = _byte_letters()
        words = [*letters, *(letter + "</w>" for letter in letters)]
        words += ["".join(merge) for merge in merges]
        self.ids = {word: index for index, word in enumerate([*words, *special])}
        self.ranks = {merge: rank for rank, merge in enumerate(merges)}
        byte_order = [*range(33, 127), *range(161, 173), *range(174, 256)]
        byte_order += [byte for byte in range(256) if byte not in byte_order]
        self.letters = dict(zip(byte_order, letters, strict=True))
        self.special, self.clean = special, clean
        self.pattern = regex.compile(
            "|".join(map(regex.escape, special))
            + r"|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
            regex.IGNORECASE,
        )
        self.word_ids = cache(self._word_ids)

    def __call__(self, text: str, context: int) -> list[int]:
        """Ids cut to the context and filled up with zeros."""
        start, end = (self.ids[token] for token in self.special)
        ids = [start]
        for word in self.pattern.findall(cleaned(text, self.clean)):
            ids += self.word_ids(word)
        ids.append(end)
        if len(ids) > context:
            ids = [*ids[: context - 1], end]
        return ids + [0] * (context - len(ids))

    def _word_ids(self, word: str) -> list[int]:
        if word in self.special:
            return [self.ids[word]]
        pieces = [self.letters[byte] for byte in word.encode()]
        pieces[-1] += "</w>"
        while len(pieces) > 1:
            pairs = set(pairwise(pieces))
            best = min(pairs, key=lambda pair: self.ranks.get(pair, len(self.ranks)))
            if best not in self.ranks:
                break
            merged, place = [], 0
            while place < len(pieces):
                both = tuple(pieces[place : place + 2]) == best
                merged.append("".join(best) if both else pieces[place])
                place += 1 + both
            pieces = merged
        return [self.ids[piece] for piece in pieces]


def cleaned(text: str, clean: str) -> str:
    """The library's functions of the names ``lower``, ``whitespace`` and ``canonicalize``."""
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    if clean == "canonicalize":
        text = text.replace("_", " ")
        text = "".join(letter for letter in text if letter not in string.punctuation).lower()
        return " ".join(text.split())
    text = " ".join(text.split())
    return text.lower() if clean == "lower" else text


def transformed(
    image: Image.Image, height: int, width: int, mode: str, bilinear: bool = False
) -> NDArray[np.uint8]:
    """torchvision's Resize and CenterCrop on a Pillow image, converted to RGB at the end.

    Args:
        image: in any mode.
        height: of the result.
        width: of the result.
        mode: the library's resize_mode, ``shortest`` or ``squash``.
        bilinear: rather than bicubic.
    """
    columns, rows = image.size
    if mode == "squash":
        rows, columns = height, width
    elif height == width:
        short, long = min(rows, columns), max(rows, columns)
        longer = int(height * long / short)
        rows, columns = (longer, height) if columns <= rows else (height, longer)
    else:
        ratio = min(rows / height, columns / width)
        rows, columns = round(rows / ratio), round(columns / ratio)
    kind = Image.Resampling.BILINEAR if bilinear else Image.Resampling.BICUBIC
    image = _centre(image.resize((columns, rows), kind), height, width)
    return np.asarray(image.convert("RGB"))


def _centre(image: Image.Image, height: int, width: int) -> Image.Image:
    missing = [max(width - image.width, 0), max(height - image.height, 0)]
    if any(missing):
        before = [count // 2 for count in missing]
        behind = [count - half for count, half in zip(missing, before, strict=True)]
        fill: Any = 0 if len(image.getbands()) == 1 else (0,) * len(image.getbands())
        image = ImageOps.expand(image, (*before, *behind), fill)
    top = round((image.height - height) / 2.0)
    left = round((image.width - width) / 2.0)
    return image.crop((left, top, left + width, top + height))
