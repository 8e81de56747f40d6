"""Whatever is measured computes the same, and says what it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import msgspec
import numpy as np
import pytest
from bench_cards import target
from bench_subjects import Counted
from http_front import running_front
from numpy.typing import NDArray
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

from cliprt import Bundle, DeploymentError, InvalidInput, ServerError
from cliprt._connection import Connection
from cliprt._names import PRECISION_PARAMETER, ModelNames
from cliprt_bench import _targets
from cliprt_bench._front import OpenAiFront
from cliprt_bench._inputs import drawn_inputs
from cliprt_bench._targets import (
    Ensembles,
    InProcess,
    Served,
    Subject,
    certified,
    precisions_of,
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
        assert target.device == "cpu"
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
    found = certified(demo_bundle, {"image": "fp32", "text": "fp32"})
    assert set(found) == {"image", "text"}
    assert 0.9999 < found["image"].p01_cosine <= 1.0001
    assert set(certified(demo_bundle, {"image": "fp32", "text": "fp8"})) == {"image"}
    assert certified(None, {"image": "fp32"}) == {}
    assert certified(demo_bundle, {}) == {}


def test_the_fastest_precision_is_told_by_its_name(demo_bundle: Bundle) -> None:
    local = InProcess(demo_bundle, "fastest")
    try:
        chosen = {tower: local.clip.precision(tower) for tower in local.towers}
    finally:
        local.close()
    assert precisions_of(local) == chosen
    assert local.target.precision == "+".join(sorted(set(chosen.values())))


def test_a_precision_that_there_is_not(demo_bundle: Bundle) -> None:
    with pytest.raises(InvalidInput, match="precision must be one of"):
        InProcess(demo_bundle, "fp16")


def test_a_precision_for_all_towers() -> None:
    subject = Counted()
    assert precisions_of(subject) == {"image": "fp32", "text": "fp32"}
    subject.target = target(None)
    assert precisions_of(subject) == {}


class Configured:
    """A channel to a server whose towers are configured as a test says."""

    def __init__(self, **configs: ModelConfig) -> None:
        self._configs = configs

    def server_version(self, timeout_s: float) -> str:
        return "2.1"

    def model_config(self, name: str, timeout_s: float) -> ModelConfig:
        return self._configs[name]

    def close(self) -> None:
        pass


def config(kind: str, precision: str | None = None, backend: str = "onnxruntime") -> ModelConfig:
    made = ModelConfig(backend=backend)
    made.instance_group.add(count=1, kind=ModelInstanceGroup.Kind.Value(kind))
    if precision is not None:
        made.parameters[PRECISION_PARAMETER].string_value = precision
    return made


@pytest.mark.parametrize(
    ("image", "text", "precision", "device"),
    [
        (config("KIND_CPU", "fp32"), config("KIND_CPU", "fp32"), "fp32", "cpu"),
        (config("KIND_CPU"), config("KIND_CPU"), None, "cpu"),
        (config("KIND_CPU", "fp32"), config("KIND_CPU"), None, "cpu"),
        (config("KIND_CPU", "int8-cpu"), config("KIND_CPU", "fp32"), "fp32+int8-cpu", "cpu"),
        (config("KIND_GPU", "fp16"), config("KIND_CPU", "fp16"), "fp16", "gpu"),
        (config("KIND_AUTO", "fp16", "tensorrt"), config("KIND_AUTO", "fp16"), "fp16", "gpu"),
        (config("KIND_AUTO", "fp32"), config("KIND_CPU", "fp32"), "fp32", None),
    ],
)
def test_only_what_a_server_says_is_told(
    monkeypatch: pytest.MonkeyPatch,
    image: ModelConfig,
    text: ModelConfig,
    precision: str | None,
    device: str | None,
) -> None:
    names = ModelNames("clip")
    channel = Configured(**{names.image: image, names.text: text})
    monkeypatch.setattr(_targets, "TritonChannel", lambda connection: channel)
    towers = ("image", "text")
    found = _targets._served_target("served", "a name", Connection("host:1"), names, towers)
    assert (found.precision, found.device, found.process) == (precision, device, "remote")


def test_a_front_that_is_not_there() -> None:
    with pytest.raises(DeploymentError, match="127.0.0.1:1 did not answer"):
        OpenAiFront("http://127.0.0.1:1/v1")
