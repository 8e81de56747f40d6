"""OpenAI CLIP's byte-pair vocabulary, which comes with the library and not with a checkpoint."""

from __future__ import annotations

import gzip
from pathlib import Path

WORD_END = "</w>"
"""What stands behind the last piece of a word."""

_MERGES = Path(__file__).parent / "data" / "clip_merges.txt.gz"


def read_merges() -> list[tuple[str, str]]:
    """All merges, the first to be tried first."""
    lines = gzip.decompress(_MERGES.read_bytes()).decode("utf-8").splitlines()
    return [(left, right) for left, right in (line.split(" ") for line in lines)]


def words_of(merges: list[tuple[str, str]]) -> list[str]:
    """The vocabulary of as many merges, in the order of its ids, without special tokens.

    That is: every byte, every byte at the end of a word, what each merge makes.
    """
    letters = _byte_letters()
    words = letters + [letter + WORD_END for letter in letters]
    return words + [left + right for left, right in merges]


def _byte_letters() -> list[str]:
    """The printable letter of each byte, in the order of OpenAI's vocabulary (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]
