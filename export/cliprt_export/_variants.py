"""All variants of a tower, and the record of what was decided for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np

from cliprt import __version__
from cliprt_export._calibration import Calibration
from cliprt_export._model import ImageSide, TextSide
from cliprt_export._precision import QUANTISED, Precision, PrecisionName
from cliprt_export._quantise import Choice, choose, pixel_range
from cliprt_export._samples import Inputs, Samples
from cliprt_export._towers import write_tower

# Small, because all values of a layer are in memory at once.
_BATCH = 16


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
    items: Samples | None,
    progress: Callable[[str], None] = lambda what: None,
) -> dict[str, Decisions]:
    """Writes ``NAME.PRECISION.onnx`` for every precision.

    Args:
        folder: where to.
        name: image or text.
        side: the tower.
        precisions: which variants.
        peaks: greatest magnitude of every step on the known answers.
        items: what quantised variants are calibrated on; None if there are none.
        progress: told what is under way.

    Returns:
        The decisions by precision.
    """
    calibration = None
    if items is not None:
        calibration = Calibration(side.tower)
        for done, batch in enumerate(_batches(items), start=1):
            calibration.run(side.tensors, batch)
            progress(f"calibration, batch {done}")
        peaks = {step: max(peak, calibration.peaks.get(step, 0)) for step, peak in peaks.items()}
    decisions: dict[str, Decisions] = {}
    for wanted in precisions:
        progress(wanted)
        tensors, precision = side.tensors, Precision(wanted, peaks=peaks)
        choices: dict[str, Choice] = {}
        if wanted in QUANTISED:
            assert calibration is not None, "quantised variants are calibrated"
            quantisation = choose(calibration, side.tensors, wanted)
            choices, tensors = quantisation.choices, quantisation.smoothed(side.tensors)
            ranges = quantisation.ranges() | pixel_range(side.tower, wanted)
            precision = Precision(wanted, peaks=peaks, ranges=ranges)
        path = folder / f"{name}.{wanted}.onnx"
        write_tower(path, side.tower, tensors, __version__, precision)
        decisions[wanted] = Decisions(islands=precision.islands(), products=choices)
    return decisions


def encode_decisions(decisions: dict[str, dict[str, Decisions]]) -> bytes:
    """Writes the decisions by tower and precision as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(decisions), indent=2) + b"\n"


def _batches(items: Samples) -> Iterator[Inputs]:
    """Pixels, or tokens of equal length: what fills up a text is nothing to calibrate on."""
    if items.lengths is None:
        for start in range(0, len(items), _BATCH):
            yield items.inputs[start : start + _BATCH]
        return
    for length in np.unique(items.lengths):
        rows = items.inputs[items.lengths == length, :length]
        for start in range(0, len(rows), _BATCH):
            yield rows[start : start + _BATCH]
