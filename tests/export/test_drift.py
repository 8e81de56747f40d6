"""Following a tower's values through its layers, for every kind of tower."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import onnx
import pytest
from cases import arrays
from numpy.typing import NDArray

from cliprt._card import ImageSpec, TextSpec
from cliprt_export._drift import Step, closeness, describe_drift, first_drift, layer_drift
from cliprt_export._model import ImageSide, TextSide
from cliprt_export._precision import Precision
from cliprt_export._specs import (
    ResNetTower,
    TextTower,
    Tower,
    TransformerSpec,
    VitTower,
    tower_tensors,
)
from cliprt_export._towers import write_tower

MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
BLOCKS = TransformerSpec(24, 2, 3, 96, "gelu", 1e-5)
TOWERS: dict[str, Tower] = {
    "class": VitTower(32, 24, 8, 16, BLOCKS, MEAN, STD, 1 / 255),
    "average": VitTower(32, 24, 8, 16, BLOCKS, MEAN, STD, 1 / 255, pooling="average"),
    "attention": VitTower(
        32,
        24,
        8,
        24,
        BLOCKS,
        MEAN,
        STD,
        1 / 255,
        pooling="attention",
        class_token=False,
        pre_norm=False,
        projection=False,
    ),
    "resnet": ResNetTower(64, 32, 16, 4, (1, 2, 1, 1), 4, MEAN, STD, 1 / 255),
    "causal text": TextTower(100, 9, 16, BLOCKS, "end", 99),
    "text of fixed length": TextTower(100, 9, 16, BLOCKS, "last", 99, causal=False),
}


def weights(tower: Tower, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    return {
        name: (
            rng.standard_normal(shape) / max(1, int(np.prod(shape[1:]))) ** 0.5
            + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
        ).astype(np.float32)
        for name, shape in tower_tensors(tower).items()
    }


def side(tower: Tower, tensors: dict[str, NDArray[np.float32]]) -> ImageSide | TextSide:
    # How inputs are made plays no part here.
    if isinstance(tower, TextTower):
        return TextSide(tower, tensors.__getitem__, cast(TextSpec, None), "")
    return ImageSide(tower, tensors.__getitem__, cast(ImageSpec, None))


def inputs(tower: Tower) -> NDArray[np.uint8] | NDArray[np.int32]:
    if isinstance(tower, TextTower):
        tokens = np.random.default_rng(1).integers(1, 98, (3, tower.context)).astype(np.int32)
        tokens[np.arange(3), [3, 8, 5]] = 99
        return tokens
    return np.stack([array[: tower.height, : tower.width] for array in arrays(3, 64)])


@pytest.mark.parametrize("name", TOWERS)
def test_every_step_of_a_right_tower_agrees(name: str, tmp_path: Path) -> None:
    tower = TOWERS[name]
    tensors = weights(tower)
    write_tower(tmp_path / "tower.onnx", tower, tensors.__getitem__, "test")
    steps = layer_drift(tmp_path / "tower.onnx", "fp32", side(tower, tensors), inputs(tower))
    assert len(steps) > 15
    assert {step.name: step.cosine for step in steps if not step.cosine > 0.99999} == {}


@pytest.mark.parametrize(
    ("name", "weight", "layer"),
    [
        ("class", "blocks.1.attention.value.weight", "blocks.1.attention.heads"),
        ("average", "blocks.0.norm2.weight", "blocks.0.norm2"),
        ("attention", "head.mlp.up.weight", "head.mlp.up"),
        ("resnet", "stages.1.1.conv2.weight", "stages.1.1.conv2"),
        ("causal text", "blocks.1.mlp.down.bias", "blocks.1.mlp.down"),
        ("text of fixed length", "positions", "all"),
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_layer_with_another_weight_is_named(
    name: str, weight: str, layer: str, precision: str, tmp_path: Path
) -> None:
    tower = TOWERS[name]
    right, wrong = weights(tower), weights(tower)
    wrong[weight] = wrong[weight][::-1]
    write_tower(
        tmp_path / "tower.onnx",
        tower,
        wrong.__getitem__,
        "test",
        Precision(precision),  # type: ignore[arg-type]
    )
    steps = layer_drift(tmp_path / "tower.onnx", precision, side(tower, right), inputs(tower))
    place = first_drift(steps, 0.999)
    assert place is not None
    assert steps[place].name == layer


def test_weights_beside_the_graph_are_found(tmp_path: Path) -> None:
    tower = TOWERS["class"]
    tensors = weights(tower)
    write_tower(tmp_path / "one.onnx", tower, tensors.__getitem__, "test")
    onnx.save(
        onnx.load(tmp_path / "one.onnx"),
        tmp_path / "two.onnx",
        save_as_external_data=True,
        location="two.data",
        size_threshold=1024,
    )
    assert (tmp_path / "two.data").stat().st_size > 10_000
    steps = layer_drift(tmp_path / "two.onnx", "fp32", side(tower, tensors), inputs(tower))
    assert steps == layer_drift(tmp_path / "one.onnx", "fp32", side(tower, tensors), inputs(tower))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.onnx", "two.data", "two.onnx"]


def test_the_first_step_below_the_bar_is_named() -> None:
    steps = [Step("a", 1.0), Step("b", 0.999), Step("c", 0.2)]
    assert first_drift(steps, 0.9999) == 1
    # Nothing is below: the largest drop.
    assert first_drift(steps, 0.1) == 2
    assert first_drift([Step("a", 1.0), Step("b", float("nan"))], 0.5) == 1
    assert first_drift([], 0.5) is None
    assert "first: b, which is the first below the bar (a 1.0" in describe_drift(steps, 0.9999)


def test_closeness_of_vectors() -> None:
    one: NDArray[np.float32] = np.array([[3, 4], [3, 4], [0, 0], [3, 4]], dtype=np.float32)
    other = np.array([[3, 4], [6, 8], [0, 0], [np.inf, 4]], dtype=np.float32)
    expected = [1, 1 - 25 / 100, 1, np.nan]
    np.testing.assert_allclose(closeness(one, other), expected)
