"""All variants of a tower, and the record of what was decided for each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from cliprt._errors import CheckpointError
from cliprt_export._calibration import Calibration
from cliprt_export._model import ImageSide, TextSide
from cliprt_export._precision import QUANTISED, Precision, PrecisionName
from cliprt_export._quantise import Choice, choose
from cliprt_export._towers import write_tower

Batches = Iterable[NDArray[np.uint8] | NDArray[np.int32]]


class Decisions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was decided for one variant of a tower.

    Attributes:
        islands: parts kept in float32 because of the values seen in them.
        products: for quantised variants, the choices by the name of the product's input.
    """

    islands: list[str]
    products: dict[str, Choice]


def write_variants(
    folder: Path,
    name: str,
    side: ImageSide | TextSide,
    precisions: Sequence[PrecisionName],
    peaks: dict[str, float],
    batches: Batches | None,
    producer_version: str,
) -> dict[str, Decisions]:
    """Writes ``NAME.PRECISION.onnx`` for every precision.

    Args:
        folder: where to.
        name: image or text.
        side: the tower.
        precisions: which variants.
        peaks: greatest magnitude of every step on the known answers.
        batches: what quantised variants are calibrated on: pixels, or tokens of equal length
            without filling; None if there is nothing.
        producer_version: recorded in the files.

    Returns:
        The decisions by precision.

    Raises:
        CheckpointError: a quantised variant is wanted and there is nothing to calibrate on.
    """
    calibration = None
    if set(precisions) & set(QUANTISED):
        if batches is None:
            raise CheckpointError(
                f"{', '.join(QUANTISED)} need pictures and texts like those that will be embedded; "
                "pass --calibrate FOLDER"
            )
        calibration = Calibration(side.tower)
        calibration.run(side.tensors, batches)
        peaks = {step: max(peak, calibration.peaks.get(step, 0)) for step, peak in peaks.items()}
    decisions: dict[str, Decisions] = {}
    for wanted in precisions:
        tensors, precision = side.tensors, Precision(wanted, peaks=peaks)
        choices: dict[str, Choice] = {}
        if wanted in QUANTISED and calibration is not None:
            quantisation = choose(calibration, side.tensors, wanted)
            choices, tensors = quantisation.choices, quantisation.smoothed(side.tensors)
            precision = Precision(wanted, peaks=peaks, ranges=quantisation.ranges())
        write_tower(
            folder / f"{name}.{wanted}.onnx", side.tower, tensors, producer_version, precision
        )
        decisions[wanted] = Decisions(islands=precision.islands(), products=choices)
    return decisions
