"""Whatever is measured computes the same, and says what it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import msgspec
import numpy as np
import pytest
from http_front import running_front
from numpy.typing import NDArray

from cliprt import Bundle, DeploymentError, InvalidInput, ServerError
from cliprt._connection import Connection
from cliprt_bench._inputs import drawn_inputs
from cliprt_bench._targets import (
    Ensembles,
    InProcess,
    OpenAiFront,
    Served,
    Subject,
    certified,
)
from cliprt_triton import TritonServer

INPUTS = drawn_inputs(3, 5)


@pytest.fixture(scope="module")
def front(demo_server: TritonServer) -> Iterator[str]:
    with running_front(demo_server.address) as running:
        yield running.url


@pytest.fixture(scope="module", params=["local", "served", "ensemble", "openai"])
def subject(
    request: pytest.FixtureRequest, demo_bundle: Bundle, demo_server: TritonServer, front: str
) -> Iterator[Subject]:
    connection = Connection(demo_server.address)
    made: Subject
    if request.param == "local":
        made = InProcess(demo_bundle)
    elif request.param == "openai":
        made = OpenAiFront(front, bundle=demo_bundle, process_ids=(demo_server.pid,))
    else:
        made = {"served": Served, "ensemble": Ensembles}[request.param](connection)
    assert made.target.kind == request.param
    yield made
    made.close()


@pytest.fixture(scope="module")
def expected(demo_bundle: Bundle) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    local = InProcess(demo_bundle)
    try:
        return local.images(INPUTS.pictures), local.texts(INPUTS.captions)
    finally:
        local.close()


def test_all_compute_the_same(
    subject: Subject, expected: tuple[NDArray[np.float32], NDArray[np.float32]]
) -> None:
    np.testing.assert_allclose(subject.images(list(INPUTS.pictures)), expected[0], atol=1e-5)
    np.testing.assert_allclose(subject.texts(list(INPUTS.captions)), expected[1], atol=1e-5)


def test_all_say_what_they_are(subject: Subject, demo_bundle: Bundle) -> None:
    card = demo_bundle.card
    assert (subject.model.name, subject.model.space) == (card.name, card.space)
    assert subject.model.dim == card.dim
    assert subject.towers == ("image", "text")
    assert subject.tokenizer() is not None
    target = subject.target
    assert target.process == ("own" if target.kind == "local" else "other")
    if target.kind in ("served", "ensemble"):
        assert target.runtime is not None
        assert target.runtime.startswith("Triton 2.")
        assert target.precision == "fp32"
        assert "max batch" in target.settings["image"]


def test_a_bad_picture_fails(subject: Subject) -> None:
    with pytest.raises((InvalidInput, ServerError)):
        subject.images([b"no picture"])


@pytest.mark.parametrize("made", [Served, Ensembles])
def test_another_bundle_than_the_served_one_is_refused(
    made: type[Served | Ensembles], demo_server: TritonServer, demo_bundle: Bundle
) -> None:
    card = msgspec.structs.replace(demo_bundle.card, space="f" * 64)
    other = dataclasses.replace(demo_bundle, card=card)
    with pytest.raises(InvalidInput, match="pass the bundle that is served"):
        made(Connection(demo_server.address), bundle=other)


def test_what_a_certificate_says(demo_bundle: Bundle) -> None:
    found = certified(demo_bundle, "fp32")
    assert set(found) == {"image", "text"}
    assert 0.9999 < found["image"].p01_cosine <= 1.0001
    assert certified(demo_bundle, "fp8") == {}
    assert certified(None, "fp32") == {}
    assert certified(demo_bundle, None) == {}


def test_a_front_that_is_not_there() -> None:
    with pytest.raises(DeploymentError, match="127.0.0.1:1 did not answer"):
        OpenAiFront("http://127.0.0.1:1/v1")


@pytest.mark.parametrize("url", ["https://host", "http://", "ftp://host"])
def test_addresses_that_are_no_fronts(url: str) -> None:
    with pytest.raises(ValueError, match="the address of a front is http://host:port"):
        OpenAiFront(url)
