"""Exported towers equal transformers and the NumPy reference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from cases import arrays
from checkpoints import SMALL, Size, write_checkpoint

from cliprt import Bundle
from cliprt_engines import OnnxTower
from cliprt_export._checkpoint import Checkpoint
from cliprt_export._hf_clip import read_hf_clip
from cliprt_export._model import ImageSide, TextSide
from cliprt_export._reference import embed
from cliprt_export._specs import VitTower
from cliprt_export._towers import fold_normalisation, write_tower

SIZES = {
    "small": SMALL,
    "gelu": replace(SMALL, act="gelu"),
    "one layer": replace(SMALL, vision_layers=1, text_layers=1),
    "odd heads": replace(SMALL, vision_width=35, vision_heads=5, text_width=33, text_heads=3),
    "patches that do not divide the side": replace(SMALL, image_size=30, patch_size=7),
    "short context": replace(SMALL, context=5),
}


def sides(folder: Path) -> tuple[ImageSide, TextSide]:
    model = read_hf_clip(Checkpoint(folder, "test"))
    assert model.image is not None
    assert model.text is not None
    return model.image, model.text


def towers(folder: Path, size: Size, **options: int) -> tuple[OnnxTower, OnnxTower]:
    for name, side in zip(
        ("image", "text"), sides(write_checkpoint(folder, size, **options)), strict=True
    ):
        write_tower(folder / f"{name}.onnx", side.tower, side.tensors, "test")
    return OnnxTower(folder / "image.onnx"), OnnxTower(folder / "text.onnx")


@pytest.mark.parametrize("name", SIZES)
def test_towers_equal_the_numpy_reference(name: str, tmp_path: Path) -> None:
    image, text = towers(tmp_path, SIZES[name])
    image_side, text_side = sides(tmp_path)
    side = SIZES[name].image_size
    pixels = np.stack([array[:side, :side] for array in arrays(5, side)])
    expected = embed(image_side.tower, image_side.tensors, pixels)
    np.testing.assert_allclose(image.run(pixels), expected, atol=2e-6)
    for length in range(2, min(SIZES[name].context, 12) + 1):
        tokens = np.full((3, length), 320, dtype=np.int32)
        tokens[:, -1] = 49407
        tokens[1, length // 2] = 49407
        expected = embed(text_side.tower, text_side.tensors, tokens)
        np.testing.assert_allclose(text.run(tokens), expected, atol=2e-6)


@pytest.mark.parametrize("end_id", [49407, 2])
def test_the_first_end_token_is_pooled_whatever_follows(end_id: int, tmp_path: Path) -> None:
    _, text = towers(tmp_path, SMALL, eos_token_id=end_id)
    short = np.array([[49406, 320, 49407]], dtype=np.int32)
    base = text.run(short)
    for tail in ([49407, 49407], [0, 0], [320, 49407], [49406, 320]):
        longer = np.concatenate([short, np.array([tail], dtype=np.int32)], axis=1)
        np.testing.assert_allclose(text.run(longer), base, atol=1e-6)


def test_without_an_end_token_the_first_position_is_pooled(tmp_path: Path) -> None:
    _, text = towers(tmp_path, SMALL)
    rows = np.array([[5, 6, 7, 8], [5, 9, 9, 9]], dtype=np.int32)
    first, second = text.run(rows)
    np.testing.assert_allclose(first, second, atol=1e-6)


def test_a_legacy_configuration_pools_the_highest_id(tmp_path: Path) -> None:
    _, text = towers(tmp_path / "old", SMALL, eos_token_id=2)
    # Added ids above the end token cannot occur here, so the end token is the highest.
    _, new = towers(tmp_path / "new", SMALL)
    tokens = np.array([[49406, 2, 320, 49407, 49407]], dtype=np.int32)
    np.testing.assert_array_equal(text.run(tokens), new.run(tokens))


def test_folded_normalisation_is_exact(small_checkpoint: Path) -> None:
    side, _ = sides(small_checkpoint)
    tower, weight = side.tower, side.tensors("patch.weight").astype(np.float64)
    assert isinstance(tower, VitTower)
    patch = arrays(1, tower.patch)[0][: tower.patch, : tower.patch].astype(np.float64)
    normal = (patch * tower.rescale - tower.mean) / tower.std
    expected = (weight * normal.transpose(2, 0, 1)).sum(axis=(1, 2, 3))
    folded, bias = fold_normalisation(tower, weight.astype(np.float32))
    found = (folded * patch.transpose(2, 0, 1)).sum(axis=(1, 2, 3)) + bias
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_an_item_alone_equals_itself_in_a_batch(small_bundle: Bundle) -> None:
    image = OnnxTower(small_bundle.file("image.fp32.onnx"))
    pixels = np.stack([array[:32, :32] for array in arrays(64, 32)])
    batch = image.run(pixels)
    alone = np.concatenate([image.run(pixels[k : k + 1]) for k in range(64)])
    np.testing.assert_allclose(batch, alone, atol=1e-6)


def test_the_contract_of_the_files(small_bundle: Bundle) -> None:
    def signature(name: str) -> list[tuple[str, int, list[str | int]]]:
        graph = onnx.load(small_bundle.file(name)).graph
        return [
            (
                value.name,
                value.type.tensor_type.elem_type,
                [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim],
            )
            for value in (*graph.input, *graph.output)
        ]

    uint8, int32, float32 = 2, 6, 1
    embedding = ("embedding", float32, ["batch", 24])
    assert signature("image.fp32.onnx") == [("pixels", uint8, ["batch", 32, 32, 3]), embedding]
    assert signature("text.fp32.onnx") == [("tokens", int32, ["batch", "length"]), embedding]


def test_a_cast_comes_right_behind_the_pixels(small_bundle: Bundle) -> None:
    graph = onnx.load(small_bundle.file("image.fp32.onnx")).graph
    assert [node.op_type for node in graph.node if "pixels" in node.input] == ["Cast"]


def test_every_node_has_a_name_of_its_own(small_bundle: Bundle) -> None:
    for name in ("image.fp32.onnx", "text.fp32.onnx"):
        names = [node.name for node in onnx.load(small_bundle.file(name)).graph.node]
        assert len(names) == len(set(names))
        assert any("blocks.1/" in name or name.startswith("blocks.1.") for name in names)
