"""Items that make models raise, and requests that a cache could take for others."""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from cases import arrays, demo_pictures
from faults import LIMIT_S, models_of, supervised
from numpy.typing import NDArray
from PIL import Image
from wire import refusal, request_of, stub_of, tensors_of

from cliprt import AsyncClient, Bundle, Client
from cliprt_triton import Policy, TritonServer, write_repository

# Ten thousand together. Pairs are asked for without a client, as no client asks for both at once.
TEXTS, PICTURES, PAIRS = 6_000, 2_000, 2_000
UNDER_WAY = 64

PICTURE = demo_pictures()[0].read_bytes()
CONTEXT = 77
POISONOUS = 4711


def ids(odd: int) -> NDArray[np.int32]:
    """A text of the length that the tower takes, one token of which is odd."""
    row = np.full((1, CONTEXT), 49407, np.int32)
    row[0, :3] = 49406, 320, odd
    return row


POISON = {
    "no picture": ("clip_image_file", {"image": [b"no picture"]}),
    "half a picture": ("clip_image_file", {"image": [PICTURE[: len(PICTURE) // 2]]}),
    "a bad text": ("clip_text_string", {"text": [b"\xff"]}),
    "ids beyond the vocabulary": ("clip_text", {"tokens": ids(2**31 - 1)}),
    "ids below zero": ("clip_text", {"tokens": ids(-1)}),
    "half a pair": ("clip", {"image": [b"no picture"], "text": [b"a"]}),
}

# Nobody foresaw these: the models that meet them raise what no model should.
UNFORESEEN = {
    "ids": ("clip_text", {"tokens": ids(POISONOUS)}),
    "a file": ("clip_image_file", {"image": [b"poison"]}),
    "one of a pair": ("clip", {"image": [b"poison"], "text": [b"a"]}),
}
RAISING_TOWER = f"""
from cliprt_triton.models.tower import TritonPythonModel as Sound


class TritonPythonModel(Sound):
    def _embed(self, batches):
        if any((batch == {POISONOUS}).any() for batch in batches):
            raise ZeroDivisionError("a poisonous token")
        return super()._embed(batches)
"""
RAISING_DECODER = """
import triton_python_backend_utils as pb_utils
from cliprt_triton.models.{module} import TritonPythonModel as Sound


class TritonPythonModel(Sound):
    def initialize(self, args):
        super().initialize(args)
        start = self._decoder.start

        def poisoned(request):
            items = pb_utils.get_input_tensor_by_name(request, "image").as_numpy()
            if b"poison" in items.ravel().tolist():
                raise ZeroDivisionError("a poisonous picture")
            return start(request)

        self._decoder.start = poisoned
"""
RAISING = {
    "clip_text": RAISING_TOWER,
    "clip_image_file": RAISING_DECODER.format(module="image_file"),
    "clip": RAISING_DECODER.format(module="both"),
}


def encoded(array: NDArray[np.uint8]) -> bytes:
    """A PNG."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def server(
    small_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonServer]:
    folder = tmp_path_factory.mktemp("poison") / "models"
    policy = Policy(cache_texts=True)
    repository = write_repository(small_bundle, folder, policy=policy, link=True)
    for model, content in RAISING.items():
        (code,) = (repository / model).glob("*/model.py")
        code.unlink()  # it may be a link
        code.write_text(content, encoding="utf-8")
    with supervised(repository, response_cache_bytes=2**20) as server:
        yield server


def test_poison_costs_its_own_request_alone(server: TritonServer) -> None:
    """The next ten thousand requests are right, and the same processes answer them."""
    models = models_of(server)
    texts = [f"a picture of {number}" for number in range(TEXTS)]
    pictures = [encoded(array) for array in arrays(8, 40)]
    with Client(server.address) as client:
        of_texts, of_pictures = client.encode_text(texts), client.encode_image(pictures)
    with stub_of(server.address) as stub:
        for status, poison in (
            (grpc.StatusCode.INVALID_ARGUMENT, POISON),
            (grpc.StatusCode.INTERNAL, UNFORESEEN),
        ):
            for what, (model, inputs) in poison.items():
                call = stub.ModelInfer.future(request_of(model, inputs), timeout=LIMIT_S)
                code, words = refusal(call.result)
                assert code == status, (what, words)
                assert "tokens, the model takes" not in words  # not for its length

        async def ask() -> None:
            room = asyncio.Semaphore(UNDER_WAY)
            async with AsyncClient(server.address, timeout_s=LIMIT_S) as client:

                async def one(encode: Callable[..., Any], item: Any, row: Any) -> None:
                    async with room:
                        np.testing.assert_allclose((await encode(item))[0], row, atol=1e-5)

                asked = [(client.encode_text, *each) for each in zip(texts, of_texts, strict=True)]
                asked += [
                    (client.encode_image, pictures[number % 8], of_pictures[number % 8])
                    for number in range(PICTURES)
                ]
                # Neither kind behind the other.
                random.Random(0).shuffle(asked)
                await asyncio.gather(*(one(*each) for each in asked))

        asyncio.run(ask())
        for first in range(0, PAIRS, UNDER_WAY):
            numbers = range(first, min(first + UNDER_WAY, PAIRS))
            pending = [
                stub.ModelInfer.future(
                    request_of(
                        "clip", {"image": [pictures[each % 8]], "text": [texts[each].encode()]}
                    ),
                    timeout=LIMIT_S,
                )
                for each in numbers
            ]
            for each, call in zip(numbers, pending, strict=True):
                found = tensors_of(call.result())
                np.testing.assert_allclose(found["text_embedding"][0], of_texts[each], atol=1e-5)
                picture = of_pictures[each % 8]
                np.testing.assert_allclose(found["image_embedding"][0], picture, atol=1e-5)
    assert models_of(server) == models


def test_a_cache_takes_no_request_for_another_of_the_same_bytes(server: TritonServer) -> None:
    """Triton's cache compares bytes, so that a tower whose answers it keeps takes one shape."""
    row = ids(320)[0]
    rows = np.stack([row, np.roll(row, 1)])
    with stub_of(server.address) as stub:

        def embedding(tokens: NDArray[np.int32]) -> NDArray[np.float32]:
            request = request_of("clip_text", {"tokens": tokens})
            return tensors_of(stub.ModelInfer(request, timeout=LIMIT_S))["embedding"]

        for _ in range(2):  # the second time from the cache
            assert embedding(rows).shape == (2, 24)
            # One number apart, and not one's answer for the other.
            texts = ids(1000), ids(1001)
            answers = [embedding(each) for each in texts]
            assert np.abs(answers[0] - answers[1]).max() > 1e-3
            np.testing.assert_allclose(
                np.concatenate(answers), embedding(np.concatenate(texts)), atol=1e-5
            )
            for shape in ((1, 154), (14, 11), (154, 1)):
                with pytest.raises(grpc.RpcError) as refused:
                    embedding(rows.reshape(shape))
                assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
