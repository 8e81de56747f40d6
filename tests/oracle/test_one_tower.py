"""CLIP models of one tower against transformers: with the files of the whole model, and saved."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import arrays, texts
from checkpoints import SMALL, config, write_checkpoint
from numpy.typing import NDArray
from PIL import Image
from transformers import (
    CLIPImageProcessorPil,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

from cliprt import Limits
from cliprt._images import preprocess
from cliprt._texts import TextTokenizer
from cliprt_engines import OnnxTower
from cliprt_export import export_checkpoint

pytestmark = pytest.mark.oracle

SAVED = pytest.mark.parametrize("saved", [False, True], ids=["as published", "saved again"])


def normalised(embeddings: torch.Tensor) -> NDArray[np.float32]:
    return torch.nn.functional.normalize(embeddings, dim=-1).numpy()


def folder_of(tower: str, folder: Path) -> Path:
    """A checkpoint whose configuration is that of one tower alone."""
    write_checkpoint(folder, SMALL, seed=4)
    section = config(SMALL)[f"{tower}_config"]
    (folder / "config.json").write_text(json.dumps(section))
    return folder


@SAVED
def test_pictures(saved: bool, tmp_path: Path) -> None:
    folder = folder_of("vision", tmp_path / "checkpoint")
    model = CLIPVisionModelWithProjection.from_pretrained(folder).eval()
    processor = CLIPImageProcessorPil.from_pretrained(folder)
    if saved:
        (folder / "model.safetensors").unlink()
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    bundle = export_checkpoint(folder, tmp_path / "bundle")
    assert bundle.card.image is not None
    assert bundle.card.text is None
    images = [Image.fromarray(array) for array in arrays(6, 32)]
    with torch.no_grad():
        expected = normalised(model(**processor(images, return_tensors="pt")).image_embeds)
    pixels = np.stack([preprocess(image, bundle.card.image, Limits()) for image in images])
    found = OnnxTower(bundle.file("image.fp32.onnx")).run(pixels)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@SAVED
def test_texts(saved: bool, tmp_path: Path) -> None:
    folder = folder_of("text", tmp_path / "checkpoint")
    model = CLIPTextModelWithProjection.from_pretrained(folder).eval()
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    if saved:
        for name in ("model.safetensors", "vocab.json", "merges.txt", "tokenizer_config.json"):
            (folder / name).unlink()
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    bundle = export_checkpoint(folder, tmp_path / "bundle")
    assert bundle.card.text is not None
    assert bundle.card.image is None
    strings = texts(77)
    inputs = tokenizer(strings, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        expected = normalised(model(**inputs).text_embeds)
    content = bundle.file("tokenizer.json").read_text(encoding="utf-8")
    ours = TextTokenizer(content, bundle.card.text, Limits())
    found = OnnxTower(bundle.file("text.fp32.onnx")).run(ours.pad(ours(strings)))
    np.testing.assert_allclose(found, expected, atol=1e-5)
