"""One suite for every way in: the same embeddings, the same errors, the same limits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from cases import demo_pictures, texts
from hostile import strings
from http_front import running_front
from numpy.typing import NDArray
from PIL import Image
from ways import Awaiting, Blocking, EnsembleOverGrpc, EnsembleOverHttp, InProcess, OpenAi, Way

from cliprt import Bundle, InvalidInput, Limits
from cliprt_engines import LocalClip
from cliprt_triton import TritonServer, write_repository

# Narrow, so that a test can go beyond them; each way is told the same ones.
LIMITS = Limits(
    max_image_bytes=200_000,
    max_image_pixels=300_000,
    max_image_aspect_ratio=20,
    max_text_characters=2_000,
)

WAYS = ("LocalClip", "Client", "AsyncClient", "ensemble gRPC", "ensemble HTTP", "OpenAI")


@pytest.fixture(scope="module")
def served(demo_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    folder = tmp_path_factory.mktemp("conformance") / "repository"
    write_repository(demo_bundle, folder, limits=LIMITS)
    with TritonServer(folder, http_port=0) as server:
        yield server


@pytest.fixture(scope="module")
def front(served: TritonServer) -> Iterator[str]:
    with running_front(served.address, limits=LIMITS) as running:
        yield running.url


@pytest.fixture(scope="module", params=WAYS)
def way(
    request: pytest.FixtureRequest, served: TritonServer, demo_bundle: Bundle, front: str
) -> Iterator[Way]:
    makers: dict[str, Callable[[], Any]] = {
        "LocalClip": lambda: InProcess(demo_bundle, LIMITS),
        "Client": lambda: Blocking(served.address, LIMITS),
        "AsyncClient": lambda: Awaiting(served.address, LIMITS),
        "ensemble gRPC": lambda: EnsembleOverGrpc(served.address),
        "ensemble HTTP": lambda: EnsembleOverHttp(str(served.http_url)),
        "OpenAI": lambda: OpenAi(front),
    }
    made = makers[request.param]()
    yield made
    made.close()


@pytest.fixture(scope="module")
def reference(demo_bundle: Bundle) -> Iterator[LocalClip]:
    with LocalClip(demo_bundle, limits=LIMITS) as clip:
        yield clip


def files() -> list[bytes]:
    return [path.read_bytes() for path in demo_pictures()]


def encoded(width: int, height: int, kind: str = "PNG", mode: str = "RGB") -> bytes:
    buffer = BytesIO()
    Image.new(mode, (width, height), 120).save(buffer, kind)
    return buffer.getvalue()


def test_pictures_are_embedded_the_same(
    way: Way, demo_golden: dict[str, NDArray[np.float32]]
) -> None:
    np.testing.assert_allclose(way.images(files()), demo_golden["images"], atol=1e-5)


def test_texts_are_embedded_the_same(way: Way, demo_golden: dict[str, NDArray[np.float32]]) -> None:
    np.testing.assert_allclose(way.texts(texts(32)), demo_golden["texts"], atol=1e-5)


def test_hostile_texts_are_embedded_the_same(way: Way, reference: LocalClip) -> None:
    hostile = [text for text in strings() if len(text) <= LIMITS.max_text_characters][:256]
    for start in range(0, len(hostile), 64):
        part = hostile[start : start + 64]
        np.testing.assert_allclose(way.texts(part), reference.encode_text(part), atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("PNG", "RGBA"), ("PNG", "L"), ("PNG", "1"), ("GIF", "P"), ("BMP", "RGB"), ("WEBP", "RGB")],
)
def test_formats_are_embedded_the_same(
    way: Way, reference: LocalClip, kind: str, mode: str
) -> None:
    picture = encoded(90, 70, kind, mode)
    np.testing.assert_allclose(way.images([picture]), reference.encode_image([picture]), atol=1e-5)


def test_an_item_alone_is_itself_in_a_batch(way: Way) -> None:
    pictures, given = files()[:8], texts(32)[:8]
    alone = np.concatenate([way.images([picture]) for picture in pictures])
    np.testing.assert_allclose(way.images(pictures), alone, atol=1e-5)
    alone = np.concatenate([way.texts([text]) for text in given])
    np.testing.assert_allclose(way.texts(given), alone, atol=1e-5)


BAD_PICTURES = {
    "empty": b"",
    "text": b"hello, I am text",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "random": np.random.default_rng(0).bytes(5000),
    "truncated": demo_pictures()[0].read_bytes()[:500],
    "tiff": encoded(20, 20, "TIFF"),
    "too many bytes": encoded(20, 20) + b"\0" * 200_000,
    "too many pixels": encoded(600, 600),
    "too narrow": encoded(5, 400),
}


@pytest.mark.parametrize("bad", BAD_PICTURES.values(), ids=BAD_PICTURES)
def test_bad_pictures_are_refused_with_the_same_words(
    way: Way, reference: LocalClip, bad: bytes
) -> None:
    good = files()[0]
    expected = refusal(lambda: reference.encode_image([good, good, bad]))
    found = refusal(lambda: way.images([good, good, bad]))
    assert (str(found), found.index) == (str(expected), 2)
    assert way.images([good]).shape == (1, reference.card.dim)


BAD_TEXTS = {"too long": "a" * 2_001, "much too long": "word " * 100_000}


@pytest.mark.parametrize("bad", BAD_TEXTS.values(), ids=BAD_TEXTS)
def test_bad_texts_are_refused_with_the_same_words(
    way: Way, reference: LocalClip, bad: str
) -> None:
    expected = refusal(lambda: reference.encode_text(["a", bad]))
    found = refusal(lambda: way.texts(["a", bad]))
    assert (str(found), found.index) == (str(expected), 1)
    assert way.texts(["a"]).shape == (1, reference.card.dim)


def test_what_is_just_within_the_limits_is_taken(way: Way, reference: LocalClip) -> None:
    text = "ab " * 666 + "ab"
    assert len(text) == 2_000
    np.testing.assert_allclose(way.texts([text]), reference.encode_text([text]), atol=1e-5)
    for picture in (encoded(600, 500), encoded(400, 20)):
        expected = reference.encode_image([picture])
        np.testing.assert_allclose(way.images([picture]), expected, atol=1e-5)


def test_a_bad_item_costs_no_other_caller(way: Way, reference: LocalClip) -> None:
    """Good and bad requests at once, so that they meet in one batch of the server."""
    good, wrong = files()[1], []
    expected = reference.encode_image([good])

    def call(index: int) -> None:
        try:
            if index % 2:
                refusal(lambda: way.images([b"bad"]))
            else:
                np.testing.assert_allclose(way.images([good]), expected, atol=1e-5)
        except BaseException as error:  # noqa: BLE001 - told below, in the test's own thread
            wrong.append(error)

    if isinstance(way, Awaiting):
        pytest.skip("one event loop; tests/client/test_calls.py has many calls on it")
    threads = [threading.Thread(target=call, args=(index,)) for index in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []


def refusal(call: Callable[[], Sequence[Any] | NDArray[Any]]) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        call()
    return caught.value
