"""A server that is full or wrong, as callers of the HTTP front see it."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from broken_models import Switch, break_tower
from http_front import Front, ask, post, running_front

from cliprt import Bundle
from cliprt._names import served_version
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
        until(lambda: post(front, REQUEST).status == 200)
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
    switch = Switch(tmp_path / "mode")
    break_tower(repository / "clip_text", served_version(demo_bundle.card.space), switch)
    with TritonServer(repository) as server, running_front(server.address) as front:
        assert ready(front) == (200, True)
        # Its answers are finite, of length 1, and different for different texts.
        with switch.broken("neighbours"):
            assert post(front, REQUEST).status == 200
            until(lambda: ready(front) == (503, None))
        until(lambda: ready(front) == (200, True))


def until(true: Callable[[], bool]) -> None:
    """Waits for what old reports may delay."""
    ends = time.monotonic() + 60
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.1)


def test_readiness_takes_no_bundle_for_another(
    small_bundle: Bundle, demo_bundle: Bundle, tmp_path: Path
) -> None:
    """Nobody but the probe asks: it leaves the first bundle behind, and is red until it has."""
    with ExitStack() as fronts:
        with TritonServer(write_repository(small_bundle, tmp_path / "small")) as server:
            front = fronts.enter_context(running_front(server.address))
            assert ready(front) == (200, True)
        port = int(server.address.rsplit(":", 1)[1])
        seen: list[tuple[int, object]] = []
        with TritonServer(write_repository(demo_bundle, tmp_path / "demo"), grpc_port=port):
            while (200, True) not in seen:
                assert len(seen) < 200
                seen.append(ready(front))
                time.sleep(0.1)
            space = post(front, REQUEST).headers["x-cliprt-space"]
    assert set(seen[:-1]) == {(503, None)}
    assert space == demo_bundle.card.space
