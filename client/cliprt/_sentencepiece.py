"""Strings to tokens as SentencePiece makes them, and as SigLIP uses it.

``tokenizers`` differs from SentencePiece in two ways that show in real texts: it replaces
characters within graphemes only, and adds scores in another precision, so that of two equally
likely ways to split a text it may take the other one. So the search is done here, step by step as
SentencePiece does it, on the vocabulary of the bundle's ``tokenizer.json``.
"""

from __future__ import annotations

import base64
import json
import re
import string
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

SPACE = "▁"
"""What SentencePiece writes for a space."""

HIDDEN = " "
"""Ends the text of pieces that are no text, such as ``</s>``: normalised text has no space."""

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_BYTE_PIECE = re.compile("<0x[0-9A-F]{2}>")
# How much less likely than the least likely piece an unknown character is.
_UNKNOWN_PENALTY = 10.0


class SiglipTokenizer:
    """The rules of transformers' SiglipTokenizer around a SentencePiece model.

    Special tokens that stand in a text count as such; between them a text is lowered and loses its
    ASCII punctuation. Safe to use from many threads.
    """

    def __init__(self, tokenizer_json: str) -> None:
        """Loads a tokenizer.

        Args:
            tokenizer_json: content of the bundle's ``tokenizer.json``.

        Raises:
            LookupError: a part of it is missing.
            ValueError: it is no JSON.
            TypeError: a part of it is of the wrong kind.
        """
        parts = json.loads(tokenizer_json)
        self._model = Unigram(parts)
        self._special = {
            token["content"].removesuffix(HIDDEN): int(token["id"])
            for token in parts["added_tokens"]
        }
        longest_first = sorted(self._special, key=len, reverse=True)
        self._split = re.compile(f"({'|'.join(map(re.escape, longest_first))})")
        self._name = self._model.unknown_name
        self._name_length = len(self._model(self._name))

    def __call__(self, text: str) -> list[int]:
        """Ids of a text, all of them, without an end token."""
        segments = self._split.split(SPACE + text.replace(SPACE, " "))
        return [token for segment in segments for token in self._segment(segment)]

    def _segment(self, segment: str) -> list[int]:
        """Ids of a special token, or of the text between two of them.

        The reference puts the unknown token's name before such a text, so that no space is added
        in front, and drops as many pieces as the name alone has.
        """
        if segment in self._special:
            return [self._special[segment]]
        return self._model(self._name + canonical(segment))[self._name_length :]


def canonical(text: str) -> str:
    """Lower case, no ASCII punctuation, single spaces: how SigLIP's captions were prepared."""
    lowered = text.lower().translate(_NO_PUNCTUATION)
    return re.sub(r"\s+", " ", lowered).strip()


class Unigram:
    """SentencePiece's unigram model (Kudo 2018): the likeliest way to split a text into pieces."""

    def __init__(self, parts: dict[str, Any]) -> None:
        """Takes vocabulary and normalisation from the content of a ``tokenizer.json``."""
        model, normaliser = parts["model"], parts["normalizer"]
        charsmap = normaliser["precompiled_charsmap"] if normaliser else ""
        self._charsmap = CharsMap(base64.b64decode(charsmap))
        # What is put before a text.
        self._prefix = " " if parts["pre_tokenizer"]["prepend_scheme"] == "always" else ""
        self._bytes = bool(model["byte_fallback"])
        self._unknown = int(model["unk_id"])
        self._ids: dict[str, int] = {}
        self._pieces: dict[str, tuple[int, float]] = {}
        lengths: dict[str, set[int]] = {}
        for index, (text, score) in enumerate(model["vocab"]):
            self._ids[text.removesuffix(HIDDEN)] = index
            if text.endswith(HIDDEN) or (self._bytes and _BYTE_PIECE.fullmatch(text)):
                continue
            self._pieces[text] = index, float(score)
            lengths.setdefault(text[:2], set()).add(len(text))
        # Lengths of the pieces that begin with two given characters.
        self._lengths = {start: sorted(found) for start, found in lengths.items()}
        least = min(score for _, score in self._pieces.values())
        self._unknown_score = _float32(least - _UNKNOWN_PENALTY)
        self.unknown_name: str = model["vocab"][self._unknown][0].removesuffix(HIDDEN)

    def __call__(self, text: str) -> list[int]:
        """Ids of a text."""
        normalised = self._charsmap.normalised(self._prefix + text)
        ids: list[int] = []
        unknown = ""
        for piece, index in self._best(normalised):
            # A run of unknown characters is one token, named after all of them.
            if index == self._unknown and not self._bytes:
                unknown += piece
                continue
            if unknown:
                ids.append(self._ids.get(unknown, self._unknown))
                unknown = ""
            if index == self._unknown:
                ids += [self._ids[f"<0x{byte:02X}>"] for byte in piece.encode()]
            else:
                ids.append(index)
        return [*ids, self._ids.get(unknown, self._unknown)] if unknown else ids

    def _best(self, text: str) -> list[tuple[str, int]]:
        """The pieces of the best path and their ids.

        Sums are kept in float32 as by SentencePiece: where two ways are equally likely, that
        decides.
        """
        score = [0.0] * (len(text) + 1)
        reached: list[tuple[int, int] | None] = [None] * (len(text) + 1)
        for start in range(len(text)):
            here, single = score[start], False
            pair = text[start : start + 2]
            lengths = self._lengths.get(pair, ())
            if len(pair) == 2 and pair[0] in self._pieces:
                lengths = [1, *lengths]
            for length in lengths:
                found = self._pieces.get(text[start : start + length])
                if found is None or start + length > len(text):
                    continue
                index, own = found
                end, candidate = start + length, _float32(own + here)
                if reached[end] is None or candidate > score[end]:
                    score[end], reached[end] = candidate, (start, index)
                single = single or length == 1
            if not single:
                end, candidate = start + 1, _float32(self._unknown_score + here)
                if reached[end] is None or candidate > score[end]:
                    score[end], reached[end] = candidate, (start, self._unknown)
        path, end = [], len(text)
        while end:
            step = reached[end]
            assert step is not None, "every character can be reached as an unknown one"
            path.append((text[step[0] : end], step[1]))
            end = step[0]
        return path[::-1]


class CharsMap:
    """SentencePiece's replacements of characters and of sequences of them.

    Stored as a double-array trie of UTF-8 sequences (its size in bytes, then 32-bit units, all
    little-endian) and the replacements behind it, each ended by a zero byte.
    """

    def __init__(self, blob: bytes) -> None:
        """Reads the table; an empty one replaces nothing.

        Raises:
            ValueError: the table is cut off.
        """
        try:
            size = struct.unpack_from("<I", blob)[0] if blob else 0
            self._units = struct.unpack_from(f"<{size // 4}I", blob, 4) if blob else ()
        except struct.error:
            raise ValueError("the table of replacements is cut off") from None
        self._replacements = blob[4 + size :]
        # Texts of these characters alone stay as they are but for their spaces.
        self._plain = {
            code for code in range(128) if code != 32 and not any(self._matches(bytes([code]), 0))
        }

    def normalised(self, text: str) -> str:
        """Replaces the longest sequence at every place; joins spaces, drops those at the ends.

        Returns:
            The text with ``SPACE`` for spaces; a single one in front is kept as the prefix it is.
        """
        prefix = SPACE if text.startswith(" ") else ""
        data = text.encode()
        if text.isascii() and self._plain.issuperset(data.replace(b" ", b"")):
            return prefix + re.sub(" +", SPACE, text.strip(" "))
        out: list[str] = []
        # Spaces in front are dropped like those behind a space.
        after_space, place = True, 0
        while place < len(data):
            part, place = self._next(data, place)
            if after_space:
                part = part.lstrip(" ")
            if part:
                out.append(part)
                after_space = part.endswith(" ")
        return prefix + "".join(out).replace(" ", SPACE).rstrip(SPACE)

    def _next(self, data: bytes, place: int) -> tuple[str, int]:
        """The replacement of what stands at a place, or its first character, and the next place."""
        length, value = max(self._matches(data, place), default=(0, 0))
        if length:
            end = self._replacements.index(b"\0", value)
            return self._replacements[value:end].decode(), place + length
        first = data[place]
        length = 1 if first < 0x80 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4
        return data[place : place + length].decode(), place + length

    def _matches(self, data: bytes, place: int) -> Iterator[tuple[int, int]]:
        """Lengths of all sequences that start at a place, with their replacements' positions."""
        if not self._units:
            return
        node = _offset(self._units[0])
        for index in range(place, len(data)):
            node ^= data[index]
            unit = self._units[node] if node < len(self._units) else 0
            if unit & 0x800000FF != data[index]:
                return
            node ^= _offset(unit)
            if unit >> 8 & 1:
                yield index + 1 - place, self._units[node] & 0x7FFFFFFF


def _offset(unit: int) -> int:
    """How far a node's children lie from it."""
    return (unit >> 10) << ((unit & 1 << 9) >> 6)


def _float32(value: float) -> float:
    return float(np.float32(value))
