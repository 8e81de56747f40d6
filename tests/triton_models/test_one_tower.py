"""SigLIP, and bundles of a single tower, from a checkpoint over a real Triton to embeddings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import arrays
from checkpoints import SMALL, config, write_checkpoint
from google.protobuf import text_format
from numpy.typing import NDArray
from siglip_checkpoints import write_siglip
from tritonclient.grpc import InferenceServerClient, InferInput, model_config_pb2
from tritonclient.utils import InferenceServerException

from cliprt import Bundle, Client, Limits, ModelUnavailable
from cliprt._images import preprocess
from cliprt._server_health import check_server
from cliprt._texts import TextTokenizer
from cliprt_export import export_checkpoint
from cliprt_export._checkpoint import Checkpoint
from cliprt_export._families import read_model
from cliprt_export._reference import embed
from cliprt_triton import TritonServer, write_repository

TEXTS = ["a picture of a cat", "", "three red circles " * 40, "naïve café 🐈", "x</s>y"]
PICTURES = arrays(4, 32)
NAMES = {"siglip": "siglip", "image": "siglip_vision_model", "text": "siglip_text_model"}

Folders = dict[str, Path]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    folder = tmp_path_factory.mktemp("siglip")
    return {
        name: write_siglip(folder / name, kind=kind, seed=8)  # type: ignore[arg-type]
        for name, kind in NAMES.items()
    }


@pytest.fixture(scope="module")
def bundles(checkpoints: Folders) -> dict[str, Bundle]:
    return {
        name: export_checkpoint(folder, folder.parent / f"{name}.bundle")
        for name, folder in checkpoints.items()
    }


@pytest.fixture(scope="module")
def server(bundles: dict[str, Bundle], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One Triton that serves a whole model, one without texts and one without pictures."""
    whole = tmp_path_factory.mktemp("repositories") / "whole"
    whole.mkdir()
    for name, bundle in bundles.items():
        for model in write_repository(bundle, whole.parent / name, name=name).iterdir():
            model.rename(whole / model.name)
    # The text tower of this one is not served, though its card has one.
    half = write_repository(bundles["siglip"], whole.parent / "half", name="half")
    (half / "half_image").rename(whole / "half_image")
    with TritonServer(whole) as server:
        yield server


def client_of(server: TritonServer, name: str) -> Client:
    return Client(server.address, model=name)


def expected(folder: Path) -> dict[str, NDArray[np.float32]]:
    """What the NumPy reference answers on the original weights."""
    model = read_model(Checkpoint(folder, "test"))
    found = {}
    if model.image is not None:
        spec = model.image.spec
        pixels = np.stack([preprocess(picture, spec, Limits()) for picture in PICTURES])
        found["image"] = embed(model.image.tower, model.image.tensors, pixels)
    if model.text is not None:
        tokenizer = TextTokenizer(model.text.tokenizer_json, model.text.spec, Limits())
        tokens = tokenizer.pad(tokenizer(TEXTS))
        found["text"] = embed(model.text.tower, model.text.tensors, tokens)
    return found


@pytest.mark.parametrize("name", ["siglip", "image"])
def test_pictures(name: str, server: TritonServer, checkpoints: Folders) -> None:
    with client_of(server, name) as client:
        found = client.encode_image(PICTURES)
    np.testing.assert_allclose(found, expected(checkpoints[name])["image"], atol=1e-5)


@pytest.mark.parametrize("name", ["siglip", "text"])
def test_texts(name: str, server: TritonServer, checkpoints: Folders) -> None:
    answers = expected(checkpoints[name])["text"]
    with client_of(server, name) as client:
        np.testing.assert_allclose(client.encode_text(TEXTS), answers, atol=1e-5)
        np.testing.assert_allclose(client.encode_text(TEXTS[1]), answers[1:2], atol=1e-5)


def test_every_label_has_a_probability_of_its_own(
    server: TritonServer, checkpoints: Folders
) -> None:
    answers = expected(checkpoints["siglip"])
    logits = np.exp(2.3) * answers["image"] @ answers["text"].T - 1.7
    with client_of(server, "siglip") as client:
        found = client.classify(PICTURES, TEXTS)
        alone = client.classify(PICTURES, TEXTS[:1])
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-logits)), atol=1e-4)
    np.testing.assert_allclose(found[:, :1], alone, atol=1e-6)


def test_a_tower_that_is_not_there_is_said(server: TritonServer) -> None:
    with client_of(server, "image") as client:
        with pytest.raises(ModelUnavailable, match=r"image at .* has no text tower"):
            client.encode_text("a cat")
        with pytest.raises(ModelUnavailable, match="has no text tower"):
            client.classify(PICTURES, ["a cat"])
    with client_of(server, "text") as client:
        with pytest.raises(ModelUnavailable, match="has no image tower"):
            client.encode_image(PICTURES)
        with pytest.raises(ModelUnavailable, match="has no image tower"):
            client.classify(PICTURES, ["a cat"])


def test_a_tower_that_is_not_served_is_said(server: TritonServer) -> None:
    with client_of(server, "half") as client:
        assert client.encode_image(PICTURES).shape == (4, 48)
        with pytest.raises(ModelUnavailable, match="does not serve the text tower of siglip"):
            client.encode_text("a cat")


def test_texts_of_another_length_are_refused_by_the_server(server: TritonServer) -> None:
    tensor = InferInput("tokens", [1, 5], "INT32")
    tensor.set_data_from_numpy(np.ones((1, 5), np.int32))
    with (
        InferenceServerClient(server.address) as raw,
        pytest.raises(InferenceServerException, match=r"Expected \[-1,64\], got \[1,5\]"),
    ):
        raw.infer("siglip_text", [tensor])


def test_token_ids_beyond_the_vocabulary_are_refused(server: TritonServer) -> None:
    tensor = InferInput("tokens", [1, 64], "INT32")
    tensor.set_data_from_numpy(np.full((1, 64), 1500, np.int32))
    with (
        InferenceServerClient(server.address) as raw,
        pytest.raises(InferenceServerException, match="token ids must lie in 0 to 1499"),
    ):
        raw.infer("siglip_text", [tensor])


@pytest.mark.parametrize(
    ("name", "models"),
    [
        (
            "image",
            {"clip_image", "clip_card", "clip_health", "clip_decode", "clip_image_file"},
        ),
        (
            "text",
            {"clip_text", "clip_card", "clip_health", "clip_tokenize", "clip_text_string"},
        ),
    ],
)
def test_a_repository_of_one_tower(
    name: str, models: set[str], bundles: dict[str, Bundle], tmp_path: Path
) -> None:
    repository = write_repository(bundles[name], tmp_path / "repository")
    assert {path.name for path in repository.iterdir()} == models


def test_tokens_of_a_fixed_length_are_not_ragged(
    bundles: dict[str, Bundle], tmp_path: Path
) -> None:
    repository = write_repository(bundles["text"], tmp_path / "repository")
    text = (repository / "clip_text" / "config.pbtxt").read_text(encoding="utf-8")
    tokens = text_format.Parse(text, model_config_pb2.ModelConfig()).input[0]
    assert (list(tokens.dims), tokens.allow_ragged_batch) == ([64], False)


@pytest.mark.parametrize("tower", ["vision", "text"])
def test_clip_with_one_tower_has_a_bundle_of_one(tower: str, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "clip", SMALL)
    section = config(SMALL)[f"{tower}_config"]
    (folder / "config.json").write_text(json.dumps(section))
    card = export_checkpoint(folder, tmp_path / "bundle").card
    assert (card.image is None, card.text is None) == (tower == "text", tower == "vision")
    assert card.logit_scale is None


@pytest.mark.parametrize("name", ["siglip", "image", "text"])
def test_whatever_towers_it_has_it_is_healthy(server: TritonServer, name: str) -> None:
    report = check_server(server.address, model=name)
    assert report.status == "good", report.problems()
    towers = {"image", "text"} if name == "siglip" else {name}
    assert {check.where for check in report.checks} == {"model", *towers}
