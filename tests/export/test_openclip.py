"""OpenCLIP and OpenAI checkpoints: towers, detection, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import arrays
from checkpoints import SMALL, write_checkpoint
from openclip_checkpoints import (
    CLIPA,
    OPENAI,
    PLAIN,
    RESNET,
    TEXT,
    VARIANTS,
    VIT,
    Config,
    draw_openclip,
    write_openai,
    write_openclip,
)
from safetensors.numpy import load_file, save_file

from cliprt import CheckpointError, Limits
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


def vision(**changes: Any) -> Config:
    return {**PLAIN, "vision_cfg": {**VIT, **changes}}


def text(**changes: Any) -> Config:
    return {**PLAIN, "text_cfg": {**TEXT, **changes}}


REFUSED_CONFIGURATIONS: dict[str, tuple[Config, str]] = {
    "timm": (vision(timm_model_name="vit_base_patch16_224"), "timm_model_name = 'vit_base"),
    "transformers": (text(hf_model_name="roberta-base"), "hf_model_name = 'roberta-base'"),
    "attentional pooling": (vision(attentional_pool=True), "attentional_pool = True"),
    "coca": ({**PLAIN, "multimodal_cfg": {"width": 8}}, "multimodal_cfg"),
    "coca's text": (text(embed_cls=True), "embed_cls = True"),
    "other attention": (vision(qk_norm=True), "qk_norm = True"),
    "other blocks": (text(block_type="custom"), "block_type = 'custom'"),
    "clips": (text(tokenizer_mode="clips"), "tokenizer_mode = 'clips'"),
    "unknown key": (vision(rotary=True), "vision_cfg has an unknown key, rotary = True"),
    "unknown key of the model": ({**PLAIN, "sigmoid": 1}, "model_cfg has an unknown key"),
    "image pooling": (vision(pool_type="none"), "pool_type = 'none'; supported: tok, avg"),
    "text pooling": (text(pool_type="mean"), "supported: argmax, eos, first, last"),
    "projection": (text(proj_type="mlp"), "proj_type = 'mlp'; supported: linear, none"),
    "positions": (vision(pos_embed_type="rope"), "pos_embed_type = 'rope'"),
    "activation": (vision(act_kwargs={"approximate": "sigmoid"}), "act_kwargs"),
    "activation, quick": (
        {**vision(act_kwargs={"approximate": "tanh"}), "quick_gelu": True},
        "act",
    ),
    "norm": (text(norm_kwargs={"elementwise_affine": False}), "norm_kwargs"),
    "patches": (vision(patch_size=[8, 4]), "patches of 8 x 4"),
    "heads": (vision(head_width=9), "not divisible by 5 heads"),
    "projectionless": (text(proj_type="none"), "has the width 32, not 24"),
    "no sizes": ({"embed_dim": 24, "vision_cfg": VIT}, "no usable text_cfg"),
    "no model": ({}, "no usable vision_cfg"),
    "stages": ({**PLAIN, "vision_cfg": {**RESNET, "layers": [1, 2]}}, "configuration of test"),
    "side": ({**PLAIN, "vision_cfg": {**RESNET, "image_size": 70}}, "divisible by 32"),
    "cleaning": (text(tokenizer_kwargs={"clean": "whitespace"}), "supported: clean"),
    "masking": (text(tokenizer_kwargs={"reduction_mask": "simple"}), "reduction_mask"),
    "another context": (text(tokenizer_kwargs={"context_length": 9}), "another context_length"),
    "vocabulary": (text(vocab_size=1000), "makes ids up to 49407"),
}


@pytest.mark.parametrize(
    ("config", "message"), REFUSED_CONFIGURATIONS.values(), ids=REFUSED_CONFIGURATIONS
)
def test_what_is_not_supported_is_refused(config: Config, message: str, tmp_path: Path) -> None:
    write_openclip(tmp_path, PLAIN)
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    with pytest.raises(CheckpointError, match=message.replace("[", r"\[")) as caught:
        read(tmp_path)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    ("preprocess", "message"),
    [
        ({"resize_mode": "longest"}, "resize_mode = 'longest'; supported: shortest, squash"),
        ({"interpolation": "lanczos"}, "interpolation = 'lanczos'"),
        ({"mode": "L"}, "mode = 'L'; supported: RGB"),
        ({"std": [0, 1, 1]}, "std and rescale must be positive"),
        ({"mean": [0.5]}, "not usable"),
    ],
)
def test_preprocessing_that_is_not_supported_is_refused(
    preprocess: Config, message: str, tmp_path: Path
) -> None:
    folder = write_openclip(tmp_path, PLAIN, preprocess=preprocess)
    with pytest.raises(CheckpointError, match=message):
        read(folder)


def _without(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda tensors: tensors.pop(name) is None


def _with(name: str, array: Any) -> Callable[[dict[str, Any]], None]:
    return lambda tensors: tensors.update({name: np.asarray(array, dtype=np.float32)})


REFUSED_TENSORS: dict[str, tuple[str, Callable[[dict[str, Any]], None], str]] = {
    "missing": ("plain", _without("visual.proj"), "no tensor 'visual.proj'"),
    "missing scale": ("plain", _without("logit_scale"), "no tensor 'logit_scale'"),
    "too many": (
        "plain",
        _with("visual.transformer.resblocks.0.ls_1.gamma", np.ones(48)),
        "1 tensors that its configuration does not call for.*ls_1",
    ),
    "too many layers": (
        "plain",
        _with("transformer.resblocks.2.ln_1.weight", np.ones(32)),
        "resblocks.2",
    ),
    "shape": ("plain", _with("visual.proj", np.ones((48, 25))), r"shape \[48, 25\]"),
    "nan": ("plain", _with("visual.proj", np.full((48, 24), np.nan)), "NaN"),
    "variance": (
        "resnet",
        _with("visual.layer1.0.bn1.running_var", np.full(8, -1.0)),
        "negative variances",
    ),
}


@pytest.mark.parametrize(
    ("name", "change", "message"), REFUSED_TENSORS.values(), ids=REFUSED_TENSORS
)
def test_tensors_that_do_not_fit_are_refused(
    name: str, change: Callable[[dict[str, Any]], None], message: str, tmp_path: Path
) -> None:
    folder = write_openclip(tmp_path, VARIANTS[name])
    weights = folder / "open_clip_model.safetensors"
    tensors = load_file(weights)
    change(tensors)
    save_file(tensors, weights)
    with pytest.raises(CheckpointError, match=message):
        identity_of(read(folder))


def test_openais_positions_must_be_a_square(tmp_path: Path) -> None:
    folder = write_openai(tmp_path, OPENAI["vit"])
    weights = next(folder.glob("*.safetensors"))
    tensors = load_file(weights)
    tensors["visual.positional_embedding"] = tensors["visual.positional_embedding"][:-1]
    save_file(tensors, weights)
    with pytest.raises(CheckpointError, match="8 positions, no square grid"):
        read(folder)


def test_other_weights_without_a_configuration_are_of_no_kind(tmp_path: Path) -> None:
    save_file({"weight": np.ones(3, dtype=np.float32)}, tmp_path / "weights.safetensors")
    with pytest.raises(CheckpointError, match=r"no supported kind: found weights\.safetensors"):
        read(tmp_path)


def _missing(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def _left(folder: Path) -> None:
    _edit(folder / "tokenizer_config.json", truncation_side="left")


def _no_separator(folder: Path) -> None:
    _edit(folder / "tokenizer_config.json", sep_token="<sep>")


def _damaged(folder: Path) -> None:
    _edit(folder / "tokenizer.json", model={"type": "Other"})


def _edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_missing, "holds no tokenizer.json; save it there"),
        (_left, "truncation_side other than right"),
        (_no_separator, "no token '<sep>'"),
        (_damaged, r"tokenizer\.json of test cannot be used"),
    ],
)
def test_a_folders_tokenizer_that_does_not_fit_is_refused(
    change: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    folder = write_openclip(tmp_path, VARIANTS["clipa"])
    change(folder)
    with pytest.raises(CheckpointError, match=message):
        read(folder)


def test_a_folders_tokenizer_with_too_many_ids_is_refused(tmp_path: Path) -> None:
    config = {**VARIANTS["clipa"], "text_cfg": {**CLIPA, "vocab_size": 20}}
    with pytest.raises(CheckpointError, match="ids up to 83, its text tower knows 20"):
        read(write_openclip(tmp_path, config))
