"""A checkpoint of the size of ViT-B/32 over gRPC equals transformers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cases import arrays, texts
from conftest import GOLDEN, MeasuredExport
from numpy.typing import NDArray

from cliprt import Client
from cliprt_triton import TritonServer, write_repository


@pytest.fixture(scope="module")
def served(vit_b_32: MeasuredExport, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    repository: Path = tmp_path_factory.mktemp("served") / "repository"
    write_repository(vit_b_32.bundle, repository, link=True)
    with TritonServer(repository) as server, Client(server.address) as client:
        yield client


@pytest.fixture(scope="module")
def golden() -> dict[str, NDArray[np.float32]]:
    with np.load(GOLDEN / "vit_b_32.npz") as file:
        return dict(file)


def test_pictures(served: Client, golden: dict[str, NDArray[np.float32]]) -> None:
    pictures = arrays(8, 224)
    np.testing.assert_allclose(served.encode_image(pictures), golden["images"], atol=1e-5)
    for picture, expected in zip(pictures, golden["images"], strict=True):
        np.testing.assert_allclose(served.encode_image(picture), expected[None], atol=1e-5)


def test_texts_of_every_length(served: Client, golden: dict[str, NDArray[np.float32]]) -> None:
    strings = texts(77)
    np.testing.assert_allclose(served.encode_text(strings), golden["texts"], atol=1e-5)
    for text, expected in zip(strings, golden["texts"], strict=True):
        np.testing.assert_allclose(served.encode_text(text), expected[None], atol=1e-5)


def test_an_item_alone_equals_itself_in_a_batch(served: Client) -> None:
    pictures = arrays(4, 224)
    batch = served.encode_image(pictures * 5)
    alone = np.concatenate([served.encode_image(picture) for picture in pictures])
    np.testing.assert_allclose(batch, np.tile(alone, (5, 1)), atol=1e-6)
    strings = texts(77)[10:74]
    batch = served.encode_text(strings)
    alone = np.concatenate([served.encode_text(text) for text in strings[::8]])
    np.testing.assert_allclose(batch[::8], alone, atol=1e-6)
