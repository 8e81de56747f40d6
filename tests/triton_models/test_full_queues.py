"""Full queues: whoever is refused is told at once, nobody waits for ever, and service goes on."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from cases import demo_pictures
from wire import refusal, request_of, stub_of, tensors_of

from cliprt import Bundle
from cliprt_triton import Policy, TritonServer, write_repository

DEADLINE_S = 20.0
PICTURE = demo_pictures()[0].read_bytes()
INPUTS: dict[str, dict[str, Any]] = {
    "clip_image": {"pixels": np.zeros((1, 64, 64, 3), np.uint8)},
    "clip_text": {"tokens": np.array([[1, 2, 3]], np.int32)},
    "clip_image_file": {"image": [PICTURE]},
    "clip_text_string": {"text": [b"a b c"]},
    "clip": {"image": [PICTURE], "text": [b"a b c"]},
}
FULL = ("Exceeds maximum queue size", "Request timeout expired")


@pytest.fixture(scope="module")
def stub(demo_bundle: Bundle) -> Iterator[Any]:
    policy = Policy(max_batch_size=1, max_queue_size=1, queue_timeout_us=2_000_000)
    repository = write_repository(
        demo_bundle, demo_bundle.path.parent / "tiny", policy=policy, link=True
    )
    with TritonServer(repository) as server, stub_of(server.address) as stub:
        yield stub


def flood(stub: Any, models: list[str], count: int) -> Counter[str]:
    """Sends many requests at once and says how they ended; late is an error of the caller's."""
    futures = [
        stub.ModelInfer.future(request_of(model, INPUTS[model]), timeout=DEADLINE_S)
        for _ in range(count)
        for model in models
    ]
    ends: Counter[str] = Counter()
    for future in futures:
        code, text = refusal(future.result)
        if code == grpc.StatusCode.UNAVAILABLE and any(sign in text for sign in FULL):
            ends["refused"] += 1
        else:
            ends[code.name if code == grpc.StatusCode.OK else f"{code.name}: {text}"] += 1
    return ends


def check_answers(stub: Any) -> None:
    """Every model answers, as soon as what was under way has gone."""
    for model, inputs in INPUTS.items():
        ends = time.monotonic() + DEADLINE_S
        while True:
            call = stub.ModelInfer.future(request_of(model, inputs), timeout=DEADLINE_S)
            code, text = refusal(call.result)
            if code == grpc.StatusCode.OK:
                break
            assert any(sign in text for sign in FULL), (model, code, text)
            assert time.monotonic() < ends
            time.sleep(0.05)
        assert all(np.isfinite(array).all() for array in tensors_of(call.result()).values())


@pytest.mark.parametrize("model", INPUTS)
def test_a_flood_of_one_model_is_refused_or_answered(model: str, stub: Any) -> None:
    ends = flood(stub, [model], 100)
    assert set(ends) == {"OK", "refused"}, ends
    check_answers(stub)


def test_a_flood_of_all_models_is_refused_or_answered(stub: Any) -> None:
    for _ in range(3):
        ends = flood(stub, [*INPUTS], 40)
        assert set(ends) == {"OK", "refused"}, ends
    check_answers(stub)


def test_the_queues_of_all_models_are_bounded(demo_bundle: Bundle, tmp_path: Path) -> None:
    repository = write_repository(demo_bundle, tmp_path / "repository", link=True)
    for config in repository.glob("*/config.pbtxt"):
        text = config.read_text()
        # Of no batch, and so without a queue of their own: the card and known answers.
        alone = config.parent.name in ("clip_card", "clip_health")
        unqueued = "ensemble" in text or alone
        assert unqueued or "max_queue_size" in text, config.parent.name
