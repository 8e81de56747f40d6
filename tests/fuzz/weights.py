"""Targets: what an export reads. Configurations, tensors and tokenizers of checkpoints."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from checkpoints import SMALL, Tensors, config, draw_tensors, preprocessor
from fuzz import samples
from fuzz.harness import refusing, scratch, target
from fuzz.mutation import in_json, in_protobuf, in_safetensors
from openclip_checkpoints import VARIANTS, write_openclip
from safetensors.numpy import save_file
from siglip_checkpoints import SiglipSize, write_siglip, write_words

from cliprt import BundleError, CheckpointError, Limits, TextSpec
from cliprt._texts import TextTokenizer
from cliprt_export._checkpoint import Checkpoint
from cliprt_export._families import read_model
from cliprt_export._model import ClipModel, ImageSide, TextSide
from cliprt_export._sentencepiece import parse_sentencepiece
from cliprt_export._siglip_tokenizer import read_siglip_tokenizer
from cliprt_export._specs import tower_tensors

VOCABULARY = 64
FILES = {
    "config.json", "preprocessor_config.json", "processor_config.json", "tokenizer_config.json",
    "special_tokens_map.json", "tokenizer.json", "open_clip_config.json",
    "model.safetensors.index.json",
}  # fmt: skip
TEXTS = ["ab z", "", "<s> a photo", "é\0 </s>" * 9]


def write_tiny_clip(folder: Path) -> Path:
    """A Hugging Face CLIP with a vocabulary of two dozen pieces."""
    folder.mkdir(parents=True)
    made = config(SMALL, eos_token_id=22)
    made["text_config"] |= {"vocab_size": VOCABULARY, "bos_token_id": 21, "pad_token_id": 22}
    words = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>", "unk_token": "</s>"}
    words |= {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}
    (folder / "config.json").write_text(json.dumps(made))
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor(SMALL.image_size)))
    (folder / "tokenizer_config.json").write_text(json.dumps(words))
    (folder / "tokenizer.json").write_bytes(samples.tokenizer())
    tensors: Tensors = draw_tensors(SMALL)
    name = "text_model.embeddings.token_embedding.weight"
    tensors[name] = np.ascontiguousarray(tensors[name][:VOCABULARY])
    save_file(tensors, folder / "model.safetensors")
    return folder


@functools.cache
def bases() -> dict[str, Path]:
    """A small checkpoint of each family."""
    folder = scratch() / "bases"
    tiny = SiglipSize(width=24, heads=2, layers=1, hidden=32, text_layers=1)
    return {
        "clip": write_tiny_clip(folder / "clip"),
        "siglip": write_siglip(folder / "siglip", tiny),
        "siglip2": write_siglip(folder / "siglip2", tiny, words="Siglip2Tokenizer"),
        "openclip": write_openclip(folder / "openclip", VARIANTS["clipa"]),
    }


def as_input(base: str) -> bytes:
    """The configuration of one of them, as the target ``checkpoint`` takes it."""
    files = {
        path.name: json.loads(path.read_text())
        for path in bases()[base].iterdir()
        if path.name in FILES and path.stat().st_size < 6000
    }
    return json.dumps({"of": base, "files": files}).encode()


@target(in_json, most=16_384)
def checkpoint(data: bytes) -> None:
    """With any configuration a checkpoint is read and has what it promises, or is refused."""
    try:
        asked: Any = json.loads(data)
        base = bases()[asked["of"]]
        files = {name: json.dumps(value) for name, value in dict(asked["files"]).items()}
    except (ValueError, LookupError, TypeError, RecursionError):
        return
    folder = scratch() / "checkpoint"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for path in base.iterdir():
        (folder / path.name).hardlink_to(path)
    for name in FILES & files.keys():
        (folder / name).unlink(missing_ok=True)
        if files[name] != "null":
            (folder / name).write_text(files[name])
    with refusing(CheckpointError) as read:
        model = read_model(Checkpoint(folder, "a checkpoint"))
    if read.accepted:
        _check_model(model)


def _check_model(model: ClipModel) -> None:
    for side in (model.image, model.text):
        if side is not None:
            _check_tensors(side)
    if model.text is not None:
        spec = model.text.spec
        with refusing(BundleError):
            tokenizer = TextTokenizer(model.text.tokenizer_json, spec, Limits())
            for ids in tokenizer(TEXTS):
                assert len(ids) <= spec.context_length
                assert all(0 <= token < spec.vocabulary for token in ids)


def _check_tensors(side: ImageSide | TextSide) -> None:
    shapes = tower_tensors(side.tower)
    for name in (min(shapes), max(shapes)):
        with refusing(CheckpointError) as read:
            array = side.tensors(name)
        if read.accepted:
            assert (array.dtype, array.shape) == (np.float32, shapes[name])
            assert np.isfinite(array).all()


@target(in_safetensors, most=8192)
def safetensors(data: bytes) -> None:
    """Any bytes are tensors of finite numbers, or refused."""
    folder = scratch() / "tensors"
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(data)
    with refusing(CheckpointError) as read:
        opened = Checkpoint(folder, "a checkpoint")
        names = opened.names()
    if read.accepted:
        for name in names[:4]:
            with refusing(CheckpointError) as one:
                shape = opened.shape(name)
                array = opened.tensor(name, shape)
            if one.accepted:
                assert (array.dtype, array.shape) == (np.float32, shape)
                assert np.isfinite(array).all()
    with refusing(CheckpointError):
        read_model(Checkpoint(folder, "a checkpoint"))


@functools.cache
def _words() -> Path:
    folder = scratch() / "words"
    write_words(folder, "SiglipTokenizer")
    # No tensor is read.
    (folder / "model.safetensors").touch()
    return folder


@target(in_protobuf, most=16_384)
def sentencepiece(data: bytes) -> None:
    """Any bytes are a SentencePiece model that splits texts, or refused."""
    with refusing(ValueError) as parsed:
        model = parse_sentencepiece(data)
    folder = _words()
    (folder / "spiece.model").write_bytes(data)
    with refusing(CheckpointError) as read:
        words = read_siglip_tokenizer(Checkpoint(folder, "a checkpoint"))
    assert parsed.accepted or not read.accepted
    if not read.accepted:
        return
    assert words.ids == len(model.pieces)
    spec = TextSpec(
        context_length=8,
        fixed_length=True,
        pooling="last",
        cleaning="siglip",
        end_id=words.end_id,
        pad_id=words.pad_id,
        vocabulary=words.ids,
    )
    with refusing(BundleError):
        tokenizer = TextTokenizer(words.json, spec, Limits())
        for ids in tokenizer(TEXTS):
            assert ids[-1] == words.end_id
            assert all(0 <= token < words.ids for token in ids)
