"""INT8 and FP8: what is quantised, smoothing that changes nothing, ranges that hold."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from PIL import Image
from towers import TOWERS, drawn_inputs, drawn_tensors

from cliprt._errors import CheckpointError
from cliprt_engines import OnnxTower
from cliprt_export import export_checkpoint
from cliprt_export._calibration import Calibration, products_of
from cliprt_export._emulation import tower_to_measure
from cliprt_export._precision import QUANTISED, Precision, PrecisionName
from cliprt_export._quantise import Quantisation, choose, pixel_range
from cliprt_export._reference import embed
from cliprt_export._specs import Tensors, Tower, VitTower
from cliprt_export._towers import write_tower
from pictures import pixels


def quantisation(tower: Tower, tensors: Tensors, name: PrecisionName) -> Quantisation:
    calibration = Calibration(tower)
    calibration.run(tensors, drawn_inputs(tower, 24, seed=5))
    return choose(calibration, tensors, name)


def cosines(
    folder: Path, tower: Tower, tensors: Tensors, precision: Precision, original: Tensors
) -> NDArray[np.float64]:
    """Of each item's embedding to the original weights' one."""
    path = folder / "tower.onnx"
    write_tower(path, tower, tensors, "test", precision)
    inputs = drawn_inputs(tower, 32, seed=9)
    found = tower_to_measure(path, precision.name).run(inputs)
    expected = embed(tower, original, inputs)
    return (found.astype(np.float64) * expected).sum(axis=1)


@pytest.mark.parametrize("name", QUANTISED)
@pytest.mark.parametrize("kind", TOWERS)
def test_a_quantised_tower_stays_close(kind: str, name: PrecisionName, tmp_path: Path) -> None:
    tower, tensors = TOWERS[kind], drawn_tensors(TOWERS[kind])
    chosen = quantisation(tower, tensors, name)
    assert chosen.ranges(), "nothing was quantised"
    precision = Precision(name, ranges=chosen.ranges())
    found = cosines(tmp_path, tower, chosen.smoothed(tensors), precision, tensors)
    assert found.min() > (0.97 if name == "fp8" else 0.99)
    assert found.max() < 0.9999999, "no rounding can be seen: was anything quantised?"


@pytest.mark.parametrize("kind", TOWERS)
def test_smoothing_changes_nothing_in_float32(kind: str) -> None:
    tower, tensors = TOWERS[kind], drawn_tensors(TOWERS[kind])
    chosen = quantisation(tower, tensors, "int8")
    assert chosen.factors, "nothing was smoothed"
    inputs = drawn_inputs(tower, 8)
    found = embed(tower, chosen.smoothed(tensors), inputs)
    np.testing.assert_allclose(found, embed(tower, tensors, inputs), atol=2e-6)


def test_smoothing_rescues_a_channel_of_outliers(tmp_path: Path) -> None:
    tower, tensors = TOWERS["vit"], drawn_tensors(TOWERS["vit"])

    def with_outlier(name: str) -> NDArray[np.float32]:
        array = tensors(name).copy()
        if name.endswith("norm1.weight"):
            array[3] *= 200
        elif ".attention." in name and array.ndim == 2 and ".out." not in name:
            array[:, 3] /= 200
        return array

    chosen = quantisation(tower, with_outlier, "int8")
    assert chosen.choices["blocks.1.norm1"].smoothing > 0
    precision = Precision("int8", ranges=chosen.ranges())
    smooth = cosines(tmp_path, tower, chosen.smoothed(with_outlier), precision, with_outlier)
    calibration = Calibration(tower)
    calibration.run(with_outlier, drawn_inputs(tower, 24, seed=5))
    rough = cosines(
        tmp_path,
        tower,
        with_outlier,
        Precision("int8", ranges=_whole_ranges(calibration)),
        with_outlier,
    )
    assert 1 - smooth.min() < (1 - rough.min()) / 4


def test_a_product_with_too_great_an_error_is_left_alone(tmp_path: Path) -> None:
    """One huge channel that is multiplied by nothing: 8 bits cannot hold it and all others."""
    tower, tensors = TOWERS["text, end"], drawn_tensors(TOWERS["text, end"])

    def bursting(name: str) -> NDArray[np.float32]:
        array = tensors(name).copy()
        if name == "blocks.1.mlp.up.bias":
            array[0] = 3000
        elif name == "blocks.1.mlp.down.weight":
            array[:, 0] = 0
        return array

    choices = quantisation(tower, bursting, "int8").choices
    assert not choices["blocks.1.mlp.hidden"].quantised
    assert choices["blocks.0.mlp.hidden"].quantised


def test_only_blocks_are_quantised(tmp_path: Path) -> None:
    tower, tensors = TOWERS["vit"], drawn_tensors(TOWERS["vit"])
    chosen = quantisation(tower, tensors, "int8")
    path = tmp_path / "tower.onnx"
    precision = Precision("int8", ranges=chosen.ranges())
    write_tower(path, tower, chosen.smoothed(tensors), "test", precision)
    graph = onnx.load(path).graph
    makers = {output: node for node in graph.node for output in node.output}
    stored = {tensor.name: tensor.data_type for tensor in graph.initializer}
    fed_by_integers = set()
    for node in graph.node:
        makes = [makers[name].op_type for name in node.input if name in makers]
        if "DequantizeLinear" in makes:
            assert node.op_type == "MatMul"
            assert makes.count("DequantizeLinear") == 2, "both factors are integers"
            fed_by_integers.add(node.name.split(".")[0])
    assert fed_by_integers == {"blocks"}
    assert stored["blocks.0.mlp.up.weight"] == onnx.TensorProto.INT8
    assert stored["patch.weight"] == onnx.TensorProto.FLOAT16
    assert stored["projection.weight"] == onnx.TensorProto.FLOAT
    zero_points = [t for t in graph.initializer if t.name.endswith(".zero_point")]
    assert all(not onnx.numpy_helper.to_array(tensor).any() for tensor in zero_points)


def test_every_product_of_a_tower_has_weights_and_inputs() -> None:
    for tower in TOWERS.values():
        tensors = drawn_tensors(tower)
        seen: dict[str, int] = {}
        embed(
            tower, tensors, drawn_inputs(tower, 2), lambda n, v, s=seen: s.update({n: v.shape[-1]})
        )
        for product in products_of(tower):
            for name in product.weights:
                assert tensors(name).shape[1] == seen[product.input]
            for name in product.producer:
                assert len(tensors(name)) == seen[product.input]


def test_the_sample_of_rows_is_fair() -> None:
    """Every batch of equal size has about as many rows in the sample as every other."""
    tower = TOWERS["vit"]
    calibration = Calibration(tower)
    for value in range(40):
        calibration._observe("blocks.0.norm1", np.full((2, 25, 48), value, dtype=np.float32))
    rows = calibration.rows("blocks.0.norm1")
    assert rows[0, 0] == 0
    assert rows[1, 0] == 39
    halves = (rows[2:, 0] < 20).mean()
    assert 0.3 < halves < 0.7
    assert 90 <= len(rows) <= 140


def test_calibration_is_asked_for(small_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="need pictures .* pass --calibrate FOLDER"):
        export_checkpoint(small_checkpoint, tmp_path / "bundle", precisions=["int8"])
    assert not list(tmp_path.iterdir())


def test_calibration_needs_texts_too(small_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed in range(8):
        Image.fromarray(pixels(40, 50, 3, seed=seed)).save(folder / f"{seed}.png")
    with pytest.raises(CheckpointError, match=r"holds no texts \(.txt files"):
        export_checkpoint(
            small_checkpoint, tmp_path / "bundle", precisions=["int8"], calibrate=folder
        )
    assert not (tmp_path / "bundle").exists()


def _whole_ranges(calibration: Calibration) -> dict[str, object]:
    from cliprt_export._precision import Range

    return {
        product.input: Range(
            float(calibration.rows(product.input).min()),
            float(calibration.rows(product.input).max()),
        )
        for product in calibration.products
    }


VITS = [kind for kind, tower in TOWERS.items() if isinstance(tower, VitTower)]


@pytest.mark.parametrize("kind", VITS)
def test_patches_by_products_of_integers_lose_nothing(kind: str, tmp_path: Path) -> None:
    tower = TOWERS[kind]
    assert isinstance(tower, VitTower)
    tensors, inputs = drawn_tensors(tower), drawn_inputs(tower, 8)
    ranges = pixel_range(tower, "int8-cpu")
    assert ranges, "its patches cover the picture"
    precision = Precision("int8-cpu", ranges=ranges)
    write_tower(tmp_path / "tower.onnx", tower, tensors, "0", precision)
    kinds = {node.op_type for node in onnx.load(tmp_path / "tower.onnx").graph.node}
    assert "Conv" not in kinds
    found = OnnxTower(tmp_path / "tower.onnx", threads=1).run(inputs)
    np.testing.assert_allclose(found, embed(tower, tensors, inputs), atol=2e-4)


def test_patches_stay_a_convolution_where_bytes_cannot_be_multiplied() -> None:
    tower = TOWERS[VITS[0]]
    assert isinstance(tower, VitTower)
    for name in ("fp32", "fp16", "int8", "fp8"):
        assert pixel_range(tower, name) == {}  # type: ignore[arg-type]
    uneven = dataclasses.replace(tower, height=tower.height + 1)
    assert pixel_range(uneven, "int8-cpu") == {}
    resnets = [tower for tower in TOWERS.values() if not isinstance(tower, VitTower)]
    assert all(pixel_range(tower, "int8-cpu") == {} for tower in resnets)
