"""The card: what a client must know to feed a model rightly, and which space its answers live in.

A card is written by the export into ``card.json`` of a bundle and travels with every deployment of
it, so that a client configures itself from the server it talks to.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from cliprt._errors import BundleError
from cliprt._json import UnreadableJson, read_json

SCHEMA = 2
"""Version of the card's layout. A reader refuses any other."""

# A card tells a client how much memory to take, and may come from a server that means harm. All of
# these lie far above every published model.
_MAX_SIDE = 2048
_MAX_CONTEXT = 65_536
_MAX_VOCABULARY = 2**31 - 1
_MAX_DIM = 2**20
_MAX_LOGIT = 1e9
_MAX_FILE_BYTES = 2**62


_SHA256 = re.compile(r"[0-9a-f]{64}")


class _Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A value object whose JSON form must match exactly."""


class ImageSpec(_Record, frozen=True):
    """How pixels for the image tower are made.

    The steps are those of the checkpoint's own processor: conversion to RGB, resize, centre crop.
    Scaling to 0..1 and normalisation happen inside the tower.

    Attributes:
        height: rows of the tower's input, in pixels.
        width: columns of the tower's input, in pixels.
        resize: ``shortest`` and ``cover`` keep the aspect ratio, ``squash`` does not, ``none`` does
            not resize.
        resize_height: rows after the resize; with ``shortest`` the length of the shorter side, with
            ``cover`` the rows that the picture has at least.
        resize_width: columns after the resize; equal to resize_height with ``shortest``, and the
            columns that the picture has at least with ``cover``.
        resample: Pillow's name of the resampling filter.
        crop: whether a centre crop (or zero padding, if smaller) to height x width follows, and how
            half a pixel at its corner is rounded: ``floor`` as by transformers, ``round`` to the
            even neighbour as by torchvision.
        convert: whether the conversion to RGB comes ``first`` (transformers) or ``last`` (OpenAI,
            OpenCLIP, where palettes and transparency are resized as they are).
        transparency: ``white`` composites transparent pixels over white before dropping alpha,
            ``drop`` drops alpha alone.
        mean: per channel, of pixels scaled to 0..1. Applied in the tower.
        std: per channel, of pixels scaled to 0..1. Applied in the tower.
        rescale: factor that scales a byte before mean and std. Applied in the tower.
    """

    height: int
    width: int
    resize: Literal["shortest", "cover", "squash", "none"]
    resize_height: int
    resize_width: int
    resample: Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
    crop: Literal["none", "floor", "round"]
    convert: Literal["first", "last"]
    transparency: Literal["white", "drop"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    rescale: float

    def __post_init__(self) -> None:
        sides = (self.height, self.width, self.resize_height, self.resize_width)
        if not 1 <= min(sides) <= max(sides) <= _MAX_SIDE:
            raise ValueError(f"image sides must be from 1 to {_MAX_SIDE} pixels, got {sides}")
        if self.resize == "shortest" and self.resize_height != self.resize_width:
            raise ValueError("resize 'shortest' needs one length, not two")
        if self.crop == "none":
            if self.resize in ("shortest", "cover"):
                raise ValueError(f"resize {self.resize!r} without a crop gives no fixed size")
            if self.resize == "squash" and sides[:2] != sides[2:]:
                raise ValueError("without a crop the resize must give the tower's own size")
        if min(self.std) <= 0 or self.rescale <= 0:
            raise ValueError("std and rescale must be positive")


class TextSpec(_Record, frozen=True):
    """How tokens for the text tower are made.

    Attributes:
        context_length: tokens a text may have, start and end tokens included; longer texts are cut
            so that the end token stays last.
        fixed_length: whether every text is filled up to context_length, because the tower sees what
            follows a text; otherwise a batch is cut to its longest text.
        pooling: which token's state becomes the embedding: that of the first end-of-text token
            (``end``), of the first occurrence of the highest id (``highest``, the rule of OpenAI
            and of checkpoints older than the end-of-text id in their configuration), of the
            ``first`` or the ``last`` one.
        cleaning: what happens to a string before the tokenizer sees it: nothing (``none``), or
            OpenCLIP's steps of that name: ``whitespace`` mends encodings (ftfy), resolves HTML
            entities and joins runs of whitespace; ``lower`` then lowers letters; ``canonicalize``
            mends, resolves, removes punctuation, lowers and joins. With ``siglip`` the rules of
            transformers' SiglipTokenizer surround the tokenizer (see ``_sentencepiece``).
        end_id: id of the end-of-text token.
        pad_id: id that fills up shorter texts of a batch.
        vocabulary: number of ids; valid ids are 0 <= id < vocabulary.
        zeroed_id: id that is replaced by 0 wherever a tokenizer puts it (the separator that
            OpenCLIP strips from some texts), or None.
    """

    context_length: int
    fixed_length: bool
    pooling: Literal["end", "highest", "last", "first"]
    cleaning: Literal["none", "whitespace", "lower", "canonicalize", "siglip"]
    end_id: int
    pad_id: int
    vocabulary: int
    zeroed_id: int | None = None

    def __post_init__(self) -> None:
        if not 2 <= self.context_length <= _MAX_CONTEXT:
            raise ValueError(
                f"context_length must be from 2 to {_MAX_CONTEXT}, got {self.context_length}"
            )
        if self.vocabulary > _MAX_VOCABULARY:
            raise ValueError(f"ids must fit into int32, got a vocabulary of {self.vocabulary}")
        ids = {"end_id": self.end_id, "pad_id": self.pad_id, "zeroed_id": self.zeroed_id}
        for name, value in ids.items():
            if value is not None and not 0 <= value < self.vocabulary:
                raise ValueError(f"{name} {value} lies outside the vocabulary of {self.vocabulary}")
        if self.pooling == "last" and not self.fixed_length:
            raise ValueError("pooling 'last' needs texts of a fixed length")


class FileEntry(_Record, frozen=True):
    """Identity of one file of a bundle.

    Attributes:
        sha256: SHA-256 of the content, in hexadecimal.
        size: length in bytes.
    """

    sha256: str
    size: int

    def __post_init__(self) -> None:
        # Caches make names of files of it.
        if not _SHA256.fullmatch(self.sha256) or not 0 <= self.size <= _MAX_FILE_BYTES:
            raise ValueError(f"{self.sha256[:80]!r} and {self.size} bytes are no file")


class Card(_Record, frozen=True):
    """What a model is, how it is fed, and which space its embeddings live in.

    Attributes:
        schema: version of this layout.
        name: name of the checkpoint, for people.
        family: the checkpoint family whose reader made the bundle.
        revision: commit of the hub repository the checkpoint came from, or None.
        space: identity of the embedding space. Embeddings may be compared only if it is equal.
        identity: what the space is made of: a SHA-256 for each part, weights and rules alike.
        dim: length of an embedding.
        logit_scale: factor between cosine similarity and the logits of a zero-shot classifier, or
            None where a checkpoint of a single tower has none.
        logit_bias: added to the logits of a model trained with a sigmoid loss (SigLIP), whose
            probabilities are independent of each other; None for models trained with a softmax.
        image: what the image tower takes, or None if there is none.
        text: what the text tower takes, or None if there is none.
        files: every other file of the bundle, by name.
        exporter: versions of what wrote the bundle.
    """

    schema: int
    name: str
    family: str
    revision: str | None
    space: str
    identity: dict[str, str]
    dim: int
    logit_scale: float | None
    logit_bias: float | None
    image: ImageSpec | None
    text: TextSpec | None
    files: dict[str, FileEntry]
    exporter: dict[str, str]

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise ValueError(
                f"the card has schema {self.schema}, this cliprt reads schema {SCHEMA}; "
                "export the checkpoint again or install the matching version"
            )
        if not 1 <= self.dim <= _MAX_DIM:
            raise ValueError(f"dim must be positive and at most {_MAX_DIM}, got {self.dim}")
        if self.logit_scale is not None and not 0 < self.logit_scale <= _MAX_LOGIT:
            raise ValueError(
                f"logit_scale must be above 0 and at most {_MAX_LOGIT:g}, got {self.logit_scale}"
            )
        if self.logit_bias is not None and not abs(self.logit_bias) <= _MAX_LOGIT:
            raise ValueError(f"logit_bias is beyond {_MAX_LOGIT:g}, got {self.logit_bias}")
        if self.image is None and self.text is None:
            raise ValueError("a bundle has an image tower or a text tower")


def decode_card(data: bytes | str, *, origin: str) -> Card:
    """Reads a card from JSON.

    Args:
        data: the JSON text.
        origin: where it came from, for the error message.

    Raises:
        BundleError: not JSON, of another schema, or a key is missing, unknown or of the wrong
            type; or a name holds what could steer a terminal.
    """
    try:
        card = read_json(data, Card)
    except UnreadableJson as error:
        raise BundleError(f"the card of {origin} cannot be read: {error}") from None
    for text in (card.name, card.family, card.revision or "", *card.files):
        # They are printed, and may come from anybody.
        if not text.isprintable():
            raise BundleError(f"the card of {origin} holds {text[:80]!r}, which may not be printed")
    return card


def encode_card(card: Card, *, indent: int = 0) -> bytes:
    """Writes a card as JSON, on one line or indented."""
    data = msgspec.json.encode(card)
    return msgspec.json.format(data, indent=indent) + b"\n" if indent else data
