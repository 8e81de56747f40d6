"""The certificate: how far each exported tower is from the original weights, as measured."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from cliprt._errors import FidelityError
from cliprt._extras import require
from cliprt_engines import OnnxTower
from cliprt_export._golden import KnownAnswers

SCHEMA = 1

# The least cosine that an item's embedding may have to the reference.
MIN_COSINE = {"fp32": 0.99999}


class Fidelity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One tower in one precision against the reference, over the golden inputs.

    Attributes:
        min_cosine: least cosine of an item's embedding to its reference.
        max_abs_diff: largest difference of any component.
        single_vs_batch: largest difference between an item alone and inside the batch.
        items: how many inputs were measured.
    """

    min_cosine: float
    max_abs_diff: float
    single_vs_batch: float
    items: int


class Certificate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was measured when the bundle was made.

    Attributes:
        schema: version of this layout.
        towers: fidelity by tower (``image``, ``text``) and precision (``fp32``).
        reference: what the towers were compared with.
        runtime: what ran the towers, with its version.
    """

    schema: int
    towers: dict[str, dict[str, Fidelity]]
    reference: str
    runtime: str


def certify(folder: Path, answers: dict[str, KnownAnswers]) -> Certificate:
    """Measures every float32 tower of a bundle.

    Args:
        folder: holds ``image.fp32.onnx`` and ``text.fp32.onnx``.
        answers: inputs and reference outputs by tower.

    Raises:
        FidelityError: a tower falls below the bar.
    """
    measured = {
        tower: _measure(folder / f"{tower}.fp32.onnx", known.inputs, known.embeddings)
        for tower, known in answers.items()
    }
    for tower, fidelity in measured.items():
        # Written so that NaN fails too.
        if not fidelity.min_cosine >= MIN_COSINE["fp32"]:
            raise FidelityError(
                f"the {tower} tower in fp32 has a cosine of {fidelity.min_cosine:.7f} to the "
                f"original weights, the bar is {MIN_COSINE['fp32']}; the bundle was not written"
            )
    onnxruntime = require("onnxruntime", extra="export")
    return Certificate(
        schema=SCHEMA,
        towers={tower: {"fp32": fidelity} for tower, fidelity in measured.items()},
        reference="NumPy float32 forward pass of the original weights",
        runtime=f"onnxruntime {onnxruntime.__version__} CPUExecutionProvider",
    )


def _measure(
    model: Path, inputs: NDArray[np.uint8] | NDArray[np.int32], expected: NDArray[np.float32]
) -> Fidelity:
    tower = OnnxTower(model)
    batch = tower.run(inputs)
    alone = np.concatenate([tower.run(inputs[index : index + 1]) for index in range(len(inputs))])
    cosines = (batch.astype(np.float64) * expected).sum(axis=1)
    return Fidelity(
        min_cosine=float(cosines.min()),
        max_abs_diff=float(np.abs(batch - expected).max()),
        single_vs_batch=float(np.abs(batch - alone).max()),
        items=len(inputs),
    )
