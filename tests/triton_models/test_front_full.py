"""A server that is full or wrong, as callers of the HTTP front see it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
from http_front import Front, ask, post, running_front
from onnx import numpy_helper

from cliprt import Bundle
from cliprt_triton import Policy, TritonServer, write_repository

REQUEST = {"model": "clip", "input": "a picture of a red circle"}


def test_a_full_queue_is_told_and_nobody_waits_for_ever(
    demo_bundle: Bundle, tmp_path: Path
) -> None:
    policy = Policy(max_batch_size=1, max_queue_size=1)
    repository = write_repository(demo_bundle, tmp_path / "repository", policy=policy)
    with (
        TritonServer(repository) as server,
        running_front(server.address) as front,
        ThreadPoolExecutor(32) as pool,
    ):
        expected = post(front, REQUEST).json()["data"]
        answers = list(pool.map(lambda _: post(front, REQUEST), range(200)))
        assert post(front, REQUEST).status == 200
    statuses = {answer.status for answer in answers}
    assert statuses == {200, 429}
    for answer in answers:
        if answer.status == 200:
            np.testing.assert_allclose(
                answer.json()["data"][0]["embedding"], expected[0]["embedding"], atol=1e-5
            )
        else:
            assert answer.headers["retry-after"] == "1"
            assert answer.error()["code"] == "overloaded"
            assert server.address not in answer.error()["message"]


def ready(front: Front) -> tuple[int, object]:
    answer = ask(front, "GET", "/v1/health/ready")
    return answer.status, answer.json().get("known_answers")


def test_readiness_goes_red_where_a_tower_answers_wrongly(
    demo_bundle: Bundle, tmp_path: Path
) -> None:
    repository = write_repository(demo_bundle, tmp_path / "repository")
    with TritonServer(repository) as server, running_front(server.address) as front:
        assert ready(front) == (200, True)
    graph = next((repository / "clip_text").glob("*/model.onnx"))
    model = onnx.load(str(graph))
    # Answers that are finite, of length 1, different for different texts, and wrong.
    weights = max(model.graph.initializer, key=lambda each: numpy_helper.to_array(each).size)
    turned = np.ascontiguousarray(numpy_helper.to_array(weights)[::-1])
    weights.CopyFrom(numpy_helper.from_array(turned, weights.name))
    onnx.save(model, str(graph))
    with TritonServer(repository) as server, running_front(server.address) as front:
        assert post(front, REQUEST).status == 200
        assert ready(front) == (503, None)
