"""What OpenCLIP and OpenAI checkpoints are refused for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openclip_checkpoints import (
    CLIPA,
    OPENAI,
    PLAIN,
    RESNET,
    TEXT,
    VARIANTS,
    VIT,
    Config,
    write_openai,
    write_openclip,
)
from safetensors.numpy import load_file, save_file

from cliprt import CheckpointError
from cliprt_export._checkpoint import Checkpoint
from cliprt_export._families import read_model
from cliprt_export._model import ClipModel
from cliprt_export._space import identity_of


def read(folder: Path) -> ClipModel:
    return read_model(Checkpoint(folder, "test"))


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
    "heads of no width": (vision(head_width=0), "configuration of test is not usable"),
    "no number": (text(context_length="long"), "configuration of test is not usable"),
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
        (["mean"], "no usable preprocess_cfg"),
    ],
)
def test_preprocessing_that_is_not_supported_is_refused(
    preprocess: Any, message: str, tmp_path: Path
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
    "scale": ("plain", _with("logit_scale", 800), "logit_scale of test is 800"),
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


def test_openais_names_with_other_shapes_are_refused(tmp_path: Path) -> None:
    folder = write_openai(tmp_path, OPENAI["vit"])
    weights = next(folder.glob("*.safetensors"))
    tensors = load_file(weights)
    tensors["text_projection"] = np.ones(64, dtype=np.float32)
    save_file(tensors, weights)
    with pytest.raises(CheckpointError, match="other numbers of dimensions"):
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
