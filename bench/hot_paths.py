"""Times the hot paths with pytest-benchmark: ``make bench``.

Served calls stand beside the same computation in process, so that the price of serving is a ratio
within one run.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture

from cliprt import Bundle, Client, Limits
from cliprt._images import preprocess
from cliprt._texts import TextTokenizer
from cliprt_engines import OnnxTower
from cliprt_export import export_checkpoint
from cliprt_triton import TritonServer, write_repository

CHECKPOINT = Path(__file__).resolve().parent.parent / "demo" / "checkpoint"
TEXT = "a picture of three red striped circles"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_checkpoint(str(CHECKPOINT), tmp_path_factory.mktemp("bench") / "bundle")


@pytest.fixture(scope="module")
def client(bundle: Bundle) -> Iterator[Client]:
    repository = write_repository(bundle, bundle.path.parent / "repository")
    with TritonServer(repository) as server, Client(server.address) as client:
        yield client


@pytest.fixture(scope="module")
def tokenizer(bundle: Bundle) -> TextTokenizer:
    content = bundle.file("tokenizer.json").read_text(encoding="utf-8")
    return TextTokenizer(content, bundle.card.text, Limits())


def photo() -> bytes:
    """A JPEG of 640 x 480 with the detail of a photograph."""
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    buffer = BytesIO()
    Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC).save(buffer, "JPEG")
    return buffer.getvalue()


def test_preprocess_jpeg(benchmark: BenchmarkFixture, bundle: Bundle) -> None:
    benchmark(preprocess, photo(), bundle.card.image, Limits())


def test_tokenize(benchmark: BenchmarkFixture, tokenizer: TextTokenizer) -> None:
    benchmark(lambda: tokenizer.pad(tokenizer([TEXT] * 64)))


@pytest.mark.parametrize("batch", [1, 64])
def test_image_in_process(benchmark: BenchmarkFixture, bundle: Bundle, batch: int) -> None:
    tower = OnnxTower(bundle.file("image.fp32.onnx"))
    benchmark(tower.run, np.zeros((batch, 64, 64, 3), np.uint8))


@pytest.mark.parametrize("batch", [1, 64])
def test_image_served(benchmark: BenchmarkFixture, client: Client, batch: int) -> None:
    benchmark(client.encode_image, np.zeros((batch, 64, 64, 3), np.uint8))


@pytest.mark.parametrize("batch", [1, 64])
def test_text_in_process(
    benchmark: BenchmarkFixture, bundle: Bundle, tokenizer: TextTokenizer, batch: int
) -> None:
    tower = OnnxTower(bundle.file("text.fp32.onnx"))
    benchmark(tower.run, tokenizer.pad(tokenizer([TEXT] * batch)))


@pytest.mark.parametrize("batch", [1, 64])
def test_text_served(benchmark: BenchmarkFixture, client: Client, batch: int) -> None:
    benchmark(client.encode_text, [TEXT] * batch)
