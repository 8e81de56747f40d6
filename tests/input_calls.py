"""Calls and requests that are wrong as a whole, and what is promised for each on each way in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from http_front import post
from input_files import FILES
from input_tensors import post as post_to_triton
from input_texts import NO_TEXTS, TEXTS
from input_wire import chunked, compressed, deep_json, long_headers
from input_world import (
    ENSEMBLES,
    GOOD_TEXTS,
    LIMITS,
    ONLINE,
    PAIRS,
    PYTHON,
    SAME,
    World,
    plain_words,
    refused,
)
from ways import Unread
from wire import refusal, request_of

from cliprt import (
    AsyncClient,
    Client,
    ClosedError,
    DeadlineExceeded,
    ModelUnavailable,
)
from cliprt._texts import TextTokenizer
from cliprt_engines import LocalClip

REMOTE = ("Client", "AsyncClient")
SERVED = (*ENSEMBLES, PAIRS)
MIB = 2**20


@dataclass(frozen=True)
class Call:
    """Something that a caller does.

    Attributes:
        number: of the kind of input, 1 to 64.
        name: what is done.
        ways: where it can be done.
        do: does it on one of them; AssertionError where the answer is not as promised.
    """

    number: int
    name: str
    ways: tuple[str, ...]
    do: Callable[[World, str], None]

    def on(self, way: str) -> Callable[[World], None]:
        """It on a way in."""
        return lambda world: self.do(world, way)


def _data_uri(world: World, way: str, *, uri: str) -> None:
    answer = post(world.front, {"model": "clip", "input": ["a", uri]})
    assert (answer.status, answer.error()["param"]) == (400, "input[1]")
    plain_words(answer.error()["message"], way)


def _no_text(world: World, way: str, *, name: str) -> None:
    number, content = NO_TEXTS[name]
    # What JSON cannot say is sent as the bytes that it is.
    value = content[1:-1] if number == 47 else json.loads(content)
    if way == "batch":
        row = 3 * (len(TEXTS) + list(NO_TEXTS).index(name)) + 1
        plain_words(world.text_job.reasons[row], way)
        beside = [world.text_job.embeddings[row - 1], world.text_job.embeddings[row + 1]]
        np.testing.assert_allclose(beside, world.good_texts, atol=SAME)
    elif way == "OpenAI":
        answer = post(world.front, b'{"model": "clip", "input": ["a", %s]}' % content)
        assert answer.status == 400
        plain_words(answer.error()["message"], way)
    elif (way, number) == ("ensemble HTTP", 43):
        # Triton's own JSON cannot say it, so the request as a whole is not read.
        with pytest.raises(Unread, match="^failed to parse .* surrogate pair") as caught:
            world.ways[way].texts(["a", value])
        plain_words(str(caught.value), way)
    elif way in SERVED:
        said = "not valid UTF-8 at byte 2"
        refused(lambda: world.ways[way].texts(["a", value]), said, way)
    else:
        said = "lone surrogate" if number == 43 else "must be a str"
        refused(lambda: world.ways[way].texts(["a", value]), said, way)
        world.check_neighbours(way, "texts", value)


def _many_words(world: World, way: str) -> None:
    """The memory of who tokenizes does not grow with the number of words that were ever seen."""
    if way == "LocalClip":
        content = world.bundle.file("tokenizer.json").read_text(encoding="utf-8")
        tokenizer = TextTokenizer(content, world.bundle.card.text, LIMITS)
        process, take = psutil.Process(), tokenizer
    else:
        process = _tokenizing(world)

        def take(texts: list[str]) -> object:
            return world.stub.ModelInfer(request_of("clip_tokenize", {"text": _utf8(texts)}))

    # Of letters alone: tokenizers take digits one by one, and would see few words.
    letters = str.maketrans("0123456789", "qwrtypsdfg")

    def see(numbers: range) -> int:
        for start in numbers[::1000]:
            words = [f"{number:06}".translate(letters) for number in range(start, start + 1000)]
            take([" ".join(words)])
        return int(process.memory_info().rss)

    # Caches that have a size fill up first. One that has none grows by about 400 bytes a word.
    before = see(range(20_000))
    assert see(range(20_000, 80_000)) - before < 8 * MIB


def _tokenizing(world: World) -> psutil.Process:
    """The process in which the server tokenizes."""
    (found,) = (
        child
        for child in psutil.Process().children(recursive=True)
        if "clip_tokenize" in " ".join(child.cmdline()) and "stub" in child.name()
    )
    return found


def _utf8(texts: list[str]) -> list[bytes]:
    return [text.encode() for text in texts]


def _no_items(world: World, way: str) -> None:
    for call in (world.ways[way].images, world.ways[way].texts):
        said = "'input' is empty" if way == "OpenAI" else "batch is empty"
        refused(partial(call, []), "." if way in SERVED else said, way, index=None)


def _many_items(world: World, way: str) -> None:
    if way == "batch":
        # A job takes any number: this one's pictures are more than any batch.
        assert len(world.picture_job.embeddings) > 150
        world.picture_job.check_good(world.good_images)
        return
    many = [f"{number} red circles" for number in range(200)]
    if way in SERVED:
        refused(lambda: world.ways[way].texts(many), "must be <= 64", way, index=None)
        many = many[:64]
    found = world.ways[way].texts(many)
    np.testing.assert_allclose(found, world.reference.encode_text(many), atol=SAME)


def _one_in_64(world: World, way: str) -> None:
    files = [world.files[number % 2] for number in range(64)]
    files[17] = b"no picture"
    call = world.ways[way].images
    refused(lambda: call(files), "not an image", way, index=17)
    if way in PYTHON:
        found = call(files, on_error="return")
        good = [item for place, item in enumerate(found) if place != 17]
        right = [world.good_images[number % 2] for number in range(64) if number != 17]
        np.testing.assert_allclose(good, right, atol=SAME)
        assert found[17].index == 17


def _again(world: World, way: str) -> None:
    if way == "batch":
        # Every good item is in a job once for each bad one, and is kept as often.
        job = world.picture_job
        assert len(job.embeddings) + len(job.reasons) == 3 * len(FILES)
        job.check_good(world.good_images)
        return
    found = world.ways[way].images([world.files[0], world.files[1], world.files[0]])
    np.testing.assert_allclose(found, world.good_images[[0, 1, 0]], atol=SAME)
    found = world.ways[way].texts([GOOD_TEXTS[1], GOOD_TEXTS[1], GOOD_TEXTS[0]])
    np.testing.assert_allclose(found, world.good_texts[[1, 1, 0]], atol=SAME)


def _collections(world: World, way: str) -> None:
    for given in (tuple(GOOD_TEXTS), iter(GOOD_TEXTS), dict.fromkeys(GOOD_TEXTS).keys()):
        np.testing.assert_allclose(world.ways[way].texts(given), world.good_texts, atol=SAME)
    for given in (b"bytes", {"a": 1}, {"a"}, 7, None):
        call = partial(world.ways[way].texts, given)
        refused(call, "must be a list", way, index=None)


def _named(world: World, way: str, name: str) -> Any:
    if way == "Client":
        return Client(world.server.address, model=name)

    async def connect() -> None:
        async with AsyncClient(world.server.address, model=name):
            pass

    return asyncio.run(connect())


def _model_names(world: World, way: str) -> None:
    if way in REMOTE:
        for name in ("", " ", "../x", "a/b", "a\0", "."):
            with pytest.raises(ValueError, match="model name"):
                _named(world, way, name)
        with pytest.raises(ModelUnavailable, match="nothere"):
            _named(world, way, "nothere")
        return
    if way == "OpenAI":
        for name in ("", " ", "../x", "nothere"):
            answer = post(world.front, {"model": name, "input": "a"})
            assert (answer.status, answer.error()["code"]) == (404, "model_not_found")
        return
    for name, version in (("", ""), (" ", ""), ("../x", ""), ("nothere", ""), ("clip_text", "9"),
                          ("clip_text", "x"), ("clip_text", "-1")):  # fmt: skip
        if way.endswith("gRPC"):
            request = request_of(name, {"tokens": np.ones((1, 3), np.int32)})
            request.model_version = version
            code, text = refusal(lambda request=request: world.stub.ModelInfer(request))
            assert code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT), text
        else:
            path = f"/v2/models/{name.replace(' ', '%20')}" + (version and f"/versions/{version}")
            status, _ = post_to_triton(world.host, f"{path}/infer", b"{}", {})
            assert status in (400, 404)


def _deadlines(world: World, way: str) -> None:
    if way == "ensemble gRPC":
        request = request_of("clip_text_string", {"text": [b"a"]})
        for timeout_s in (0, -1):
            code, _ = refusal(lambda t=timeout_s: world.stub.ModelInfer(request, timeout=t))
            assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        return
    call = world.ways[way].texts
    for timeout_s in (0, -1, float("nan"), float("inf"), 1e9):
        with pytest.raises(ValueError, match="timeout_s must be"):
            call(["a"], timeout_s=timeout_s)
    with pytest.raises(DeadlineExceeded):
        call(["a"], timeout_s=1e-6)


def _after_close(world: World, way: str) -> None:
    if way == "AsyncClient":

        async def use() -> None:
            client = AsyncClient(world.server.address)
            await client.encode_text(["a"])
            await client.close()
            with pytest.raises(ClosedError):
                await client.encode_text(["a"])

        asyncio.run(use())
        return
    client = LocalClip(world.bundle) if way == "LocalClip" else Client(world.server.address)
    client.encode_text(["a"])
    client.close()
    with pytest.raises(ClosedError):
        client.encode_text(["a"])


def _crowd(world: World, way: str) -> None:
    if way == "AsyncClient":

        async def together() -> Any:
            async with AsyncClient(world.server.address) as client:
                return await asyncio.gather(*(client.encode_text(GOOD_TEXTS) for _ in range(64)))

        found = asyncio.run(together())
    else:
        with ThreadPoolExecutor(64) as pool:
            found = list(pool.map(world.ways[way].texts, [GOOD_TEXTS] * 64))
    for one in found:
        np.testing.assert_allclose(one, world.good_texts, atol=SAME)


def _calls() -> Iterator[Call]:
    for name, uri in {
        "base64 without its end": "data:image/png;base64,iVBORw0KGgo",
        "base64 with line breaks": "data:image/png;base64,iVBO\nRw0KGgo=",
        "a data URI of a text": "data:text/plain;base64,aGVsbG8=",
        "a data URI of nothing": "data:image/png;base64,",
    }.items():
        yield Call(30, name, ("OpenAI",), partial(_data_uri, uri=uri))
    for name, (number, _) in NO_TEXTS.items():
        ways = (*PYTHON, "OpenAI", "batch") if number == 37 else (*ONLINE, "batch")
        yield Call(number, name, ways, partial(_no_text, name=name))
    yield Call(41, "80,000 words", ("LocalClip", "ensemble gRPC"), _many_words)
    yield Call(49, "no items", ONLINE, _no_items)
    yield Call(50, "200 items", (*ONLINE, "batch"), _many_items)
    yield Call(51, "one bad picture of 64", ONLINE, _one_in_64)
    yield Call(52, "the same again", (*ONLINE, "batch"), _again)
    yield Call(52, "collections", PYTHON, _collections)
    yield Call(53, "names of models", (*REMOTE, *ENSEMBLES, "OpenAI"), _model_names)
    yield Call(54, "deadlines", (*REMOTE, "ensemble gRPC"), _deadlines)
    yield Call(55, "after close", PYTHON, _after_close)
    yield Call(55, "64 at once", PYTHON, _crowd)
    yield Call(62, "compressed", ("tower gRPC", "tower HTTP", "OpenAI"), compressed)
    yield Call(63, "JSON of great depth", ("tower HTTP", "OpenAI"), deep_json)
    yield Call(63, "long headers", ("tower gRPC", "tower HTTP", "OpenAI"), long_headers)
    yield Call(63, "chunks of a byte", ("tower HTTP", "OpenAI"), chunked)


CALLS: list[Call] = list(_calls())
