"""Items that raise inside the server, and requests that a cache could take for others."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from cases import demo_pictures
from faults import LIMIT_S, models_of, supervised
from numpy.typing import NDArray
from wire import refusal, request_of, stub_of, tensors_of

from cliprt import AsyncClient, Bundle, Client
from cliprt_triton import Policy, TritonServer, write_repository

NEXT = 1000
PICTURE = demo_pictures()[0].read_bytes()
POISON = {
    "no picture": ("clip_image_file", {"image": [b"no picture"]}),
    "half a picture": ("clip_image_file", {"image": [PICTURE[: len(PICTURE) // 2]]}),
    "a bad text": ("clip_text_string", {"text": [b"\xff"]}),
    "ids beyond the vocabulary": ("clip_text", {"tokens": np.array([[2**31 - 1, 0]], np.int32)}),
    "ids below zero": ("clip_text", {"tokens": np.array([[-1, 0]], np.int32)}),
    "half a pair": ("clip", {"image": [b"no picture"], "text": [b"a"]}),
}


@pytest.fixture(scope="module")
def server(
    small_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonServer]:
    folder = tmp_path_factory.mktemp("poison") / "models"
    policy = Policy(cache_texts=True)
    repository = write_repository(small_bundle, folder, policy=policy, link=True)
    with supervised(repository, response_cache_bytes=2**20) as server:
        yield server


def test_poison_costs_its_own_request_alone(server: TritonServer) -> None:
    """The next thousand requests are right, and the same processes answer them."""
    models = models_of(server)
    texts = [f"a picture of {number}" for number in range(NEXT)]
    with Client(server.address) as client:
        expected = client.encode_text(texts)
    with stub_of(server.address) as stub:
        for model, inputs in POISON.values():
            call = stub.ModelInfer.future(request_of(model, inputs), timeout=LIMIT_S)
            assert refusal(call.result)[0] == grpc.StatusCode.INVALID_ARGUMENT

    async def ask() -> NDArray[np.float32]:
        room = asyncio.Semaphore(64)
        async with AsyncClient(server.address, timeout_s=LIMIT_S) as client:

            async def one(text: str) -> NDArray[np.float32]:
                async with room:
                    return (await client.encode_text(text))[0]

            return np.stack(await asyncio.gather(*map(one, texts)))

    np.testing.assert_allclose(asyncio.run(ask()), expected, atol=1e-5)
    assert models_of(server) == models


def test_a_cache_takes_no_request_for_another_of_the_same_bytes(server: TritonServer) -> None:
    ids = np.array([49406, 320, 49407, 49407], np.int32)
    with stub_of(server.address) as stub:

        def embedding(tokens: NDArray[np.int32]) -> NDArray[np.float32]:
            request = request_of("clip_text", {"tokens": tokens})
            return tensors_of(stub.ModelInfer(request, timeout=LIMIT_S))["embedding"]

        for _ in range(2):  # the second time from the cache
            one, two = embedding(ids[None]), embedding(ids.reshape(2, 2))
            assert (one.shape, two.shape) == ((1, 24), (2, 24))
            assert np.abs(one - two[:1]).max() > 1e-3
