"""What towers are measured on and calibrated on, and that the two never share an item.

Items of the user's own folder are split by their content (see ``_own_items``). What two different
files make equal in front of the tower, the same pixels or the same tokens, is left out of the
certificate as well. Drawn items stand in where the user gives none or few; those for calibration
have other seeds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from cliprt._card import ImageSpec, TextSpec
from cliprt._errors import InvalidInput
from cliprt._images import ImageInput, preprocess
from cliprt._limits import Limits
from cliprt._texts import TextTokenizer
from cliprt_export._drawn import drawn_picture, drawn_texts
from cliprt_export._own_items import (
    Labelled,
    Side,
    file_digest,
    find_lines,
    find_pictures,
    split_items,
    text_digest,
)

Inputs: TypeAlias = NDArray[np.uint8] | NDArray[np.int32]
T = TypeVar("T")


OPERATIONS = 6e11
"""Arithmetic that the reference of one tower may take by default: about 7 s on two cores. With
more, the export of a ViT-L/14 takes longer than a minute there."""

LABELLED_OPERATIONS = 2e13
"""The same for labelled pictures, which a share of right answers needs many of: some minutes."""

PICTURES, TEXTS = (6, 128), (32, 256)
"""Fewest and most items that are measured by default."""

LIMITS = Limits()

_FIRST_SEED = {"certificate": 0, "calibration": 1_000_000}

# Drawn items may turn out equal in front of a tower with a small vocabulary; there is an end to
# looking for others.
_TRIES = 2


@dataclass(frozen=True)
class Count:
    """How many items.

    Attributes:
        most: as many as there are of the user's own, up to this; and this many drawn ones if there
            are none of the user's own.
        least: fewer of the user's own are filled up with drawn ones.
        labelled: most labelled pictures. They are held in memory, so there must be an end.
    """

    most: int
    least: int = 40
    labelled: int = 2048

    def __post_init__(self) -> None:
        if self.most < 1:
            raise ValueError(f"at least one item must be measured, got {self.most}")


CALIBRATION = {"image": (32, 256), "text": (64, 512)}
"""Fewest and most items that are calibrated on; ranges change little beyond."""


@dataclass(frozen=True)
class Samples:
    """Inputs of one tower.

    Attributes:
        inputs: pixels, uint8 [n, height, width, 3], or tokens, int32 [n, context].
        lengths: tokens of each text, int64 [n]; None for pictures. Equal to the context where the
            tower sees what follows a text.
        labels: class of the first pictures, int64 [labelled]; empty if nothing is labelled.
        given: how many come from the user's folder.
        drawn: how many are drawn.
        skipped: files and texts of the user that could not be read.
    """

    inputs: Inputs
    lengths: NDArray[np.int64] | None
    labels: NDArray[np.int64]
    given: int
    drawn: int
    skipped: int

    def __len__(self) -> int:
        return len(self.inputs)

    def digests(self) -> list[str]:
        """A short identity of each input, to keep calibration and certificate apart."""
        return [_digest(row) for row in self.inputs]

    def digest(self) -> str:
        """SHA-256 of all inputs and labels: equal if the same was measured."""
        whole = hashlib.sha256()
        for part in (self.inputs, self.labels.astype("<i8")):
            whole.update(f"{part.dtype} {part.shape}".encode())
            whole.update(np.ascontiguousarray(part).data)
        return whole.hexdigest()


def default_count(operations: float, bounds: tuple[int, int]) -> Count:
    """How many items to measure, for a tower that takes so much arithmetic per item."""
    count = int(min(max(OPERATIONS / operations, bounds[0]), bounds[1]))
    labelled = int(min(max(LABELLED_OPERATIONS / operations, 128), 2048))
    return Count(count, least=min(count, 40), labelled=labelled)


def pictures(
    spec: ImageSpec,
    count: Count,
    *,
    side: Side = "certificate",
    folder: Path | None = None,
    labelled: Labelled | None = None,
    calibrated: Collection[str] = (),
) -> Samples:
    """Pixels of pictures: labelled ones, those of the user's folder, drawn ones, in this order.

    Args:
        spec: the preprocessing.
        count: how many.
        side: what they are for.
        folder: of the user, or None.
        labelled: pictures with classes, or None.
        calibrated: digests of what was calibrated on, which is left out.

    Raises:
        InvalidInput: the folder has pictures and none of them can be read, or all labelled ones
            were calibrated on.
    """
    rows = _Collected[NDArray[np.uint8]](_digest, calibrated)
    labels: list[int] = []
    read = _reader(spec)
    if labelled is not None:
        for path, label in labelled.files:
            if len(labels) < count.labelled and rows.add(path, read):
                labels.append(label)
        rows.complain_if_empty("the evaluation folder")
        if not labels:
            raise InvalidInput("every picture of the evaluation folder was calibrated on")
    if folder is not None:
        unlabelled = _Collected[NDArray[np.uint8]](_digest, {*calibrated, *rows.found})
        for path in split_items(find_pictures(folder), file_digest, side):
            if len(rows.found) + len(unlabelled.found) >= count.most:
                break
            unlabelled.add(path, read)
        if side == "calibration":
            unlabelled.complain_if_empty(str(folder))
        rows.join(unlabelled)
    given = len(rows.found) - len(labels)
    wanted = count.least if rows.found else count.most
    for seed in range(_FIRST_SEED[side], _FIRST_SEED[side] + _TRIES * wanted):
        if len(rows.found) >= wanted:
            break
        rows.add(_fitting(drawn_picture(seed), spec), read)
    return Samples(
        inputs=np.stack(list(rows.found.values())),
        lengths=None,
        labels=np.array(labels, dtype=np.int64),
        given=given,
        drawn=len(rows.found) - given - len(labels),
        skipped=rows.skipped,
    )


def texts(
    spec: TextSpec,
    tokenizer: TextTokenizer,
    count: Count,
    *,
    side: Side = "certificate",
    folder: Path | None = None,
    calibrated: Collection[str] = (),
) -> Samples:
    """Tokens of texts: those of the user's folder, then drawn ones.

    Args:
        spec: how tokens are made.
        tokenizer: makes them.
        count: how many.
        side: what they are for.
        folder: of the user, or None.
        calibrated: digests of what was calibrated on, which is left out.

    Raises:
        InvalidInput: the folder has texts and none of them can be read.
    """

    def tokens(text: str) -> NDArray[np.int32]:
        row: NDArray[np.int32] = padded(spec, tokenizer([text]))[0]
        return row

    rows = _Collected[NDArray[np.int32]](_digest, calibrated)
    if folder is not None:
        lines, unread = find_lines(folder)
        rows.skipped += unread
        for text in split_items(lines, text_digest, side):
            if len(rows.found) >= count.most:
                break
            rows.add(text, tokens)
        if side == "calibration":
            rows.complain_if_empty(str(folder))
    given = len(rows.found)
    wanted = count.least if rows.found else count.most
    for text in drawn_texts(_TRIES * wanted, _FIRST_SEED[side]):
        if len(rows.found) >= wanted:
            break
        rows.add(text, tokens)
    inputs = np.stack(list(rows.found.values()))
    return Samples(
        inputs=inputs,
        lengths=text_lengths(spec, inputs),
        labels=np.zeros(0, dtype=np.int64),
        given=given,
        drawn=len(rows.found) - given,
        skipped=rows.skipped,
    )


def padded(spec: TextSpec, ids: list[list[int]]) -> NDArray[np.int32]:
    """Tokens filled up to the context, int32 [n, context]."""
    rows = np.full((len(ids), spec.context_length), spec.pad_id, dtype=np.int32)
    for row, text in zip(rows, ids, strict=True):
        row[: len(text)] = text
    return rows


def text_lengths(spec: TextSpec, tokens: NDArray[np.int32]) -> NDArray[np.int64]:
    """How many tokens of each row a batch must keep: all where the tower sees all, int64 [n]."""
    if spec.fixed_length:
        return np.full(len(tokens), spec.context_length, dtype=np.int64)
    # The padding may have the id of the end token: what repeats the last token is one too many at
    # most, and never one too few.
    filled = tokens != spec.pad_id
    last = tokens.shape[1] - np.argmax(filled[:, ::-1], axis=1)
    return np.asarray(np.clip(last + 1, 2, tokens.shape[1]), dtype=np.int64)


class _Collected(Generic[T]):
    """Inputs found so far, each once, none of them forbidden."""

    def __init__(self, digest: Callable[[T], str], forbidden: Collection[str]) -> None:
        self.found: dict[str, T] = {}
        self.skipped = 0
        self._digest = digest
        self._forbidden = frozenset(forbidden)
        self._first_reason = ""

    def add(self, item: object, read: Callable[..., T]) -> bool:
        """Reads an item; whether it is a new one."""
        try:
            row = read(item)
        except InvalidInput as error:
            self.skipped += 1
            self._first_reason = self._first_reason or error.reason
            return False
        digest = self._digest(row)
        if digest in self.found or digest in self._forbidden:
            return False
        self.found[digest] = row
        return True

    def join(self, other: _Collected[T]) -> None:
        self.found |= other.found
        self.skipped += other.skipped

    def complain_if_empty(self, where: str) -> None:
        if not self.found and self.skipped:
            raise InvalidInput(
                f"none of the {self.skipped} items tried from {where} can be read; the first: "
                f"{self._first_reason}"
            )


def _reader(spec: ImageSpec) -> Callable[[ImageInput], NDArray[np.uint8]]:
    return lambda image: preprocess(image, spec, LIMITS)


def _fitting(picture: NDArray[np.uint8], spec: ImageSpec) -> NDArray[np.uint8]:
    """A drawn picture; repeated to the tower's size where the checkpoint does not resize."""
    if spec.resize != "none" or spec.crop != "none":
        return picture
    rows, columns = (
        -(-wanted // have)
        for wanted, have in zip((spec.height, spec.width), picture.shape[:2], strict=True)
    )
    return np.tile(picture, (rows, columns, 1))[: spec.height, : spec.width]


def _digest(row: NDArray[np.uint8] | NDArray[np.int32]) -> str:
    return hashlib.sha256(np.ascontiguousarray(row).data).hexdigest()[:16]
