"""More requests than can be answered: who is refused, when, at what cost, and what others see.

The towers are real and held, or slowed down, by a switch, so that what is looked at is a state and
not a moment. That full queues of every kind answer or refuse is in
``tests/triton_models/test_full_queues.py``, how the front learns in ``test_front_gate.py``; figures
are in ``make overload-check``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from broken_models import Switch, break_tower, read_config
from cases import demo_pictures, texts
from http_front import Front, ask, data_uri, post, running_front
from numpy.typing import NDArray
from patience import settled, until
from tritonclient.grpc import service_pb2
from wire import refusal, request_of, stub_of, tensors_of

from cliprt import Bundle, Overloaded
from cliprt._connection import Connection
from cliprt._grpc import TritonChannel
from cliprt._names import served_version
from cliprt_triton import Policy, TritonServer, write_repository
from cliprt_triton._policy import AHEAD_S, PRESETS

BATCH, QUEUE = 2, 3
PATIENCE_S = 120.0
PICTURES = [path.read_bytes() for path in demo_pictures()]
NO_PICTURE = b"no picture at all"
CAPTION = texts(1)[0]
FULL = "Exceeds maximum queue size"

Golden = dict[str, NDArray[np.float32]]


# How long: the policy.


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("speed", [0.3, 1.3, 20.0, 85.0, 2500.0])
@pytest.mark.parametrize("workers", [1, 2, 16])
def test_what_may_wait_is_computed_within_the_wait(preset: Any, speed: float, workers: int) -> None:
    policy = Policy.preset(preset)
    bounded = policy.at_speed(speed, workers=workers)
    assert bounded.max_batch_size is not None
    wait_s = bounded.longest_wait_s
    # One batch is under way, one more is ready, and one may be on its way from what decodes.
    ahead = bounded.max_queue_size + 3 * bounded.max_batch_size + AHEAD_S * speed
    assert ahead / speed <= wait_s + 1e-5
    assert bounded.queue_timeout_us / 1e6 == pytest.approx(wait_s)
    # A slow tower has a long wait: there is room for some batches whatever its speed.
    least_s = 8 * bounded.max_batch_size / speed
    assert wait_s == pytest.approx(max(policy.longest_wait_s, least_s), rel=1e-5)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("speed", [20.0, 2500.0])
def test_a_known_speed_only_makes_bounds_tighter(preset: Any, speed: float) -> None:
    policy = Policy.preset(preset)
    bounded = policy.at_speed(speed)
    assert bounded.batch_size() <= policy.batch_size()
    assert bounded.max_queue_size <= policy.max_queue_size
    assert bounded.queue_timeout_us <= policy.queue_timeout_us
    same = ("max_queue_delay_us", "max_bulk_queue_size", "bulk_queue_timeout_us", "instances")
    assert all(getattr(bounded, name) == getattr(policy, name) for name in same)
    assert bounded.at_speed(speed) == bounded


def test_a_shorter_wait_makes_a_shorter_queue() -> None:
    long, short = (Policy(max_wait_us=wait_us).at_speed(20.0) for wait_us in (8_000_000, 2_000_000))
    assert (long.max_queue_size, long.max_batch_size, long.queue_timeout_us) == (68, 20, 8_000_000)
    assert (short.max_queue_size, short.max_batch_size) == (8, 5)
    assert Policy(queue_timeout_us=2_000_000).at_speed(20.0).max_queue_size == 8


@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan")])
def test_a_speed_is_positive(speed: float) -> None:
    with pytest.raises(ValueError, match="items_per_s must be positive"):
        Policy().at_speed(speed)


def test_every_queue_is_as_long_as_its_towers_speed_allows(
    small_bundle: Bundle, tmp_path: Path
) -> None:
    repository = write_repository(
        small_bundle, tmp_path / "repository", speeds={"image": 20.0, "text": 80.0}, link=True
    )

    def queue(model: str) -> tuple[int, float, int]:
        config = read_config(repository / model)
        found = config.dynamic_batching.default_queue_policy
        return found.max_queue_size, found.default_timeout_microseconds / 1e6, config.max_batch_size

    image, text = (88, 10.0, 25), (352, 10.0, 64)
    for model in ("clip_image", "clip_image_file", "clip_decode"):
        assert queue(model) == image
    assert (queue("clip_text"), queue("clip_tokenize")) == (text, text)
    # It needs both, so the slower one is its measure.
    assert queue("clip") == image


# Who is refused: queues of a held tower.


@dataclass(frozen=True)
class Held:
    """A server whose image tower a switch holds, or slows down."""

    server: TritonServer
    switch: Switch
    stub: Any

    def start(self, model: str, **inputs: Any) -> Any:
        return self.stub.ModelInfer.future(request_of(model, inputs), timeout=PATIENCE_S)

    def fill(self, model: str, **inputs: Any) -> list[Any]:
        """Sends until nothing more is taken, and returns what was taken and is not answered."""
        sent: list[Any] = []
        refused = 0
        while refused < 3:
            assert len(sent) < 100
            sent.append(self.start(model, **inputs))
            ends = time.monotonic() + 0.3
            while not sent[-1].done() and time.monotonic() < ends:
                time.sleep(0.01)
            refused = refused + 1 if sent[-1].done() else 0
        for one in sent:
            if one.done():
                code, words = refusal(one.result)
                assert code == grpc.StatusCode.UNAVAILABLE, words
                assert FULL in words
        return [one for one in sent if not one.done()]


@pytest.fixture(scope="module")
def held(demo_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Held]:
    folder = tmp_path_factory.mktemp("held")
    # Whatever waits here waits longer than a test does: only what it waits for can end that.
    policy = Policy(max_batch_size=BATCH, max_queue_size=QUEUE, queue_timeout_us=600_000_000)
    repository = write_repository(demo_bundle, folder / "repository", policy=policy)
    switch = Switch(folder / "mode")
    break_tower(repository / "clip_image", served_version(demo_bundle.card.space), switch)
    with TritonServer(repository) as server, stub_of(server.address) as stub:
        yield Held(server, switch, stub)


@pytest.fixture(scope="module")
def front(held: Held) -> Iterator[Front]:
    with running_front(held.server.address) as front:
        yield front


WAYS = ("clip_image_file", "clip")


def inputs_of(model: str, picture: bytes) -> dict[str, list[bytes]]:
    given = {"image": [picture]}
    return given if model == "clip_image_file" else {**given, "text": [CAPTION.encode()]}


@pytest.mark.parametrize("model", WAYS)
def test_what_a_full_tower_cannot_take_is_not_decoded(
    model: str, held: Held, demo_golden: Golden
) -> None:
    """Whether something was decoded is told by a file that cannot be: nobody looked at it."""
    with held.switch.broken("slow"):
        taken = held.fill(model, **inputs_of(model, PICTURES[0]))
        code, words = refusal(held.start(model, **inputs_of(model, NO_PICTURE)).result)
        assert (code, FULL in words) == (grpc.StatusCode.UNAVAILABLE, True), words
        # It was refused while nothing moved: whoever is taken waits still.
        assert not any(one.done() for one in taken)
        # Two instances with a batch each, batches that Triton made ready, and the queue.
        assert QUEUE < len(taken) <= QUEUE + 5 * BATCH
    name = "embedding" if model == "clip_image_file" else "image_embedding"
    for one in taken:
        found = tensors_of(one.result())[name]
        np.testing.assert_allclose(found, demo_golden["images"][:1], atol=1e-5)
    code, words = refusal(held.start(model, **inputs_of(model, NO_PICTURE)).result)
    assert (code, "item 0" in words) == (grpc.StatusCode.INVALID_ARGUMENT, True)


@pytest.mark.parametrize("model", WAYS)
def test_nor_where_others_have_filled_it(model: str, held: Held) -> None:
    """What is decoded is held then, and asks again: so nothing more is."""
    with held.switch.broken("slow"):
        others = held.fill("clip_image", pixels=read_pixels(held))
        taken = held.fill(model, **inputs_of(model, PICTURES[0]))
        code, words = refusal(held.start(model, **inputs_of(model, NO_PICTURE)).result)
        assert (code, FULL in words) == (grpc.StatusCode.UNAVAILABLE, True), words
    assert {refusal(one.result) for one in [*others, *taken]} == {(grpc.StatusCode.OK, "")}


def embedded(held: Held) -> int:
    """Pictures that the tower has embedded."""

    def count() -> int:
        request = service_pb2.ModelStatisticsRequest(name="clip_image")
        (found,) = held.stub.ModelStatistics(request, timeout=PATIENCE_S).model_stats
        return int(found.inference_count)

    return settled(count)


@pytest.mark.parametrize("model", WAYS)
def test_who_gives_up_makes_room_and_costs_no_embedding(model: str, held: Held) -> None:
    before = embedded(held)
    with held.switch.broken("slow"):
        others = held.fill("clip_image", pixels=read_pixels(held))
        for one in held.fill(model, **inputs_of(model, PICTURES[0])):
            one.cancel()

        def looked_at() -> bool:
            """Somebody has time to look at a file, which is none, while the tower is full still."""
            code, words = refusal(held.start(model, **inputs_of(model, NO_PICTURE)).result)
            assert code == grpc.StatusCode.INVALID_ARGUMENT or FULL in words, (code, words)
            return "item 0" in words

        until(looked_at)
        assert not any(one.done() for one in others)
    assert {refusal(one.result)[0] for one in others} == {grpc.StatusCode.OK}
    assert embedded(held) - before == len(others)


def test_a_full_tower_refuses_at_once_and_costs_the_other_nothing(
    held: Held, demo_bundle: Bundle, demo_golden: Golden
) -> None:
    spec = demo_bundle.card.image
    assert spec is not None
    pixels = np.zeros((1, spec.height, spec.width, 3), np.uint8)
    with held.switch.broken("slow"):
        taken = held.fill("clip_image", pixels=pixels)
        assert not any(one.done() for one in taken)
        found = tensors_of(held.start("clip_text_string", text=[CAPTION.encode()]).result())
        np.testing.assert_allclose(found["embedding"], demo_golden["texts"][:1], atol=1e-5)
    answers = [tensors_of(one.result())["embedding"] for one in taken]
    assert all(np.array_equal(answer, answers[0]) for answer in answers)


def test_the_front_refuses_before_it_decodes_what_the_tower_cannot_take(
    held: Held, front: Front, demo_golden: Golden
) -> None:
    def asked(*items: str) -> dict[str, Any]:
        return {"model": "clip", "input": list(items)}

    picture = data_uri(PICTURES[0])
    with ThreadPoolExecutor(40) as pool:
        with held.switch.broken("slow"):
            posted: list[Future[Any]] = []

            def refused() -> bool:
                """Whether one is, of more than a tower takes."""
                if len(posted) < 40:
                    posted.append(pool.submit(post, front, asked(picture)))
                return any(one.done() for one in posted)

            until(refused)
            # A file that cannot be decoded would be the caller's fault, had anybody tried.
            bad = asked(data_uri(NO_PICTURE))
            until(lambda: post(front, bad).status == 429)
            answer = post(front, bad)
            assert (answer.status, answer.headers["retry-after"]) == (429, "1")
            assert answer.error()["code"] == "overloaded"
            # Texts pass; not so what needs both towers.
            assert post(front, asked(CAPTION)).status == 200
            assert post(front, asked(CAPTION, picture)).status == 429
        answers = [one.result() for one in posted]
    assert {answer.status for answer in answers} == {200, 429}
    for answer in answers:
        if answer.status == 200:
            found = np.float32(answer.json()["data"][0]["embedding"])
            np.testing.assert_allclose(found, demo_golden["images"][0], atol=1e-5)
    until(lambda: post(front, asked(picture)).status == 200)


# What probes see: a tower that always has more to do than it can.


@contextmanager
def storm(held: Held) -> Iterator[list[grpc.StatusCode]]:
    """More callers than may wait ask for pictures, over and over, while the block lasts."""
    stop = threading.Event()
    ends: list[grpc.StatusCode] = []
    spec = read_pixels(held)

    def caller() -> None:
        while not stop.is_set():
            code, words = refusal(held.start("clip_image", pixels=spec).result)
            assert code == grpc.StatusCode.OK or FULL in words, (code, words)
            ends.append(code)
            if code != grpc.StatusCode.OK:
                time.sleep(0.05)

    with ThreadPoolExecutor(16) as pool:
        callers = [pool.submit(caller) for _ in range(16)]
        try:
            until(lambda: grpc.StatusCode.UNAVAILABLE in ends)
            yield ends
        finally:
            stop.set()
            for one in callers:
                one.result()


def read_pixels(held: Held) -> NDArray[np.uint8]:
    request = request_of("clip_decode", {"image": PICTURES[:1]})
    return tensors_of(held.stub.ModelInfer(request, timeout=PATIENCE_S))["pixels"]


def probe(held: Held) -> tuple[grpc.StatusCode, str]:
    """A question to ``clip_health``: its status, and the report or what is wrong."""
    request = request_of("clip_health", {})
    try:
        response = held.stub.ModelInfer(request, timeout=PATIENCE_S)
    except grpc.RpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, response.raw_output_contents[1].decode()


def test_probes_are_answered_in_a_storm_and_right(held: Held, front: Front) -> None:
    until(lambda: '"status":"good"' in probe(held)[1])
    seen: list[tuple[grpc.StatusCode, str]] = []

    def new(sign: str) -> Callable[[], bool]:
        before = probe(held)

        def found() -> bool:
            seen.append(probe(held))
            return seen[-1] != before and sign in seen[-1][1]

        return found

    with held.switch.broken("tired"), storm(held) as ends:
        # A verdict, not only that it is busy, though the queue is full whenever one looks.
        until(new('"status":"good"'))
        until(new('"status":"good"'))
        assert {code for code, _ in seen} == {grpc.StatusCode.OK}
        assert all('"healthy":true' in report for _, report in seen)
        assert ask(front, "GET", "/v1/health/ready").status == 200
        # And wrong is wrong, however busy.
        held.switch.file.write_text("tired nan")
        until(lambda: "image numbers" in probe(held)[1])
        until(lambda: ask(front, "GET", "/v1/health/ready").status == 503)
        held.switch.file.write_text("tired")
        until(lambda: '"status":"good"' in probe(held)[1])
    assert set(ends) == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
    until(lambda: ask(front, "GET", "/v1/health/ready").status == 200)


def test_a_question_says_how_long_it_may_wait_in_a_queue(held: Held) -> None:
    """So that ``cliprt health`` hears of a long queue, and does not take it for a tower that hangs.

    Triton looks when a batch ends, so the tower works, slowly.
    """
    pixels = read_pixels(held)
    channel = TritonChannel(Connection(held.server.address, retry=None))
    try:
        with held.switch.broken("tired"), storm(held):

            def too_late() -> bool:
                asked = channel.infer(
                    "clip_image", {"pixels": pixels}, "embedding", PATIENCE_S, queue_timeout_s=1e-6
                )
                try:
                    asked.result()
                except Overloaded as error:
                    return "Request timeout expired" in str(error)
                return False

            until(too_late)
    finally:
        channel.close()
