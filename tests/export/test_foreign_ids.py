"""Token ids outside the vocabulary: they cost nobody else in the batch, and change nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from towers import TEXT_TOWERS, drawn_inputs, drawn_tensors

from cliprt_engines import OnnxTower
from cliprt_export._calibration import Calibration
from cliprt_export._emulation import tower_to_measure
from cliprt_export._precision import QUANTISED, Precision, PrecisionName
from cliprt_export._quantise import choose
from cliprt_export._specs import TextTower, Tower
from cliprt_export._towers import write_tower

PRECISIONS: tuple[PrecisionName, ...] = ("fp32", "fp16", "int8", "int8-cpu")
FOREIGN = (-1, -(2**31), 100, 2**31 - 1)


def write(path: Path, tower: Tower, name: PrecisionName) -> Path:
    tensors, precision = drawn_tensors(tower), Precision(name)
    if name in QUANTISED:
        calibration = Calibration(tower)
        calibration.run(tensors, drawn_inputs(tower, 12, seed=5))
        chosen = choose(calibration, tensors, name)
        precision, tensors = Precision(name, ranges=chosen.ranges()), chosen.smoothed(tensors)
    write_tower(path, tower, tensors, "test", precision)
    return path


def with_foreign_ids(tokens: NDArray[np.int32]) -> NDArray[np.int32]:
    """One such id in each row but the first, each time in another place."""
    found = tokens.copy()
    for row, bad in enumerate(FOREIGN, start=1):
        found[row, row] = bad
    return found


@pytest.mark.parametrize("name", PRECISIONS)
@pytest.mark.parametrize("kind", TEXT_TOWERS)
def test_they_count_as_the_nearest_id(kind: str, name: PrecisionName, tmp_path: Path) -> None:
    spec = TEXT_TOWERS[kind]
    assert isinstance(spec, TextTower)
    tower = tower_to_measure(write(tmp_path / "tower.onnx", spec, name), name)
    good = np.asarray(drawn_inputs(spec, len(FOREIGN) + 1), dtype=np.int32)
    tokens = with_foreign_ids(good)
    found = tower.run(tokens)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found, tower.run(np.clip(tokens, 0, spec.vocabulary - 1)))
    # Its neighbours in the batch have the answers that they always have.
    np.testing.assert_array_equal(found[0], tower.run(good)[0])


@pytest.mark.parametrize("kind", TEXT_TOWERS)
def test_answers_to_usual_ids_are_the_same_bits(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path / "tower.onnx", TEXT_TOWERS[kind], "fp32")
    model = onnx.load(path)
    bounds = [node for node in model.graph.node if node.name in ("tokens.least", "tokens.known")]
    assert [node.op_type for node in bounds] == ["Max", "Min"]
    for node in bounds:
        model.graph.node.remove(node)
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name == "tokens.known":
                node.input[place] = "tokens"
    onnx.save(model, tmp_path / "without.onnx")
    tokens = drawn_inputs(TEXT_TOWERS[kind], 8)
    expected = OnnxTower(tmp_path / "without.onnx").run(tokens)
    np.testing.assert_array_equal(OnnxTower(path).run(tokens), expected)
