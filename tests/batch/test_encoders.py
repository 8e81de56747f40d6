"""Served batches are always full, and nobody waits longer than he is asked to."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cliprt import ClosedError, InvalidInput, ServerError, ServerUnavailable
from cliprt_batch._encoders import ServedEncoder


class Stub:
    """A client that writes down how many items each of its requests has."""

    def __init__(self, most: int, refused: frozenset[str] = frozenset(), fails: int = 0) -> None:
        self.requests: list[int] = []
        self.closed = threading.Event()
        self.card = SimpleNamespace(dim=2)
        self._core = SimpleNamespace(most=lambda tower: most, endpoints=1)
        self._refused, self._fails = refused, fails

    def encode_text(self, texts: list[str], *, batch_size: int, **_: Any) -> list[Any]:
        self._fail()
        good = [text for text in texts if text not in self._refused]
        self._count(len(good), batch_size)
        return [
            InvalidInput("too long") if text in self._refused else np.full(2, len(text), np.float32)
            for text in texts
        ]

    def encode_image(self, images: list[Any], *, batch_size: int) -> Any:
        self._fail()
        self._count(len(images), batch_size)
        return np.array([image.pixels.ravel()[:2] for image in images], np.float32)

    def close(self) -> None:
        self.closed.set()

    def _fail(self) -> None:
        if self._fails:
            self._fails -= 1
            raise ServerUnavailable("gone")

    def _count(self, items: int, size: int) -> None:
        while items > 0:
            self.requests.append(min(size, items))
            items -= size


def encoder(stub: Stub, patience_s: float = 0.0) -> ServedEncoder:
    return ServedEncoder(stub, truncate=False, patience_s=patience_s)  # type: ignore[arg-type]


@given(st.integers(1, 40), st.integers(1, 70))
def test_pictures_fill_their_requests(most: int, count: int) -> None:
    stub = Stub(most)
    pixels = np.arange(count * 12, dtype=np.uint8).reshape(count, 2, 2, 3)
    embeddings = encoder(stub).images(pixels)
    assert np.array_equal(embeddings, pixels.reshape(count, -1)[:, :2].astype(np.float32))
    assert set(stub.requests) == {most}


@given(st.integers(1, 20), st.lists(st.sampled_from("abcd"), min_size=1, max_size=60))
def test_refused_texts_leave_no_gap(most: int, letters: list[str]) -> None:
    texts = [letter * (place + 1) for place, letter in enumerate(letters)]
    stub = Stub(most, frozenset(text for text in texts if text[0] == "d"))
    answers = encoder(stub).texts(texts)
    for text, answer in zip(texts, answers, strict=True):
        if text[0] == "d":
            assert isinstance(answer, InvalidInput)
        else:
            assert answer[0] == len(text)
    good = sum(text[0] != "d" for text in texts)
    # The answers that count are those of the last call, and its requests were full.
    last = -(-good // most)
    assert stub.requests[len(stub.requests) - last :] == [most] * last


def test_a_server_that_comes_back_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cliprt_batch._encoders._PAUSE_S", 0.001)
    assert len(encoder(Stub(4, fails=3), patience_s=60).texts(["a"])) == 1


def test_one_that_does_not_is_told() -> None:
    with pytest.raises(ServerUnavailable):
        encoder(Stub(4, fails=10**6)).texts(["a"])


def test_who_waits_can_be_stopped() -> None:
    stub = Stub(4, fails=10**6)
    patient = encoder(stub, patience_s=3600)
    raised: list[BaseException] = []

    def ask() -> None:
        try:
            patient.texts(["a"])
        except ClosedError as error:
            raised.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(0.05)
    patient.stop()
    asking.join(30)
    assert not asking.is_alive()
    assert len(raised) == 1
    assert stub.closed.is_set()


def test_a_request_that_failed_is_no_texts_fault() -> None:
    stub = Stub(4)
    stub.encode_text = lambda texts, **_: [ServerError("broken")] * len(texts)  # type: ignore[method-assign]
    with pytest.raises(ServerError, match="broken"):
        encoder(stub).texts(["a", "b"])
