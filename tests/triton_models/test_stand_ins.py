"""Repositories for missing backends, unmodified in the real Triton core, beside stand-ins."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from cases import demo_pictures, texts
from engine_folders import write_engine
from numpy.typing import NDArray
from patience import settled
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException
from wire import request_of, stub_of, tensors_of

from cliprt import Bundle, Client
from cliprt._names import EMBEDDING, TOKENS, served_version
from cliprt._server_health import check_server
from cliprt_engines import Profile, Span
from cliprt_triton import TritonServer, write_repository
from cliprt_triton._config import ModelConfig, Step, Tensor
from cliprt_triton._stand_ins import stand_ins

BATCH = Span(1, 4, 8)
PROFILES = {
    "image": [Profile(batch=BATCH), Profile(batch=Span(1, 1, 2))],
    "text": [
        Profile(batch=BATCH, length=Span(2, 32, 32)),
        Profile(batch=BATCH, length=Span(2, 16, 16)),
    ],
}


@pytest.fixture(scope="module")
def repositories(demo_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("repositories")
    for tower, profiles in PROFILES.items():
        write_engine(folder / "engines", demo_bundle, tower, profiles=profiles)
    onnx, tensorrt = folder / "onnxruntime", folder / "tensorrt"
    write_repository(demo_bundle, onnx, runtime="onnxruntime")
    write_repository(demo_bundle, tensorrt, runtime="tensorrt", engines=folder / "engines")
    ensemble = ModelConfig(
        name="clip_again",
        version=served_version(demo_bundle.card.space),
        inputs=(Tensor("given", "TYPE_INT32", (-1,)),),
        outputs=(Tensor("got", "TYPE_FP32", (demo_bundle.card.dim,)),),
        steps=(Step("clip_text", {TOKENS: "given"}, {EMBEDDING: "got"}),),
        max_batch_size=8,
    )
    # Beside what was written, which stays as it is.
    (tensorrt / ensemble.name / str(ensemble.version)).mkdir(parents=True)
    (tensorrt / ensemble.name / "config.pbtxt").write_text(ensemble.to_pbtxt(), encoding="utf-8")
    return {"onnxruntime": onnx, "tensorrt": tensorrt}


@pytest.fixture(scope="module", params=["onnxruntime", "tensorrt"])
def server(
    request: pytest.FixtureRequest, repositories: dict[str, Path], demo_bundle: Bundle
) -> Iterator[TritonServer]:
    towers = {f"clip_{tower}": demo_bundle.file(f"{tower}.fp32.onnx") for tower in PROFILES}
    prepare = stand_ins([request.param], towers)
    with TritonServer(repositories[request.param], prepare=prepare) as server:
        yield server


@pytest.fixture
def stood_in(server: TritonServer) -> Iterator[Client]:
    with Client(server.address) as client:
        yield client


def test_texts_of_unequal_length_are_answered_as_by_the_python_runtime(
    stood_in: Client, client: Client, demo_golden: dict[str, NDArray[np.float32]]
) -> None:
    strings = texts(32)
    found = stood_in.encode_text(strings)
    np.testing.assert_allclose(found, client.encode_text(strings), atol=1e-5)
    np.testing.assert_allclose(found, demo_golden["texts"], atol=1e-5)
    one_by_one = [stood_in.encode_text(text) for text in strings]
    np.testing.assert_allclose(np.concatenate(one_by_one), found, atol=1e-5)


def test_pictures_are_answered_as_by_the_python_runtime(
    stood_in: Client, client: Client, demo_golden: dict[str, NDArray[np.float32]]
) -> None:
    pictures = [path.read_bytes() for path in demo_pictures()]
    found = stood_in.encode_image(pictures)
    np.testing.assert_allclose(found, client.encode_image(pictures), atol=1e-5)
    np.testing.assert_allclose(found, demo_golden["images"], atol=1e-5)


def test_files_and_strings_are_answered_as_by_the_python_runtime(
    server: TritonServer, demo_golden: dict[str, NDArray[np.float32]]
) -> None:
    pictures = [path.read_bytes() for path in demo_pictures()][:8]
    strings = [text.encode() for text in texts(32)][:8]
    images, embedded = demo_golden["images"][:8], demo_golden["texts"][:8]
    with stub_of(server.address) as stub:

        def ask(model: str, **inputs: list[bytes]) -> dict[str, NDArray[np.float32]]:
            return tensors_of(stub.ModelInfer(request_of(model, inputs), timeout=30))

        found = ask("clip_image_file", image=pictures)["embedding"]
        np.testing.assert_allclose(found, images, atol=1e-5)
        found = ask("clip_text_string", text=strings)["embedding"]
        np.testing.assert_allclose(found, embedded, atol=1e-5)
        pairs = ask("clip", image=pictures, text=strings)
        np.testing.assert_allclose(pairs["image_embedding"], images, atol=1e-5)
        np.testing.assert_allclose(pairs["text_embedding"], embedded, atol=1e-5)


def test_they_give_the_known_answers(server: TritonServer) -> None:
    report = check_server(server.address)
    assert (report.status, report.problems()) == ("good", "")


def test_the_card_is_that_of_the_python_runtime(stood_in: Client, client: Client) -> None:
    assert stood_in.card == client.card


def test_it_says_that_it_is_a_stand_in(server: TritonServer, stood_in: Client) -> None:
    log = server.log.read_text(encoding="utf-8")
    assert log.count("STAND-IN for the backend") == 2


def test_requests_meet_in_batches(
    server: TritonServer, stood_in: Client, demo_golden: dict[str, NDArray[np.float32]]
) -> None:
    """Those of one length do, and every answer goes back to whom it belongs."""
    strings = texts(32) * 8
    with InferenceServerClient(server.address) as triton:

        def counted() -> tuple[int, int]:
            """Items answered, and executions that took."""
            (found,) = triton.get_inference_statistics("clip_text", as_json=True)["model_stats"]
            return int(found["inference_count"]), int(found["execution_count"])

        before = settled(counted)
        with ThreadPoolExecutor(32) as pool:
            found = np.concatenate(list(pool.map(stood_in.encode_text, strings)))
        items, runs = (now - then for now, then in zip(settled(counted), before, strict=True))
    np.testing.assert_allclose(found, np.tile(demo_golden["texts"], (8, 1)), atol=1e-5)
    assert items == len(strings)
    assert runs < items


def test_an_ensemble_takes_the_tower_as_a_step(
    repositories: dict[str, Path], demo_bundle: Bundle
) -> None:
    tower = {"clip_text": demo_bundle.file("text.fp32.onnx")}
    with (
        TritonServer(repositories["tensorrt"], prepare=stand_ins(["tensorrt"], tower)) as server,
        InferenceServerClient(server.address) as triton,
    ):
        tokens = np.array([[5, 6, 7]], np.int32)
        answers = []
        for model, given, got in (("clip_again", "given", "got"), ("clip_text", TOKENS, EMBEDDING)):
            tensor = InferInput(given, [1, 3], "INT32")
            tensor.set_data_from_numpy(tokens)
            answers.append(triton.infer(model, [tensor]).as_numpy(got))
        np.testing.assert_allclose(answers[0], answers[1], atol=1e-6)
        # Without a tower of its own it answers zeros, which are no embedding.
        tensor = InferInput("pixels", [1, 64, 64, 3], "UINT8")
        tensor.set_data_from_numpy(np.zeros((1, 64, 64, 3), np.uint8))
        assert not triton.infer("clip_image", [tensor]).as_numpy(EMBEDDING).any()


def test_more_items_than_the_engine_takes_are_refused(repositories: dict[str, Path]) -> None:
    with (
        TritonServer(repositories["tensorrt"], prepare=stand_ins(["tensorrt"], {})) as server,
        InferenceServerClient(server.address) as triton,
    ):
        tensor = InferInput(TOKENS, [9, 4], "INT32")
        tensor.set_data_from_numpy(np.ones((9, 4), np.int32))
        with pytest.raises(InferenceServerException, match="batch-size must be <= 8"):
            triton.infer("clip_text", [tensor])
