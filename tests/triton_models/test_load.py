"""Many callers at once, and callers who speak to Triton without the client."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from cases import demo_pictures, texts
from numpy.typing import NDArray
from patience import settled
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from cliprt import Bundle, Client, Connection, Overloaded
from cliprt_triton import Policy, TritonServer, write_repository

SECONDS = 30
THREADS = 64


def test_sixty_four_threads_for_thirty_seconds(
    demo_server: TritonServer, demo_golden: dict[str, NDArray[np.float32]]
) -> None:
    """No error, every answer right, and Triton really batches."""
    pictures = [path.read_bytes() for path in demo_pictures()]
    strings = texts(32)
    stop = time.monotonic() + SECONDS
    with Client(demo_server.address) as client, InferenceServerClient(demo_server.address) as raw:
        before = settled(lambda: statistics(raw))

        def caller(number: int) -> int:
            calls = 0
            while time.monotonic() < stop:
                k = (number * 31 + calls * 7) % len(pictures)
                found = client.encode_image(pictures[k])
                np.testing.assert_allclose(found, demo_golden["images"][k : k + 1], atol=1e-5)
                k = (number * 17 + calls * 5) % len(strings)
                found = client.encode_text(strings[k])
                np.testing.assert_allclose(found, demo_golden["texts"][k : k + 1], atol=1e-5)
                calls += 1
            return calls

        with ThreadPoolExecutor(THREADS) as pool:
            calls = list(pool.map(caller, range(THREADS)))
        after = settled(lambda: statistics(raw))
    assert min(calls) > 0
    for model in ("clip_image", "clip_text"):
        items = after[model][0] - before[model][0]
        runs = after[model][1] - before[model][1]
        assert items == sum(calls)
        assert items > 1.5 * runs


def statistics(raw: InferenceServerClient) -> dict[str, tuple[int, int]]:
    """Per model: items answered, and executions that took."""
    models = raw.get_inference_statistics(as_json=True)["model_stats"]
    # What was never asked is not counted.
    return {
        model["name"]: (int(model.get("inference_count", 0)), int(model.get("execution_count", 0)))
        for model in models
        if "inference_count" in model
    }


@pytest.fixture
def raw(demo_server: TritonServer) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(demo_server.address) as raw:
        yield raw


def infer(raw: InferenceServerClient, model: str, name: str, array: NDArray[np.generic]) -> object:
    tensor = InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(array)
    return raw.infer(model, [tensor]).as_numpy("embedding")


BAD_TENSORS = {
    "too many items": ("clip_image", "pixels", np.zeros((65, 64, 64, 3), np.uint8)),
    "other size": ("clip_image", "pixels", np.zeros((1, 32, 64, 3), np.uint8)),
    "floats": ("clip_image", "pixels", np.zeros((1, 64, 64, 3), np.float32)),
    "no batch": ("clip_image", "pixels", np.zeros((64, 64, 3), np.uint8)),
    "negative id": ("clip_text", "tokens", np.array([[5, -1]], np.int32)),
    "id beyond the vocabulary": ("clip_text", "tokens", np.array([[5, 2**31 - 1]], np.int32)),
    "64 bit": ("clip_text", "tokens", np.array([[5, 6]], np.int64)),
    "too long": ("clip_text", "tokens", np.ones((1, 33), np.int32)),
    "too short": ("clip_text", "tokens", np.ones((1, 1), np.int32)),
    "other model": ("clip_none", "tokens", np.ones((1, 5), np.int32)),
}


@pytest.mark.parametrize("bad", BAD_TENSORS.values(), ids=BAD_TENSORS)
def test_a_bad_tensor_costs_nobody_else(
    raw: InferenceServerClient,
    client: Client,
    bad: tuple[str, str, NDArray[np.generic]],
    demo_golden: dict[str, NDArray[np.float32]],
) -> None:
    with pytest.raises(InferenceServerException):
        infer(raw, *bad)
    found = client.encode_text(texts(32)[:5])
    np.testing.assert_allclose(found, demo_golden["texts"][:5], atol=1e-5)


def test_good_neighbours_of_a_bad_tensor_are_answered(
    raw: InferenceServerClient, client: Client, demo_golden: dict[str, NDArray[np.float32]]
) -> None:
    strings = texts(32)
    stop = threading.Event()
    refused = []

    def attack() -> None:
        while not stop.is_set():
            with pytest.raises(InferenceServerException, match="token ids must lie in 0 to"):
                infer(raw, "clip_text", "tokens", np.full((4, 9), -7, np.int32))
            refused.append(1)

    with ThreadPoolExecutor(9) as pool:
        attacker = pool.submit(attack)
        for _ in range(5):
            found = list(pool.map(client.encode_text, strings))
            np.testing.assert_allclose(np.concatenate(found), demo_golden["texts"], atol=1e-5)
        stop.set()
        attacker.result()
    assert refused


def test_files_outside_the_list_are_not_handed_out(raw: InferenceServerClient) -> None:
    for name in ("card.json", "../model.py", "/etc/passwd", ""):
        tensor = InferInput("name", [len(name)], "UINT8")
        tensor.set_data_from_numpy(np.frombuffer(name.encode(), np.uint8))
        with pytest.raises(InferenceServerException, match=r"no such file|expected|empty"):
            raw.infer("clip_card", [tensor])


def test_a_full_queue_refuses_at_once(demo_bundle: Bundle) -> None:
    policy = Policy(max_batch_size=1, max_queue_size=1)
    repository = write_repository(demo_bundle, demo_bundle.path.parent / "narrow", policy=policy)
    with (
        TritonServer(repository) as server,
        Client(Connection(server.address, retry=None)) as client,
        ThreadPoolExecutor(32) as pool,
    ):
        futures = [pool.submit(client.encode_text, "a b c") for _ in range(200)]
        errors = [future.exception() for future in futures]
        refused = [error for error in errors if error is not None]
        assert refused
        assert all(isinstance(error, Overloaded) for error in refused)
        assert "wait before trying again" in str(refused[0])
        assert client.encode_text("a b c").shape == (1, client.card.dim)


def test_the_status_of_a_bad_tensor_is_invalid_argument(demo_server: TritonServer) -> None:
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    with grpc.insecure_channel(demo_server.address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        tokens = np.array([[1, -1]], np.int32)
        request = service_pb2.ModelInferRequest(
            model_name="clip_text", raw_input_contents=[tokens.tobytes()]
        )
        request.inputs.add(name="tokens", datatype="INT32", shape=tokens.shape)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(request, timeout=60)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
