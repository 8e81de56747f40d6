"""A matrix becomes points: what is asked, how often, and what is told of it."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np
import nvml_stand_in
import pytest
from bench_cards import target
from bench_subjects import DIM, Counted, Elsewhere
from numpy.typing import NDArray

from cliprt import InvalidInput, Overloaded, ServerError
from cliprt_bench import _measure
from cliprt_bench._bench_card import Method, Model, Tower, Workload
from cliprt_bench._figures import figure
from cliprt_bench._inputs import drawn_inputs
from cliprt_bench._load import closed_loop, open_loop
from cliprt_bench._measure import Measurement, settling_s
from cliprt_bench._trace import Trace
from cliprt_bench._watch import Watch

INPUTS = drawn_inputs(3, 5)
METHOD = Method(warmup_s=0.02, repeat_s=0.1, repeats=2, seed=0, command="cliprt bench latency")


def closed(tower: Tower = "image", batch: int = 1, callers: int = 1) -> Workload:
    return Workload(tower=tower, batch=batch, concurrency=callers, loop="closed")


def test_every_workload_is_measured_as_often_as_asked() -> None:
    subject, told = Counted(), list[str]()
    measurement = Measurement(subject, INPUTS, METHOD)
    workloads = [closed(batch=2), closed("text", 3)]
    measurement.run(workloads, told.append)
    one, other = measurement.points()
    assert [one.workload, other.workload] == workloads
    assert len(one.figures["items_s"].repeats) == METHOD.repeats
    assert one.samples > 4
    assert one.errors == {}
    assert {len(items) for items in subject.asked} == {2, 3}
    # Both warm up; the second round goes backwards.
    a, b = (workload.in_words() for workload in workloads)
    assert told == [f"warm-up: {a}", f"warm-up: {b}", a, b, b, a]


def test_all_inputs_take_their_turn() -> None:
    subject = Counted()
    Measurement(subject, INPUTS, METHOD).run([closed(batch=2)])
    assert {item for items in subject.asked for item in items} == set(INPUTS.pictures)


class OneByOne(Counted):
    """Works at one request at a time, in the order in which they come."""

    def __init__(self, pause_s: float) -> None:
        super().__init__(pause_s)
        # A lock alone may be taken again by who gave it back, before those who wait for it.
        self._turn, self._given, self._now = threading.Condition(), 0, 0

    def _answer(self, items: Sequence[object]) -> NDArray[np.float32]:
        with self._turn:
            ticket = self._given
            self._given += 1
            self._turn.wait_for(lambda: self._now == ticket)
        try:
            return super()._answer(items)
        finally:
            with self._turn:
                self._now += 1
                self._turn.notify_all()


def test_requests_that_take_longer_than_a_window_are_not_counted_too_often() -> None:
    subject = OneByOne(0.05)  # four callers wait for 0.2 s, the window has 0.1 s
    measurement = Measurement(subject, INPUTS, METHOD)
    measurement.run([closed(callers=4)])
    (point,) = measurement.points()
    # All four waiting from one moment on look like twice as many as can be answered.
    assert max(point.figures["items_s"].repeats) < 1.1 / 0.05
    assert point.samples >= 4 * 4 * METHOD.repeats


@pytest.mark.parametrize(
    ("latency_s", "warmup", "longest"),
    [(10, 20, 30), (20, 30, 30), (40, 40, 40), (100, 60, 60), (None, 60, 60)],
)
def test_a_slow_target_settles_as_long_as_a_request_takes(
    monkeypatch: pytest.MonkeyPatch, latency_s: float | None, warmup: float, longest: float
) -> None:
    """None of which no answer came: two of three requests of the warm-up."""
    given: list[dict[str, Any]] = []

    def loop(send: Callable[[int], None], **asked: Any) -> Trace:
        given.append(asked)
        trace = closed_loop(lambda n: time.sleep(0.002), callers=1, seconds=0.02)
        ended = trace.due + int((latency_s or 1) * 1e9)
        if latency_s is None:
            ended[np.arange(len(ended)) % 3 > 0] = -1
        return dataclasses.replace(trace, ended=ended)

    monkeypatch.setattr(_measure, "closed_loop", loop)
    Measurement(Counted(), INPUTS, METHOD).run([closed()])
    assert "longest" not in given[0]
    assert given[1]["warmup"] == pytest.approx(warmup)
    assert given[1]["longest"] == pytest.approx(longest)


@pytest.mark.parametrize(
    "workload",
    [closed(callers=2), Workload(tower="image", batch=1, concurrency=2, loop="open", rate=100)],
)
def test_processors_are_watched_in_the_window_alone(
    monkeypatch: pytest.MonkeyPatch, workload: Workload
) -> None:
    """Not while the last answers are waited for."""
    over = threading.Event()

    class Noting(Watch):
        @contextmanager
        def counted(self) -> Iterator[None]:
            over.clear()
            with super().counted():
                yield
            over.set()

    monkeypatch.setattr(_measure, "Watch", Noting)
    subject, hung, first = Counted(), list[bool](), threading.Lock()
    answer = subject._answer

    def answer_late(items: Sequence[object]) -> NDArray[np.float32]:
        if len(subject.asked) > 3 and first.acquire(blocking=False):
            hung.append(over.wait(20))
        return answer(items)

    monkeypatch.setattr(subject, "_answer", answer_late)
    method = msgspec.structs.replace(METHOD, warmup_s=0, repeats=1)
    Measurement(subject, INPUTS, method).run([workload])
    assert hung == [True]


def test_as_many_callers_as_asked() -> None:
    subject = Counted(0.02)
    Measurement(subject, INPUTS, METHOD).run([closed(callers=3)])
    assert subject.most == 3


def test_an_open_loop_keeps_its_rate() -> None:
    subject = Counted()
    workload = Workload(tower="image", batch=1, concurrency=8, loop="open", rate=60)
    measurement = Measurement(subject, INPUTS, METHOD)
    measurement.run([workload])
    (point,) = measurement.points()
    assert point.workload == workload
    assert 0 < point.samples < 60
    # What came is counted: requests at random times are never as many as on average.
    offered = point.figures["offered_s"]
    assert len(offered.repeats) == METHOD.repeats
    assert sum(offered.repeats) * METHOD.repeat_s == pytest.approx(point.samples)


class Asked:
    """A loop that keeps what it was asked for."""

    def __init__(self, loop: Callable[..., Trace], **more: Any) -> None:
        self.given: list[dict[str, Any]] = []
        self._loop, self._more = loop, more

    def __call__(self, send: Callable[[int], None], **given: Any) -> Trace:
        self.given.append(given)
        return self._loop(send, **given, **self._more)


def test_an_open_loop_is_counted_once_its_queue_has_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    workload = Workload(tower="image", batch=1, concurrency=8, loop="open", rate=2000)
    monkeypatch.setattr(_measure, "open_loop", loop := Asked(open_loop))
    Measurement(Counted(), INPUTS, METHOD).run([workload])
    assert [each["warmup"] for each in loop.given] == [0.05, 0.05]


@pytest.mark.parametrize(
    ("warmup_s", "rate", "settling"),
    [(1, 20, 5), (1, 50, 2), (1, 1, 5), (1, 1000, 1), (9, 1, 9), (0, 20, 0)],
)
def test_how_long_an_open_loop_fills(warmup_s: float, rate: float, settling: float) -> None:
    method = msgspec.structs.replace(METHOD, warmup_s=warmup_s, repeat_s=5)
    assert settling_s(rate, method) == settling


def test_a_rate_may_be_a_share_of_what_was_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = Counted()
    workload = Workload(tower="image", batch=2, concurrency=8, loop="open", share=0.5)
    measurement = Measurement(subject, INPUTS, METHOD)
    capacity = figure([150.0, 160.0, 170.0])
    monkeypatch.setattr(_measure, "open_loop", loop := Asked(open_loop))
    measurement.run([workload], capacities={workload: capacity})
    (point,) = measurement.points()
    assert [each["rate"] for each in loop.given] == [40, 40]
    assert point.figures["capacity_s"] == capacity
    assert workload.in_words().startswith("image, batch 2, open loop, 0.5 of capacity")


def test_errors_are_counted_by_kind() -> None:
    subject = Counted()
    subject.error = Overloaded("the queue is full")
    measurement = Measurement(subject, INPUTS, METHOD)
    measurement.run([closed()])
    (point,) = measurement.points()
    assert point.errors == {"Overloaded": point.samples}
    assert any("Overloaded" in mark for mark in point.marks)


def test_a_target_that_fails_at_once_is_not_measured() -> None:
    class Broken(Counted):
        model = Model(name="broken", space="0" * 16, dim=DIM + 1)

    with pytest.raises(ServerError, match=r"the answer has the shape \(1, 4\), not \(1, 5\)"):
        Measurement(Broken(), INPUTS, METHOD).run([closed()])


def test_tokens_need_a_tokenizer() -> None:
    workload = Workload(tower="text", batch=1, concurrency=1, loop="closed", text_length=7)
    with pytest.raises(InvalidInput, match="need the model's tokenizer; pass --bundle"):
        Measurement(Counted(), INPUTS, METHOD).run([workload])


def test_what_was_measured_before_an_interrupt_stays() -> None:
    subject = Counted()
    measurement = Measurement(subject, INPUTS, METHOD)

    def interrupt(what: str) -> None:
        if what == closed().in_words():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measurement.run([closed(), closed(batch=2)], interrupt)
    (point,) = measurement.points()
    assert point.workload == closed()


def test_an_interrupt_in_a_warm_up_ends_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(send: Callable[[int], None], **given: Any) -> Trace:
        return dataclasses.replace(closed_loop(send, **given), complete=False)

    monkeypatch.setattr(_measure, "closed_loop", interrupted)
    subject = Counted()
    measurement = Measurement(subject, INPUTS, METHOD)
    with pytest.raises(KeyboardInterrupt):
        measurement.run([closed(), closed("text")])
    assert measurement.points() == ()
    assert {type(item) for items in subject.asked for item in items} == {bytes}


def test_bytes_are_those_of_requests_that_were_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """Overloaded: most requests that came are never sent."""
    subject = Counted(0.03)
    subject.target = target(process="other")
    monkeypatch.setattr(_measure, "tcp_bytes", lambda: (100 * len(subject.asked), 0))
    monkeypatch.setattr(_measure, "open_loop", Asked(open_loop, patience=0.0))
    workload = Workload(tower="image", batch=1, concurrency=1, loop="open", rate=400)
    method = msgspec.structs.replace(METHOD, warmup_s=0)
    measurement = Measurement(subject, INPUTS, method)
    measurement.run([workload])
    (point,) = measurement.points()
    assert point.samples > 30
    assert 60 < point.figures["sent_bytes"].value < 140


def test_bytes_of_a_connection_that_was_closed_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    subject = Counted()
    subject.target = target(process="other")
    told = iter([(0, 0), (10**6, 10**6), (10**6, 10**6), (0, 2 * 10**6)])
    monkeypatch.setattr(_measure, "tcp_bytes", lambda: next(told))
    measurement = Measurement(subject, INPUTS, METHOD)
    measurement.run([closed()])
    figures = measurement.points()[0].figures
    assert len(figures["sent_bytes"].repeats) == 1
    assert figures["sent_bytes"].value > 0
    assert len(figures["received_bytes"].repeats) == 2


@pytest.mark.parametrize(
    ("process", "there"),
    [("own", {"cpu_cores", "rss_mb"}), ("other", {"cpu_cores", "rss_mb", "target_cores"})],
)
def test_processes_are_watched(process: str, there: set[str]) -> None:
    subject = Counted()
    subject.target, subject.process_ids = target(process=process), (os.getpid(),)
    measurement = Measurement(subject, INPUTS, METHOD)
    measurement.run([closed()])
    watched = {"cpu_cores", "rss_mb", "target_cores"}
    assert watched & set(measurement.points()[0].figures) == there


def test_nothing_of_this_machine_is_told_of_a_target_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nvml_stand_in.install(monkeypatch)
    measurement = Measurement(Elsewhere(), INPUTS, METHOD)
    measurement.run([closed()])
    figures = set(measurement.points()[0].figures)
    assert not figures & {"cpu_cores", "rss_mb", "target_cores"}
    assert not {name for name in figures if name.startswith("gpu_")}
    assert measurement.gpu_clocks_mhz() == ()


def test_clocks_of_gpus_are_those_under_load(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml_stand_in.install(monkeypatch)
    measurement = Measurement(Counted(), INPUTS, METHOD)
    assert measurement.gpu_clocks_mhz() == ()
    measurement.run([closed()])
    assert measurement.gpu_clocks_mhz() == (1980, 1980)


@pytest.mark.parametrize(
    ("workload", "words"),
    [
        (closed(), "image, batch 1, 1 caller"),
        (closed("text", 8, 4), "text, batch 8, 4 callers"),
        (
            Workload(
                tower="text", batch=1, concurrency=9, loop="open", rate=12.345, text_length=16
            ),
            "text, batch 1, open loop, 12.345/s, at most 9 under way, 16 tokens",
        ),
    ],
)
def test_workloads_in_words(workload: Workload, words: str) -> None:
    assert workload.in_words() == words
