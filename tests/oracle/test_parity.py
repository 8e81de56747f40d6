"""cliprt against transformers, live: the same comparisons as the golden files hold, and more."""

from __future__ import annotations

import random
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from cases import arrays, demo_pictures, texts
from checkpoints import SMALL, VIT_B_32, Size, write_checkpoint
from conftest import ROOT
from hostile import strings
from numpy.typing import NDArray
from oracle.reference import Reference
from PIL import Image

from cliprt import Bundle, Client, Limits
from cliprt._images import preprocess
from cliprt._texts import TextTokenizer
from cliprt_export import export_checkpoint
from cliprt_triton import TritonServer, write_repository
from pictures import file_cases, pil_cases

pytestmark = pytest.mark.oracle

CASES = {
    "demo": ROOT / "demo" / "checkpoint",
    "ViT-B/32": VIT_B_32,
    "small, gelu": Size(32, 8, 48, 2, 3, 32, 3, 2, 24, act="gelu"),
    "small, legacy": SMALL,
}


class Pair:
    """A checkpoint in transformers and behind a Triton."""

    def __init__(self, checkpoint: Path, client: Client, bundle: Bundle) -> None:
        self.reference = Reference(checkpoint)
        self.client = client
        self.bundle = bundle


@pytest.fixture(scope="module", params=CASES)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("oracle")
    source = CASES[request.param]
    if isinstance(source, Size):
        end_id = 2 if "legacy" in request.param else 49407
        source = write_checkpoint(folder / "checkpoint", source, eos_token_id=end_id, seed=3)
    bundle = export_checkpoint(str(source), folder / "bundle")
    repository = write_repository(bundle, folder / "repository", link=True)
    with TritonServer(repository) as server, Client(server.address) as client:
        yield Pair(source, client, bundle)


def images(pair: Pair) -> list[Image.Image]:
    drawn = [Image.fromarray(array) for array in arrays(6, pair.bundle.card.image.height)]
    return [*drawn, *(Image.open(path) for path in demo_pictures()[:6])]


def close(found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_pictures_over_grpc(pair: Pair) -> None:
    pictures = images(pair)
    expected = pair.reference.embed_images(pictures)
    close(pair.client.encode_image(pictures), expected)
    for picture, row in zip(pictures, expected, strict=True):
        close(pair.client.encode_image(picture), row[None])


def test_texts_of_every_length_over_grpc(pair: Pair) -> None:
    lengths = texts(pair.bundle.card.text.context_length)
    expected = pair.reference.embed_texts(lengths)
    close(pair.client.encode_text(lengths), expected)
    for text, row in zip(lengths, expected, strict=True):
        close(pair.client.encode_text(text), row[None])


def test_hostile_texts_over_grpc(pair: Pair) -> None:
    hostile = strings()[::3]
    close(pair.client.encode_text(hostile), pair.reference.embed_texts(hostile))


def test_ids_of_hostile_and_random_strings(pair: Pair) -> None:
    content = pair.bundle.file("tokenizer.json").read_text(encoding="utf-8")
    tokenizer = TextTokenizer(content, pair.bundle.card.text, Limits())
    drawn = random.Random(0)
    noise = [
        "".join(
            chr(drawn.choice([drawn.randrange(32, 127), drawn.randrange(0xD800)])) for _ in range(n)
        )
        for n in range(1, 400)
    ]
    for text in [*strings(), *noise]:
        assert tokenizer([text])[0] == pair.reference.ids(text), ascii(text)


def test_pixels_bit_for_bit(pair: Pair) -> None:
    spec = pair.bundle.card.image
    for name, image in pil_cases():
        found = preprocess(image, spec, Limits())
        assert np.array_equal(found, pair.reference.pixels(image)), name
    for name, data in file_cases():
        found = preprocess(data, spec, Limits())
        assert np.array_equal(found, pair.reference.pixels(Image.open(BytesIO(data)))), name


def test_probabilities(pair: Pair) -> None:
    import torch

    pictures, labels = images(pair), texts(20)[:12]
    found = pair.client.classify(pictures, labels)
    inputs = {
        **pair.reference.processor(pictures, return_tensors="pt"),
        **pair.reference.tokenizer(labels, padding=True, truncation=True, return_tensors="pt"),
    }
    with torch.no_grad():
        expected = pair.reference.model(**inputs).logits_per_image.softmax(dim=1).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_the_reference_loads_the_demo_checkpoint_whole() -> None:
    """Every weight of the checkpoint is used, and none is missing."""
    from transformers import CLIPModel

    _, info = CLIPModel.from_pretrained(CASES["demo"], output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
