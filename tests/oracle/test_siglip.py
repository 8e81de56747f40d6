"""SigLIP against transformers, live: pixels, tokens, embeddings, probabilities."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import arrays
from hostile import strings
from numpy.typing import NDArray
from oracle.make_siglip_data import train_sentencepiece
from PIL import Image
from siglip_checkpoints import SIZES, SiglipSize, Words, write_siglip, write_words
from transformers import (
    AutoTokenizer,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipTextModel,
    SiglipVisionModel,
)

from cliprt import Limits
from cliprt._images import preprocess
from cliprt._texts import TextTokenizer
from cliprt._zero_shot import probabilities
from cliprt_engines import OnnxTower
from cliprt_export._checkpoint import Checkpoint
from cliprt_export._families import read_model
from cliprt_export._model import ClipModel
from cliprt_export._reference import embed
from cliprt_export._towers import write_tower
from pictures import file_cases, pil_cases

pytestmark = [
    pytest.mark.oracle,
    # transformers' slow tokenizer warns of an end token that is already there.
    pytest.mark.filterwarnings("ignore:This sequence already has"),
]
KINDS: tuple[Words, ...] = ("SiglipTokenizer", "GemmaTokenizer", "Siglip2Tokenizer")


def noise() -> list[str]:
    """Strings of printable and of any characters, and special tokens in between."""
    drawn = random.Random(0)
    odd = ["</s>", "<unk>", "</S>", "▁", " ", "＜/s＞", "<eos>", "Σ", "İ", "\u0338", ">", "<"]
    found = []
    for length in range(1, 300):
        codes = [
            drawn.choice([drawn.randrange(32, 127), drawn.randrange(0xD800)]) for _ in range(length)
        ]
        found.append("".join(map(chr, codes)))
        found.append("".join(drawn.choice([*odd, *"ab "]) for _ in range(length % 40)))
    return found


def model_of(folder: Path) -> ClipModel:
    return read_model(Checkpoint(folder, "test"))


def tokenizer_of(folder: Path) -> TextTokenizer:
    text = model_of(folder).text
    assert text is not None
    return TextTokenizer(text.tokenizer_json, text.spec, Limits())


def reference_ids(folder: Path, texts: list[str], context: int = 64) -> NDArray[np.int64]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    options: dict[str, Any] = {"padding": "max_length", "truncation": True, "max_length": context}
    return np.array([tokenizer(text, **options)["input_ids"] for text in texts])


def check_ids(folder: Path, texts: list[str]) -> None:
    tokenizer = tokenizer_of(folder)
    found = tokenizer.pad(tokenizer(texts))
    for text, ours, theirs in zip(texts, found, reference_ids(folder, texts), strict=True):
        assert ours.tolist() == theirs.tolist(), ascii(text)


@pytest.mark.parametrize("words", KINDS)
def test_ids_of_hostile_and_random_strings(words: Words, tmp_path: Path) -> None:
    check_ids(write_siglip(tmp_path, words=words), [*strings(), *noise()])


@pytest.mark.parametrize(
    "options",
    [
        {"normalization_rule_name": "nmt_nfkc"},
        {"normalization_rule_name": "nmt_nfkc", "byte_fallback": True},
        {"normalization_rule_name": "identity", "add_dummy_prefix": False},
        {"normalization_rule_name": "nmt_nfkc_cf", "split_by_unicode_script": False},
    ],
    ids=["T5's", "bytes", "no replacements", "across scripts"],
)
def test_ids_of_other_vocabularies(options: dict[str, Any], tmp_path: Path) -> None:
    folder = write_siglip(tmp_path / "checkpoint", SiglipSize(layers=1, text_layers=1))
    (folder / "spiece.model").write_bytes(train_sentencepiece(tmp_path, **options))
    check_ids(folder, [*strings(), *noise()])


def without_surroundings(content: dict[str, Any]) -> None:
    content["post_processor"] = None


def with_a_start(content: dict[str, Any]) -> None:
    template = content["post_processor"]
    template["single"].insert(0, {"SpecialToken": {"id": "<bos>", "type_id": 0}})
    template["special_tokens"]["<bos>"] = {"id": "<bos>", "ids": [2], "tokens": ["<bos>"]}


def with_text_like_padding(content: dict[str, Any]) -> None:
    content["added_tokens"].append({**content["added_tokens"][0], "id": 905, "content": "square"})


@pytest.mark.parametrize("words", KINDS[1:])
@pytest.mark.parametrize("change", [without_surroundings, with_a_start, with_text_like_padding])
def test_ids_of_other_gemma_files(
    words: Words, change: Callable[[dict[str, Any]], None], tmp_path: Path
) -> None:
    folder = write_siglip(tmp_path, SiglipSize(layers=1, text_layers=1), words=words)
    content = json.loads((folder / "tokenizer.json").read_text())
    change(content)
    (folder / "tokenizer.json").write_text(json.dumps(content))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["added_tokens_decoder"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    check_ids(folder, [*strings()[::2], "a <bos> square <mask>x", "a square"])


@pytest.mark.parametrize("words", KINDS)
def test_ids_after_transformers_saved_the_tokenizer(words: Words, tmp_path: Path) -> None:
    folder = write_siglip(tmp_path / "old", SiglipSize(layers=1, text_layers=1), words=words)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for name in ("tokenizer_config.json", "tokenizer.json", "spiece.model"):
        (folder / name).unlink(missing_ok=True)
    tokenizer.save_pretrained(folder)
    check_ids(folder, [*strings()[::2], *noise()[::3]])


def pixels_of(processor: SiglipImageProcessorPil, image: Any) -> NDArray[np.uint8]:
    out = processor(image, do_rescale=False, do_normalize=False)["pixel_values"][0]
    return np.ascontiguousarray(np.moveaxis(np.asarray(out), 0, -1))


@pytest.mark.parametrize("resample", [2, 3])
def test_pixels_bit_for_bit(resample: int, tmp_path: Path) -> None:
    folder = write_siglip(tmp_path)
    config = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps({**config, "resample": resample}))
    reference = SiglipImageProcessorPil.from_pretrained(folder)
    side = model_of(folder).image
    assert side is not None
    for name, image in pil_cases():
        assert np.array_equal(
            preprocess(image, side.spec, Limits()), pixels_of(reference, image)
        ), name
    for name, data in file_cases():
        expected = pixels_of(reference, Image.open(BytesIO(data)))
        assert np.array_equal(preprocess(data, side.spec, Limits()), expected), name


def test_defaults_of_the_processor(tmp_path: Path) -> None:
    """A file that says nothing has the defaults of the class."""
    folder = write_siglip(tmp_path, SiglipSize(image_size=224, patch_size=32))
    (folder / "preprocessor_config.json").write_text("{}")
    side = model_of(folder).image
    assert side is not None
    reference, spec = SiglipImageProcessorPil(), side.spec
    image = Image.fromarray(arrays(1, 100)[0])
    pixels = preprocess(image, spec, Limits())
    normalised = (pixels * spec.rescale - spec.mean) / spec.std
    expected = np.moveaxis(reference(image)["pixel_values"][0], 0, -1)
    np.testing.assert_allclose(normalised, expected, atol=1e-6)


def towers(
    model: ClipModel, folder: Path, texts: list[str], images: list[Any]
) -> dict[str, list[NDArray[np.float32]]]:
    """Embeddings by the ONNX tower and by the NumPy reference."""
    found = {}
    for name, side in model.sides().items():
        if name == "image":
            inputs: Any = np.stack([preprocess(image, side.spec, Limits()) for image in images])
        else:
            tokenizer = TextTokenizer(side.tokenizer_json, side.spec, Limits())
            inputs = tokenizer.pad(tokenizer(texts))
        write_tower(folder / f"{name}.onnx", side.tower, side.tensors, "test")
        onnx = OnnxTower(folder / f"{name}.onnx").run(inputs)
        found[name] = [onnx, embed(side.tower, side.tensors, inputs)]
    return found


TEXTS = ["a picture of a cat", "", "three red circles " * 40, "naïve café 🐈", "x</s>y"]


@pytest.mark.parametrize("words", KINDS)
@pytest.mark.parametrize("name", SIZES)
def test_embeddings_and_probabilities(name: str, words: Words, tmp_path: Path) -> None:
    size = SIZES[name]
    folder = write_siglip(tmp_path, size, words=words, seed=5)
    images = [Image.fromarray(array) for array in arrays(5, size.image_size)]
    found = towers(model_of(folder), tmp_path, TEXTS, images)
    reference, info = SiglipModel.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    processor = SiglipImageProcessorPil.from_pretrained(folder)
    pixels = processor(images, return_tensors="pt")["pixel_values"]
    ids = torch.from_numpy(reference_ids(folder, TEXTS, size.context))
    with torch.no_grad():
        out = reference.eval()(input_ids=ids, pixel_values=pixels)
    for ours in found["image"]:
        np.testing.assert_allclose(ours, out.image_embeds.numpy(), atol=1e-5)
    for ours in found["text"]:
        np.testing.assert_allclose(ours, out.text_embeds.numpy(), atol=1e-5)
    model = model_of(folder)
    assert model.logit_scale is not None
    chances = probabilities(
        found["image"][0], found["text"][0], model.logit_scale, model.logit_bias
    )
    np.testing.assert_allclose(chances, out.logits_per_image.sigmoid().numpy(), atol=1e-4)


@pytest.mark.parametrize("saved", [False, True], ids=["with a prefix", "as transformers 5 saves"])
def test_towers_alone(saved: bool, tmp_path: Path) -> None:
    texts, images = TEXTS, [Image.fromarray(array) for array in arrays(4, 32)]
    vision = write_siglip(tmp_path / "vision", kind="siglip_vision_model", seed=6)
    text = write_siglip(tmp_path / "text", kind="siglip_text_model", seed=6)
    vision_model = SiglipVisionModel.from_pretrained(vision).eval()
    text_model = SiglipTextModel.from_pretrained(text).eval()
    if saved:
        vision_model.save_pretrained(vision)
        text_model.save_pretrained(text)
    pixels = SiglipImageProcessorPil.from_pretrained(vision)(images, return_tensors="pt")
    write_words(tmp_path / "words", "SiglipTokenizer")
    (tmp_path / "words" / "config.json").write_text('{"model_type": "siglip"}')
    ids = torch.from_numpy(reference_ids(tmp_path / "words", texts))
    with torch.no_grad():
        expected = {
            "image": vision_model(**pixels).pooler_output,
            "text": text_model(input_ids=ids).pooler_output,
        }
    for name, folder in (("image", vision), ("text", text)):
        model = model_of(folder)
        assert set(model.sides()) == {name}
        normalised = torch.nn.functional.normalize(expected[name], dim=-1).numpy()
        for ours in towers(model, tmp_path, texts, images)[name]:
            np.testing.assert_allclose(ours, normalised, atol=1e-5)
