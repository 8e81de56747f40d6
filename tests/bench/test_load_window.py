"""What the load generator counts belongs to its window, and what it leaves behind is told."""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from patience import until

from cliprt_bench import _sending
from cliprt_bench._load import PATIENCE_S, closed_loop, open_loop
from cliprt_bench._repeats import figures_of, marks_of
from cliprt_bench._sending import _Used, _within, left_behind
from cliprt_bench._targets import TIMEOUT_S


def test_what_is_counted_ends_with_the_window_and_not_with_the_last_answer() -> None:
    over = threading.Event()

    @contextmanager
    def during() -> Iterator[None]:
        yield
        over.set()

    def send(number: int) -> None:
        if number == 3:
            assert over.wait(20)
        time.sleep(0.001)

    trace = closed_loop(send, callers=2, seconds=0.1, during=during())
    assert trace.errors == {}
    opened = open_loop(send, rate=100, seconds=0.1, most=2, seed=1, during=during())
    assert opened.errors == {}


def test_cores_are_those_of_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked at twice, two seconds apart: 1 s of the process and half of one for the watching."""
    looks = iter([_Used(0, 10, 10), _Used(2 * 10**9, 10**9 + 10, 5 * 10**8 + 10)])
    monkeypatch.setattr(_Used, "now", lambda: next(looks))
    trace = closed_loop(lambda n: time.sleep(0.01), callers=1, seconds=0.05)
    assert trace.process_cores == pytest.approx(0.5)
    assert trace.generator_cores == pytest.approx(0.25, abs=0.2)


def test_processor_time_of_requests_counts_with_their_part_in_the_window() -> None:
    # number, due, begun, ended, lag, own, sending
    before, inside, half = [0, 0, 0, 90, 0, 8, 80], [1, 0, 110, 150, 0, 4, 40], [2] + [0] * 6
    half[2:] = [180, 220, 0, 4, 40]
    hung = [3, 0, 190, -1, 0, 4, 0]
    own_s, sending_s = _within(np.array([before, inside, half, hung]), (100, 200))
    assert own_s == pytest.approx(12e-9)
    assert sending_s == pytest.approx(60e-9)


def test_requests_that_were_given_up_are_told_by_the_next_loop() -> None:
    never = threading.Event()

    def send(number: int) -> None:
        if number < 2:
            never.wait(30)

    closed_loop(send, callers=3, seconds=0.05, patience=0)
    assert left_behind() == 2
    trace = closed_loop(lambda n: time.sleep(0.001), callers=1, seconds=0.05)
    assert trace.beside == 2
    assert marks_of([trace], figures_of([trace], 1))[0] == (
        "In 1 of 1 repeats the target was still at work on up to 2 requests of earlier ones, "
        "which had been given up."
    )
    never.set()
    until(lambda: not left_behind())
    assert closed_loop(lambda n: time.sleep(0.001), callers=1, seconds=0.05).beside == 0


def test_a_backlog_is_not_worked_off_as_long_as_answers_are_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two hundred requests are due, one at a time; the first is slow and waited for."""
    monkeypatch.setattr(_sending, "BACKLOG_S", 0.1)
    trace = open_loop(lambda n: time.sleep(1.0), rate=1000, seconds=0.2, most=1, seed=1)
    assert (trace.begun >= 0).sum() == (trace.kind == 0).sum() < 5
    assert trace.samples > 100


def test_answers_are_waited_for_longer_than_a_target_waits_itself() -> None:
    assert PATIENCE_S > TIMEOUT_S
    for loop in (closed_loop, open_loop):
        assert inspect.signature(loop).parameters["patience"].default == PATIENCE_S
