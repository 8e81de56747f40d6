"""OpenCLIP and OpenAI checkpoints against torch, `regex` and Pillow, live."""

from __future__ import annotations

import random
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from cases import arrays, texts
from hostile import strings
from numpy.typing import NDArray
from openclip_checkpoints import (
    CLIPA,
    OPENAI,
    PLAIN,
    TEXT,
    VARIANTS,
    VIT,
    Config,
    draw_openclip,
    write_openai,
    write_openclip,
)
from oracle.openclip_inputs import SimpleTokenizer, cleaned, transformed
from oracle.openclip_reference import OpenClip
from PIL import Image
from safetensors.numpy import load_file
from transformers import AutoTokenizer

from cliprt import Limits
from cliprt._images import preprocess
from cliprt._texts import TextTokenizer
from cliprt_engines import OnnxTower
from cliprt_export._checkpoint import Checkpoint
from cliprt_export._families import read_model
from cliprt_export._model import ClipModel
from cliprt_export._openclip_text import OPENAI_TOKENS, OPENCLIP_TOKENS
from cliprt_export._reference import embed
from cliprt_export._towers import write_tower
from pictures import file_cases, pil_cases

pytestmark = pytest.mark.oracle

# fmt: off
SPECIAL = [
    "a<end_of_text>b", "!<end_of_text>", "<end_of_text>!", "<end_of_text><end_of_text>",
    "1<end_of_text>", "'s<end_of_text>", "'<end_of_text>", "<start_<end_of_text>",
    "<<end_of_text>>", "_<start_of_text>_", "<ſtart_of_text>", "<START_of_TEXT>",
    "&lt;end_of_text&gt;", "<|ſtartoftext|>", "a<|endoftext|>b", "!<|endoftext|>",
    "|startoftext", "<|start", "<start", "it'ſ", "'ſ", "a\u0345b", "\u0345", "\u212a",
    "a\U00016eb8b",
]
# fmt: on


def noise(count: int) -> list[str]:
    """Random strings of ASCII, of anything, and of the pieces of special tokens."""
    drawn = random.Random(0)
    kinds = [
        lambda: chr(drawn.randrange(32, 127)),
        lambda: chr(drawn.randrange(0xD800)),
        lambda: chr(drawn.randrange(0xE000, 0x40000)),
    ]
    pieces = ["<", "|", "start", "star", "tof", "text", "of", "_", "end", ">", "'s", "'", "ſ", " "]
    pieces += [*OPENCLIP_TOKENS, *OPENAI_TOKENS, "endof", "é", "1", "&lt;"]
    letters = ["".join(drawn.choice(kinds)() for _ in range(n % 90)) for n in range(count)]
    mixed = ["".join(drawn.choices(pieces, k=1 + n % 12)) for n in range(count)]
    return letters + mixed


def pixels_for(model: ClipModel) -> NDArray[np.uint8]:
    """Pictures of every kind, and some that are bright or dark up to their borders."""
    assert model.image is not None
    height, width = model.image.spec.height, model.image.spec.width
    cut = [array[:height, :width] for array in arrays(4, max(height, width))]
    flat = [np.full((height, width, 3), level, dtype=np.uint8) for level in (255, 0)]
    framed = np.zeros((height, width, 3), dtype=np.uint8)
    framed[[0, -1]] = framed[:, [0, -1]] = 255
    return np.stack([*cut, *flat, framed])


def check(model: ClipModel, reference: OpenClip, folder: Path) -> None:
    """The exported towers and the NumPy reference equal torch to 1e-5."""
    assert model.image is not None
    assert model.text is not None
    pixels = pixels_for(model)
    spec = model.text.spec
    tokenizer = TextTokenizer(model.text.tokenizer_json, spec, Limits())
    sentences = [*texts(min(spec.context_length, 20)), *strings()[:60:4]]
    tokens = tokenizer.pad(tokenizer(sentences))
    full = np.full((len(tokens), spec.context_length), spec.pad_id, dtype=np.int64)
    full[:, : tokens.shape[1]] = tokens
    expected = {
        "image": reference.embed_pixels(pixels, model.image.spec.mean, model.image.spec.std),
        "text": reference.embed_tokens(full),
    }
    inputs = {"image": pixels, "text": tokens}
    for name, side in model.sides().items():
        path = folder / f"{name}.onnx"
        write_tower(path, side.tower, side.tensors, "test")
        # Embeddings of different inputs differ, or the comparison would say nothing.
        assert np.ptp(expected[name], axis=0).max() > 0.01
        for found in (
            OnnxTower(path).run(inputs[name]),
            embed(side.tower, side.tensors, inputs[name]),
        ):
            np.testing.assert_allclose(found, expected[name], atol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_embeddings_of_openclip(name: str, tmp_path: Path) -> None:
    config = VARIANTS[name]
    folder = write_openclip(tmp_path / "checkpoint", config)
    model = read_model(Checkpoint(folder, "test"))
    assert model.family == "openclip"
    check(model, OpenClip(config, draw_openclip(config)), tmp_path)


@pytest.mark.parametrize("name", OPENAI)
def test_embeddings_of_openai(name: str, tmp_path: Path) -> None:
    folder = write_openai(tmp_path / "checkpoint", OPENAI[name])
    model = read_model(Checkpoint(folder, "test"))
    assert model.family == "openai"
    stored = load_file(next(folder.glob("*.safetensors")))
    check(model, OpenClip(OPENAI[name], stored), tmp_path)


@pytest.mark.parametrize(
    ("special", "clean"),
    [(OPENCLIP_TOKENS, "lower"), (OPENCLIP_TOKENS, "canonicalize"), (OPENAI_TOKENS, "lower")],
    ids=["openclip", "openclip, canonicalised", "openai"],
)
def test_ids_of_the_own_tokenizer(special: tuple[str, str], clean: str, tmp_path: Path) -> None:
    if special == OPENAI_TOKENS:
        folder = write_openai(tmp_path, OPENAI["vit"])
    else:
        text = {**TEXT, "context_length": 20, "tokenizer_kwargs": {"clean": clean}}
        folder = write_openclip(tmp_path, {**PLAIN, "text_cfg": text})
    side = read_model(Checkpoint(folder, "test")).text
    assert side is not None
    tokenizer = TextTokenizer(side.tokenizer_json, side.spec, Limits())
    reference = SimpleTokenizer(special, clean)
    for text in [*strings(), *SPECIAL, *noise(700)]:
        (ids,) = tokenizer([text])
        assert ids + [0] * (20 - len(ids)) == reference(text, 20), ascii(text)


@pytest.mark.parametrize("strip", [True, False])
@pytest.mark.parametrize("clean", ["whitespace", "lower", "canonicalize"])
def test_ids_of_a_folders_tokenizer(strip: bool, clean: str, tmp_path: Path) -> None:
    options: Config = {"strip_sep_token": strip, "clean": clean}
    config = {**PLAIN, "text_cfg": {**CLIPA, "tokenizer_kwargs": options}}
    folder = write_openclip(tmp_path, config)
    side = read_model(Checkpoint(folder, "test")).text
    assert side is not None
    tokenizer = TextTokenizer(side.tokenizer_json, side.spec, Limits())
    reference = AutoTokenizer.from_pretrained(folder)
    separators = ["[SEP]", "a [SEP] b", "[sep]", "[CLS] [PAD] [MASK] [UNK]", "cats[SEP]"]
    for text in [*strings(), *separators, *noise(150)]:
        expected = reference(
            cleaned(text, clean), max_length=16, padding="max_length", truncation=True
        )["input_ids"]
        if strip:
            expected = [0 if token == reference.sep_token_id else token for token in expected]
        assert tokenizer.pad(tokenizer([text]))[0].tolist() == expected, ascii(text)


@pytest.mark.parametrize(
    ("size", "options"),
    [
        (32, {}),
        (32, {"interpolation": "bilinear"}),
        (32, {"interpolation": "random", "resize_mode": "shortest"}),
        (32, {"resize_mode": "squash"}),
        ([24, 40], {}),
        ([40, 24], {}),
        ([24, 40], {"resize_mode": "squash"}),
        # No side of these pictures is even and odd at once with all others.
        (33, {}),
    ],
)
def test_pixels_bit_for_bit(size: int | list[int], options: Config, tmp_path: Path) -> None:
    config = {**PLAIN, "vision_cfg": {**VIT, "image_size": size}}
    folder = write_openclip(tmp_path, config, preprocess=options)
    side = read_model(Checkpoint(folder, "test")).image
    assert side is not None
    height, width = size if isinstance(size, list) else (size, size)
    mode = options.get("resize_mode", "shortest")
    bilinear = options.get("interpolation") == "bilinear"
    for name, image in [*pil_cases(), *file_cases()]:
        source = Image.open(BytesIO(image)) if isinstance(image, bytes) else image
        with warnings.catch_warnings():
            # Pillow on palettes with transparency, which is dropped here by design.
            warnings.simplefilter("ignore")
            expected = transformed(source, height, width, mode, bilinear)
        found = preprocess(image, side.spec, Limits())
        assert np.array_equal(found, expected), name
