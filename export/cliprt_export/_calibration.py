"""What 8-bit precisions are calibrated on, and where their ranges come from."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from cliprt._errors import CheckpointError
from cliprt._texts import TextTokenizer
from cliprt_export._golden import KnownAnswers
from cliprt_export._model import ImageSide, TextSide
from cliprt_export._precision import Precision, PrecisionName
from cliprt_export._samples import CALIBRATION, LIMITS, Samples, pictures, texts

Calibration: TypeAlias = Samples
"""Inputs of one tower that are calibrated on; the certificate leaves them out."""


def calibration_items(side: ImageSide | TextSide, folder: Path | None) -> Calibration:
    """The items that a tower is calibrated on.

    Args:
        side: the tower and its preprocessing.
        folder: the user's pictures and texts; None, or one that holds none for this tower, leaves
            items drawn by cliprt, others than those of the certificate.

    Raises:
        InvalidInput: the folder has items for this tower and none of them can be read.
    """
    if isinstance(side, ImageSide):
        return pictures(side.spec, CALIBRATION["image"], side="calibration", folder=folder)
    tokenizer = TextTokenizer(side.tokenizer_json, side.spec, LIMITS)
    return texts(side.spec, tokenizer, CALIBRATION["text"], side="calibration", folder=folder)


def calibrated_precision(
    name: PrecisionName,
    side: ImageSide | TextSide,
    answers: KnownAnswers,
    calibration: Calibration | None,
) -> Precision:
    """A precision with what it needs to know about a tower.

    Args:
        name: which one.
        side: the tower.
        answers: what the known answers showed on the way.
        calibration: items to measure ranges on; None for precisions that need none.

    Raises:
        CheckpointError: the precision cannot be made.
    """
    if calibration is not None and name.startswith("int8"):
        raise CheckpointError(f"the precision {name} cannot be written yet; use fp32 or fp16")
    return Precision(name, peaks=answers.peaks)
