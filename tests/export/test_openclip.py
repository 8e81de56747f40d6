"""OpenCLIP and OpenAI checkpoints: towers, detection, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import arrays
from checkpoints import SMALL, write_checkpoint
from openclip_checkpoints import (
    OPENAI,
    PLAIN,
    TEXT,
    VARIANTS,
    draw_openclip,
    write_openai,
    write_openclip,
)
from safetensors.numpy import load_file, save_file

from cliprt import Limits
from cliprt._card import decode_card, encode_card
from cliprt._texts import TextTokenizer
from cliprt_engines import OnnxTower
from cliprt_export import export_checkpoint
from cliprt_export._checkpoint import Checkpoint
from cliprt_export._families import read_model
from cliprt_export._model import ClipModel, ImageSide, TextSide
from cliprt_export._reference import embed
from cliprt_export._space import identity_of
from cliprt_export._towers import write_tower


def read(folder: Path, family: str | None = None) -> ClipModel:
    return read_model(Checkpoint(folder, "test"), family)


def sides(folder: Path) -> tuple[ImageSide, TextSide]:
    model = read(folder)
    assert model.image is not None
    assert model.text is not None
    return model.image, model.text


def framed(height: int, width: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Pictures, one of them bright at its borders alone."""
    pictures = [array[:height, :width] for array in arrays(3, max(height, width))]
    border = np.zeros((height, width, 3), dtype=np.uint8)
    border[[0, -1]] = border[:, [0, -1]] = 255
    return np.stack([*pictures, border])


def check(folder: Path, tmp_path: Path) -> None:
    image, text = sides(folder)
    pixels = framed(image.spec.height, image.spec.width)
    length = text.spec.context_length if text.spec.fixed_length else 6
    rows = np.random.default_rng(0).integers(1, text.spec.vocabulary, (4, length), np.int32)
    rows[:, length // 2] = text.spec.end_id
    for side, inputs in ((image, pixels), (text, rows)):
        write_tower(tmp_path / "tower.onnx", side.tower, side.tensors, "test")
        expected = embed(side.tower, side.tensors, inputs)
        np.testing.assert_allclose(
            OnnxTower(tmp_path / "tower.onnx").run(inputs), expected, atol=5e-6
        )


@pytest.mark.parametrize("name", VARIANTS)
def test_towers_equal_the_numpy_reference(name: str, tmp_path: Path) -> None:
    check(write_openclip(tmp_path / "checkpoint", VARIANTS[name]), tmp_path)


@pytest.mark.parametrize("name", OPENAI)
def test_towers_of_openai_equal_the_numpy_reference(name: str, tmp_path: Path) -> None:
    check(write_openai(tmp_path / "checkpoint", OPENAI[name]), tmp_path)


@pytest.mark.parametrize("name", OPENAI)
def test_openais_sizes_come_from_its_tensors(name: str, tmp_path: Path) -> None:
    named = read(write_openclip(tmp_path / "named", OPENAI[name]))
    bare = read(write_openai(tmp_path / "bare", OPENAI[name]))
    assert (named.family, bare.family) == ("openclip", "openai")
    assert named.image is not None
    assert bare.image is not None
    assert (named.image.tower, named.image.spec) == (bare.image.tower, bare.image.spec)
    assert identity_of(named)["text tower"] == identity_of(bare)["text tower"]


def test_batch_norms_are_folded_into_the_convolutions_before_them(tmp_path: Path) -> None:
    config = VARIANTS["resnet"]
    tensors = draw_openclip(config)
    image, _ = sides(write_openclip(tmp_path, config))
    pixel = np.linspace(-1, 1, 3).astype(np.float64)
    for name, convolution, norm in (
        ("stem.conv1", "conv1", "bn1"),
        ("stages.1.0.shortcut", "layer2.0.downsample.0", "layer2.0.downsample.1"),
        ("stages.1.1.conv3", "layer2.1.conv3", "layer2.1.bn3"),
    ):
        weight = tensors[f"visual.{convolution}.weight"].astype(np.float64).sum(axis=(2, 3))
        pixel = np.linspace(-1, 1, weight.shape[1])
        gain, offset, mean, variance = (
            tensors[f"visual.{norm}.{kind}"].astype(np.float64)
            for kind in ("weight", "bias", "running_mean", "running_var")
        )
        expected = (weight @ pixel - mean) / np.sqrt(variance + 1e-5) * gain + offset
        found = image.tensors(f"{name}.weight").sum(axis=(2, 3)) @ pixel
        np.testing.assert_allclose(found + image.tensors(f"{name}.bias"), expected, atol=1e-5)


def test_names_with_and_without_the_texts_prefix_are_one_space(tmp_path: Path) -> None:
    apart = {**PLAIN, "custom_text": True}
    first = read(write_openclip(tmp_path / "plain", PLAIN))
    second = read(write_openclip(tmp_path / "apart", apart))
    assert identity_of(first) == identity_of(second)


@pytest.mark.parametrize("weights", ["open_clip_model.safetensors", "model.safetensors"])
@pytest.mark.parametrize("shards", [1, 3])
def test_weights_are_found_under_both_names(weights: str, shards: int, tmp_path: Path) -> None:
    folder = write_openclip(tmp_path / "other", PLAIN, weights=weights, shards=shards)
    expected = read(write_openclip(tmp_path / "usual", PLAIN))
    assert identity_of(read(folder)) == identity_of(expected)


def test_each_reader_reads_its_own_form_of_a_folder(tmp_path: Path) -> None:
    alone = write_checkpoint(tmp_path / "alone", SMALL)
    openclip = write_openclip(tmp_path / "openclip", PLAIN)
    both = write_checkpoint(tmp_path / "both", SMALL)
    for file in openclip.iterdir():
        shutil.copy(file, both)
    assert identity_of(read(both)) == identity_of(read(alone))
    assert identity_of(read(both, "openclip")) == identity_of(read(openclip))


def test_what_decides_numbers_is_in_the_card(tmp_path: Path) -> None:
    image, text = sides(write_openclip(tmp_path / "clipa", VARIANTS["clipa"]))
    assert (image.spec.convert, image.spec.transparency, image.spec.crop) == (
        "last",
        "drop",
        "round",
    )
    assert (text.spec.fixed_length, text.spec.pooling, text.spec.cleaning) == (
        True,
        "last",
        "whitespace",
    )
    assert (text.spec.pad_id, text.spec.zeroed_id) == (0, 3)
    image, text = sides(write_openclip(tmp_path / "wide", VARIANTS["not square"]))
    assert (image.spec.resize, image.spec.height, image.spec.width) == ("cover", 24, 40)
    assert (text.spec.fixed_length, text.spec.pooling, text.spec.cleaning) == (
        False,
        "highest",
        "lower",
    )
    assert (text.spec.end_id, text.spec.pad_id, text.spec.zeroed_id) == (49407, 0, None)


def test_a_bias_that_the_weights_lack_is_zero(tmp_path: Path) -> None:
    asked = {**PLAIN, "init_logit_bias": -10}
    assert read(write_openclip(tmp_path / "stored", asked)).logit_bias == -10
    folder = write_openclip(tmp_path / "asked", asked)
    weights = folder / "open_clip_model.safetensors"
    tensors = load_file(weights)
    del tensors["logit_bias"]
    tensors["logit_scale"] = tensors["logit_scale"].reshape(1)
    save_file(tensors, weights)
    assert read(folder).logit_bias == 0
    assert read(folder).logit_scale == pytest.approx(100, abs=0.1)
    assert read(write_openclip(tmp_path / "plain", PLAIN)).logit_bias is None


# What OpenCLIP 3.3 answers.
IDS = {
    "a photo of a cat": [320, 1125, 539, 320, 2368],
    "A  PHOTO\tof a&amp;amp;nbsp;CAT": [320, 1125, 539, 320, 2368],
    "a<end_of_text>b": [320, 49407, 321],
    "<START_OF_TEXT><end_of_text>": [49406, 49407],
    "!<end_of_text>": [0, 283, 806, 318, 539, 318, 4160, 285],
}


def test_ids_of_the_own_tokenizer(tmp_path: Path) -> None:
    _, text = sides(write_openclip(tmp_path, PLAIN))
    tokenizer = TextTokenizer(text.tokenizer_json, text.spec, Limits())
    found = {string: ids[1:-1] for string, ids in zip(IDS, tokenizer(list(IDS)), strict=True)}
    assert found == IDS


def test_steps_towards_a_special_token_never_come_out(tmp_path: Path) -> None:
    _, text = sides(write_openclip(tmp_path, PLAIN))
    tokenizer = TextTokenizer(text.tokenizer_json, text.spec, Limits())
    token = "<start_of_text>"
    parts = [token[:k] for k in range(1, 15)] + [token[k:] for k in range(15)]
    wrapped = [f"{left}{part}{right}" for part in parts for left in "<a! " for right in ">a! "]
    assert max(max(ids) for ids in tokenizer(wrapped)) <= 49407


def test_long_texts_keep_their_end_token(tmp_path: Path) -> None:
    config = {**PLAIN, "text_cfg": {**TEXT, "context_length": 7}}
    _, text = sides(write_openclip(tmp_path, config))
    tokenizer = TextTokenizer(text.tokenizer_json, text.spec, Limits())
    assert tokenizer(["a " * 9]) == [[49406, 320, 320, 320, 320, 320, 49407]]


def test_an_export_from_end_to_end(tmp_path: Path) -> None:
    folder = write_openclip(tmp_path / "checkpoint", VARIANTS["clipa"])
    bundle = export_checkpoint(str(folder), tmp_path / "bundle")
    assert bundle.card.family == "openclip"
    assert decode_card(encode_card(bundle.card), origin="here") == bundle.card
