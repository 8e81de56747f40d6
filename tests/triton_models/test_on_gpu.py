"""The repository for TensorRT in a Triton with its own backend: the twin of test_stand_ins.py.

Skipped where there is no GPU, no TensorRT, or no tritonserver on PATH that has the backend. Engines
are built here, for the GPU at hand.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from cases import demo_pictures, texts
from numpy.typing import NDArray

from cliprt import Bundle, Client
from cliprt_engines import build_engines, device_at_hand
from cliprt_triton import TritonServer, write_repository
from cliprt_triton._check import check_repository
from cliprt_triton._install import find_tritonserver
from cliprt_triton._stand_ins import missing_backends

pytestmark = pytest.mark.gpu


def skip_unless_served(backend: str) -> None:
    if device_at_hand() is None:
        pytest.skip("there is no NVIDIA GPU, or no driver for it")
    with tempfile.TemporaryDirectory() as work:
        if missing_backends(find_tritonserver(None, Path(work)), [backend]):
            pytest.skip(f"the tritonserver at hand has no backend {backend}")


@pytest.fixture(scope="module", params=["tensorrt", "onnxruntime"])
def repository(
    request: pytest.FixtureRequest,
    demo_bundle: Bundle,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    skip_unless_served(request.param)
    folder = tmp_path_factory.mktemp("repository")
    if request.param == "onnxruntime":
        return write_repository(
            demo_bundle, folder / "r", runtime="onnxruntime", provider="cuda", precision="fp32"
        )
    if find_spec("tensorrt") is None:
        pytest.skip("TensorRT is not installed: pip install 'cliprt[tensorrt]'")
    build_engines(
        demo_bundle,
        folder / "engines",
        precisions=["fp32"],
        flavor="tensorrt",
        profiles={"image": "1:4:8,1:1:2", "text": "1:4:8x2:32:32,1:4:8x2:16:16"},
    )
    return write_repository(
        demo_bundle, folder / "r", runtime="tensorrt", engines=folder / "engines"
    )


@pytest.fixture
def on_gpu(repository: Path) -> Iterator[Client]:
    with TritonServer(repository) as server, Client(server.address) as client:
        yield client


def test_answers_are_the_originals(
    on_gpu: Client, demo_golden: dict[str, NDArray[np.float32]]
) -> None:
    # Float32 on a GPU adds up in another order.
    found = on_gpu.encode_text(texts(32))
    np.testing.assert_allclose(found, demo_golden["texts"], atol=1e-4)
    found = on_gpu.encode_image([path.read_bytes() for path in demo_pictures()])
    np.testing.assert_allclose(found, demo_golden["images"], atol=1e-4)


def test_no_answer_is_that_of_an_earlier_request(on_gpu: Client) -> None:
    """Two inputs in turn, as in Triton server's issue 8550."""
    one, two = on_gpu.encode_text("a red star"), on_gpu.encode_text("two blue circles")
    for _ in range(50):
        np.testing.assert_allclose(on_gpu.encode_text("a red star"), one, atol=1e-5)
        np.testing.assert_allclose(on_gpu.encode_text("two blue circles"), two, atol=1e-5)


def test_nothing_is_stood_in_for(repository: Path, demo_bundle: Bundle) -> None:
    report = check_repository(repository, bundle=demo_bundle)
    assert report.ok
    for model in report.models:
        assert "stand-in" not in model.runs_on
        assert model.unchecked == ()
