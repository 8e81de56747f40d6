"""Models that ask a tower: how long they hold what they prepared, and for whom they do it no more.

What Triton's Python backend gives to models, and the clock, are stand-ins here. With a real server
``tests/reliability/test_overload.py`` looks at the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cliprt import Overloaded
from cliprt._names import CARD_PARAMETER, EMBEDDING
from cliprt_triton._pipelines import IMAGE_MODEL_PARAMETER, TEXT_MODEL_PARAMETER
from cliprt_triton.models import _backend, both, image_file
from cliprt_triton.models._backend import Caller, Cancelled, FedTower, Setup

# How long a request may wait in the queue of the models, in seconds; they hold for a quarter of it.
WAIT_S, HOLD_S = 8.0, 2.0

FULL, LATE = "Exceeds maximum queue size", "Request timeout expired"
PIXELS = np.zeros((1, 2, 2, 3), np.uint8)

ARGS = {
    "model_config": json.dumps(
        {
            "max_batch_size": 4,
            "input": [],
            "dynamic_batching": {
                "default_queue_policy": {"default_timeout_microseconds": int(WAIT_S * 1e6)}
            },
            "parameters": {
                key: {"string_value": value}
                for key, value in {
                    CARD_PARAMETER: "none",
                    IMAGE_MODEL_PARAMETER: "clip_image",
                    TEXT_MODEL_PARAMETER: "clip_text",
                }.items()
            },
        }
    ),
    "model_repository": "models",
    "model_version": "7",
}


class Clock:
    """Stands where it is put, and goes on while somebody sleeps."""

    now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


class Triton:
    """What a model imports in Triton, with a tower that refuses until a moment."""

    class TritonError:
        INVALID_ARG, UNAVAILABLE, INTERNAL, CANCELLED = "invalid", "full", "internal", "cancelled"

        def __init__(self, words: str, code: str) -> None:
            self.words, self.code = words, code

        def message(self) -> str:
            return self.words

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.refusal, self.refuses_until = FULL, 0.0
        # When it was asked, and how long the request might wait from then on.
        self.asked: list[tuple[float, float]] = []

    def __call__(self) -> Triton:
        return self

    def Tensor(self, name: str, array: Any) -> Any:
        return SimpleNamespace(name=name, as_numpy=lambda: array)

    def InferenceResponse(self, tensors: Any = None, error: Any = None) -> Any:
        return SimpleNamespace(tensors=tensors, error=error)

    def InferenceRequest(self, **given: Any) -> Any:
        def answer() -> Any:
            self.asked.append((self._clock.now_s, given["timeout"] / 1e6))
            error = None
            if self._clock.now_s < self.refuses_until:
                error = self.TritonError(self.refusal, self.TritonError.UNAVAILABLE)
            return SimpleNamespace(has_error=lambda: error is not None, error=lambda: error)

        return SimpleNamespace(exec=answer)

    def get_output_tensor_by_name(self, response: Any, name: str) -> Any:
        assert name == EMBEDDING
        return self.Tensor(name, np.ones((1, 3), np.float32))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(_backend, "time", clock)
    return clock


@pytest.fixture
def triton(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Triton:
    triton = Triton(clock)
    monkeypatch.setattr(_backend, "pb_utils", triton)
    return triton


@pytest.fixture
def tower(triton: Triton) -> FedTower:
    return FedTower(Setup(ARGS), "clip_image", "pixels")


def request(timeout_s: float = 0.0, *, gone: Callable[[], bool] = lambda: False) -> Any:
    return SimpleNamespace(timeout=lambda: int(timeout_s * 1e6), is_cancelled=gone)


def caller(timeout_s: float = 0.0, *, gone: Callable[[], bool] = lambda: False) -> Caller:
    return Caller(request(timeout_s, gone=gone), Setup(ARGS))


def test_what_finds_room_is_answered(clock: Clock, triton: Triton, tower: FedTower) -> None:
    triton.refuses_until = clock.now_s + 0.5
    np.testing.assert_array_equal(tower.ask(PIXELS, caller()), np.ones((1, 3)))
    # Room is there for a moment, and others ask for it: nobody who is held looks away for long.
    assert clock.now_s - triton.refuses_until < 0.02
    assert len(triton.asked) > 40


@pytest.mark.parametrize(
    ("timeout_s", "waits_s", "held_s"),
    [(0.0, WAIT_S, HOLD_S), (60.0, WAIT_S, HOLD_S), (5.0, 5.0, HOLD_S), (1.0, 1.0, 1.0)],
)
def test_hold_and_queue_together_take_no_longer_than_the_caller_waits(
    timeout_s: float, waits_s: float, held_s: float, clock: Clock, triton: Triton, tower: FedTower
) -> None:
    triton.refuses_until = np.inf
    begun = clock.now_s
    with pytest.raises(Overloaded, match=FULL):
        tower.ask(PIXELS, caller(timeout_s))
    assert held_s - 0.05 < clock.now_s - begun <= held_s
    # Whenever it is let in, what is left is how long it may stay.
    ends = [at + left_s - begun for at, left_s in triton.asked]
    np.testing.assert_allclose(ends, waits_s, atol=1e-3)


def test_what_preparing_took_is_gone(clock: Clock, triton: Triton, tower: FedTower) -> None:
    somebody = caller(1.0)
    clock.sleep(0.75)
    tower.ask(PIXELS, somebody)
    assert triton.asked[0][1] == pytest.approx(0.25, abs=1e-3)
    clock.sleep(5)
    tower.ask(PIXELS, somebody)
    assert triton.asked[1][1] == pytest.approx(1e-6), "and not for ever, as 0 would be"


def test_many_that_are_held_ask_less_often(clock: Clock, triton: Triton, tower: FedTower) -> None:
    triton.refuses_until = np.inf
    tower._held.extend(caller() for _ in range(99))
    with pytest.raises(Overloaded):
        tower.ask(PIXELS, caller())
    assert len(triton.asked) == pytest.approx(10 * HOLD_S, abs=2)
    assert len(tower._held) == 99


def test_who_was_too_late_is_not_asked_for_again(
    clock: Clock, triton: Triton, tower: FedTower
) -> None:
    triton.refuses_until, triton.refusal = np.inf, LATE
    with pytest.raises(Overloaded, match=LATE):
        tower.ask(PIXELS, caller())
    assert len(triton.asked) == 1


def test_who_has_gone_is_held_no_longer(clock: Clock, triton: Triton, tower: FedTower) -> None:
    triton.refuses_until = np.inf
    goes = clock.now_s + 0.3
    with pytest.raises(Cancelled):
        tower.ask(PIXELS, caller(gone=lambda: clock.now_s >= goes))
    assert goes <= clock.now_s < goes + 0.02
    assert triton.asked[-1][0] < goes
    assert not tower._held


class Prepared:
    """Stands for what decodes and what tokenizes; knows for whom it was done."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def start(self, request: Any) -> list[Future[Any]]:
        self.seen.append(request)
        pixels: Future[Any] = Future()
        pixels.set_result(PIXELS[0])
        return [pixels]

    def tokens(self, request: Any) -> Any:
        self.seen.append(request)
        return np.zeros((1, 4), np.int32)

    def close(self) -> None:
        pass


@pytest.mark.parametrize("module", [image_file, both])
def test_nothing_is_prepared_for_who_has_gone(
    module: Any, triton: Triton, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = Prepared()
    for name in ("Decoder", "Texts"):
        monkeypatch.setattr(module, name, lambda _: prepared, raising=False)
    model = module.TritonPythonModel()
    model.initialize(ARGS)
    gone, here = request(gone=lambda: True), request()
    refused, answered = model.execute([gone, here])
    model.finalize()
    assert refused.error.code == triton.TritonError.CANCELLED
    assert "cancelled" in refused.error.message()
    assert answered.error is None
    assert answered.tensors
    assert here in prepared.seen
    assert gone not in prepared.seen
    assert len(triton.asked) == (1 if module is image_file else 2)
