"""Reads SentencePiece's model files, without SentencePiece.

The file is a protocol buffer; read here are the few fields that decide how a text is split, by
their numbers in ``sentencepiece_model.proto``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

Field: TypeAlias = "int | bytes"

_PIECES, _TRAINER, _NORMALISER = 1, 2, 3
_UNIGRAM = 1


class Kind(IntEnum):
    """What a piece is."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Piece:
    """An entry of the vocabulary.

    Attributes:
        text: what it is written as.
        score: logarithm of its probability, as stored in float32.
        kind: what it is.
    """

    text: str
    score: float
    kind: Kind


@dataclass(frozen=True)
class SentencePieceModel:
    """A unigram model.

    Attributes:
        pieces: the vocabulary, by id.
        charsmap: the compiled table of replacements, empty if there is none.
        dummy_prefix: whether a text gets a space in front.
        byte_fallback: whether unknown characters become bytes.
    """

    pieces: tuple[Piece, ...]
    charsmap: bytes
    dummy_prefix: bool
    byte_fallback: bool


def parse_sentencepiece(data: bytes) -> SentencePieceModel:
    """Parses the content of a ``.model`` file.

    Raises:
        ValueError: it is damaged, no unigram model, or has options that are not supported.
    """
    pieces: list[Piece] = []
    trainer: dict[int, Field] = {}
    normaliser: dict[int, Field] = {}
    try:
        for number, value in _fields(data):
            if number == _PIECES:
                pieces.append(_piece(dict(_fields(_bytes(value)))))
            elif number == _TRAINER:
                trainer = dict(_fields(_bytes(value)))
            elif number == _NORMALISER:
                normaliser = dict(_fields(_bytes(value)))
    except (LookupError, struct.error, UnicodeDecodeError, TypeError):
        raise ValueError("it is damaged") from None
    if not pieces:
        raise ValueError("it holds no pieces")
    if trainer.get(3, _UNIGRAM) != _UNIGRAM:
        raise ValueError("it is no unigram model; other SentencePiece models are not supported")
    # All of these are on by default, and off in no published SigLIP.
    if not normaliser.get(4, 1) or not normaliser.get(5, 1) or trainer.get(24, 0):
        raise ValueError(
            "it keeps extra spaces, does not escape them, or has them as suffixes; "
            "supported are SentencePiece's defaults"
        )
    return SentencePieceModel(
        pieces=tuple(pieces),
        charsmap=_bytes(normaliser.get(2, b"")),
        dummy_prefix=bool(normaliser.get(3, 1)),
        byte_fallback=bool(trainer.get(35, 0)),
    )


def _piece(fields: dict[int, Field]) -> Piece:
    score = struct.unpack("<f", _bytes(fields.get(2, b"\0\0\0\0")))[0]
    return Piece(_bytes(fields[1]).decode(), score, Kind(int(fields.get(3, 1))))


def _bytes(value: Field) -> bytes:
    if isinstance(value, int):
        raise TypeError("a number where bytes are due")
    return value


def _fields(data: bytes) -> Iterator[tuple[int, Field]]:
    """Numbers and values of a message's fields, as they are on the wire."""
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value: Field
            value, place = _varint(data, place)
            yield number, value
            continue
        if wire == 2:
            length, place = _varint(data, place)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise IndexError(f"wire type {wire}")
        if place + length > len(data):
            raise IndexError("cut off")
        yield number, data[place : place + length]
        place += length


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first, and the place behind it."""
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
