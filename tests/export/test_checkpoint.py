"""Reading checkpoints: local folders, shards, precisions, and everything that can be wrong."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from checkpoints import SMALL, Tensors, config, draw_tensors, preprocessor, write_checkpoint
from safetensors.numpy import save_file

from cliprt import CheckpointError
from cliprt_export._checkpoint import Checkpoint, find_checkpoint
from cliprt_export._families import read_model
from cliprt_export._hf_clip import read_hf_clip
from cliprt_export._model import ImageSide, TextSide
from cliprt_export._space import identity_of, space_of
from cliprt_export._specs import VitTower


def read(folder: Path) -> Checkpoint:
    return Checkpoint(folder, "test")


def space(folder: Path) -> str:
    return space_of(identity_of(read_hf_clip(read(folder))))


def sides(folder: Path) -> tuple[ImageSide, TextSide]:
    model = read_hf_clip(read(folder))
    assert model.image is not None
    assert model.text is not None
    return model.image, model.text


def edit(folder: Path, name: str, **changes: object) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_shards_read_like_one_file(small_checkpoint: Path, tmp_path: Path) -> None:
    sharded = write_checkpoint(tmp_path / "sharded", SMALL, shards=3)
    assert not (sharded / "model.safetensors").exists()
    assert space(sharded) == space(small_checkpoint)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_read_exactly(dtype: type, tmp_path: Path) -> None:
    def halve(tensors: Tensors) -> Tensors:
        return {name: array.astype(dtype) for name, array in tensors.items()}

    folder = write_checkpoint(tmp_path / "half", SMALL, change=halve)
    name = "text_projection.weight"
    expected = draw_tensors(SMALL)[name].astype(dtype).astype(np.float32)
    np.testing.assert_array_equal(read(folder).tensor(name, expected.shape), expected)


def test_the_space_follows_the_numbers_and_not_the_files(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    def one_weight(tensors: Tensors) -> Tensors:
        tensors["text_projection.weight"][0, 0] += 1e-3
        return tensors

    same = write_checkpoint(tmp_path / "same", SMALL)
    edit(same, "config.json", transformers_version="0.0.0", architectures=["Other"])
    other = write_checkpoint(tmp_path / "other", SMALL, change=one_weight)
    legacy = write_checkpoint(tmp_path / "legacy", SMALL, eos_token_id=2)
    cropped = write_checkpoint(tmp_path / "cropped", SMALL)
    edit(cropped, "preprocessor_config.json", resample=2)
    assert space(same) == space(small_checkpoint)
    # An older way to say which token is pooled; it is the same token.
    assert space(legacy) == space(small_checkpoint)
    assert len({space(folder) for folder in (same, other, cropped)}) == 3


def test_defaults_fill_a_sparse_configuration(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "sparse", SMALL)
    full = config(SMALL)
    for section in ("vision_config", "text_config"):
        del full[section]["hidden_act"], full[section]["layer_norm_eps"]
    del full["text_config"]["eos_token_id"]
    (folder / "config.json").write_text(json.dumps(full))
    image, text = sides(folder)
    assert isinstance(image.tower, VitTower)
    assert image.tower.transformer.activation == "quick_gelu"
    assert (text.tower.pooling, text.tower.end_id) == ("end", 49407)


def test_older_sections_win_as_in_transformers(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "older", SMALL, eos_token_id=2)
    text = config(SMALL)["text_config"]
    del text["eos_token_id"]
    edit(folder, "config.json", text_config_dict=text)
    assert sides(folder)[1].tower.pooling == "end"


def test_older_processor_files_hold_plain_numbers(small_checkpoint: Path, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "plain", SMALL)
    edit(folder, "preprocessor_config.json", size=32, crop_size=32)
    assert sides(folder)[0].spec == sides(small_checkpoint)[0].spec


def test_the_newer_processor_file_is_preferred(tmp_path: Path) -> None:
    """transformers 5 writes one file for all processors of a checkpoint, and reads it first."""
    folder = write_checkpoint(tmp_path / "newer", SMALL)
    section = {**preprocessor(32), "resample": 2, "image_mean": [0.5, 0.5, 0.5]}
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": section}))
    spec = sides(folder)[0].spec
    assert (spec.resample, spec.mean) == ("bilinear", (0.5, 0.5, 0.5))


def broken(tmp_path: Path, what: str) -> Path:
    folder = write_checkpoint(tmp_path / "broken", SMALL)
    weights = folder / "model.safetensors"
    if what == "other model":
        edit(folder, "config.json", model_type="bert")
    elif what == "activation":
        text = {**config(SMALL)["text_config"], "hidden_act": "relu"}
        edit(folder, "config.json", text_config=text)
    elif what == "heads":
        text = {**config(SMALL)["text_config"], "num_attention_heads": 5}
        edit(folder, "config.json", text_config=text)
    elif what == "no config":
        (folder / "config.json").unlink()
    elif what == "config is no json":
        (folder / "config.json").write_text("{")
    elif what == "pickle only":
        weights.rename(folder / "pytorch_model.bin")
    elif what == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif what == "header":
        weights.write_bytes(struct.pack("<Q", 2**60) + b"{}")
    elif what == "processor":
        edit(folder, "preprocessor_config.json", crop_size={"height": 48, "width": 48})
    elif what == "no processor":
        (folder / "preprocessor_config.json").unlink()
    elif what == "no tokenizer":
        (folder / "vocab.json").unlink()
    elif what == "tokenizer class":
        edit(folder, "tokenizer_config.json", tokenizer_class="BertTokenizer")
    else:
        tensors = draw_tensors(SMALL)
        if what == "shape":
            tensors["visual_projection.weight"] = tensors["visual_projection.weight"][:, 1:].copy()
        elif what == "missing tensor":
            del tensors["text_model.final_layer_norm.bias"]
        elif what == "nan":
            tensors["text_projection.weight"][1, 1] = np.nan
        elif what == "integers":
            tensors["logit_scale"] = np.array(4, dtype=np.int64)
        save_file(tensors, weights)
    return folder


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("other model", r"its config\.json is of model_type 'bert'.*Supported: Hugging Face CLIP"),
        ("activation", "activation 'relu' is not supported; supported are quick_gelu and gelu"),
        ("heads", "width 32 is not divisible by 5 heads"),
        ("no config", r"of no supported kind: found merges\.txt, model\.safetensors"),
        ("config is no json", r"config\.json of test cannot be read"),
        ("pickle only", r"found .*pytorch_model\.bin.*Only safetensors are read"),
        ("truncated", r"model\.safetensors of test cannot be read"),
        ("header", r"model\.safetensors of test cannot be read"),
        ("processor", "makes pictures of 48 x 48, the image tower takes 32 x 32"),
        ("no processor", r"has no preprocessor_config\.json"),
        ("no tokenizer", r"no tokenizer\.json, and vocab\.json is missing"),
        ("tokenizer class", "has a BertTokenizer; supported is CLIPTokenizer"),
        ("shape", r"'visual_projection\.weight' of test has shape \[24, 47\].*\[24, 48\]"),
        ("missing tensor", r"no tensor 'text_model\.final_layer_norm\.bias'"),
        ("nan", r"'text_projection\.weight' of test holds NaN"),
        ("integers", r"is I64; supported are F32, F16, F64 and BF16"),
    ],
)
def test_what_is_wrong_is_said(what: str, text: str, tmp_path: Path) -> None:
    folder = broken(tmp_path, what)
    with pytest.raises(CheckpointError, match=text):
        identity_of(read_model(read(folder)))


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "sharded", SMALL, shards=2)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"its shard model-00002-of-00002\.safetensors is"):
        read(folder).names()


def test_an_index_cannot_name_files_outside(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "sharded", SMALL, shards=2)
    edit(folder, "model.safetensors.index.json", weight_map={"x": "../secret.safetensors"})
    with pytest.raises(CheckpointError, match="names a file outside it"):
        read(folder).names()


def test_what_is_neither_folder_nor_hub_id_is_refused() -> None:
    with pytest.raises(CheckpointError, match="neither an existing folder nor a hub id"):
        find_checkpoint("no/such/folder/at-all")


def test_a_revision_is_for_the_hub(small_checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="a revision is for hub ids only"):
        find_checkpoint(str(small_checkpoint), "main")
