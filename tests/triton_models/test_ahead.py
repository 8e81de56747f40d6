"""Batches that a tower takes from Triton's queue before it can compute them.

What Triton's Python backend gives to models, and the clock, are stand-ins here. With a real server
``tests/reliability/test_full_queue.py`` looks at the same.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from patience import until

from cliprt_triton.models import _ahead, _backend
from cliprt_triton.models._ahead import Ahead

MOST = 4


class Clock:
    """Stands where it is put."""

    now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


class Sender:
    """Of a request's responses."""

    def __init__(self, told: list[Any]) -> None:
        self.told, self.cancelled = told, False

    def is_cancelled(self) -> bool:
        return self.cancelled

    def send(self, response: Any, *, flags: int) -> None:
        assert flags == 1
        self.told.append(response)


class Tower:
    """Computes when it may, and keeps what it computed together."""

    def __init__(self) -> None:
        self.begun, self.may = threading.Event(), threading.Event()
        self.computed: list[list[int]] = []
        self.fails = False

    def answers(self, batches: Sequence[Any]) -> list[Any]:
        self.begun.set()
        assert self.may.wait(60)
        good = [batch for batch in batches if not isinstance(batch, Exception)]
        self.computed.append([int(batch[0]) for batch in good])
        if self.fails:
            raise RuntimeError("the tower is broken")
        return [each if isinstance(each, Exception) else int(each[0]) for each in batches]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(_ahead, "time", clock)
    triton = SimpleNamespace(TRITONSERVER_RESPONSE_COMPLETE_FINAL=1)
    monkeypatch.setattr(_ahead, "pb_utils", lambda: triton)
    monkeypatch.setattr(_ahead, "failure", lambda error: error)
    return clock


@pytest.fixture
def tower() -> Tower:
    return Tower()


@pytest.fixture
def ahead(clock: Clock, tower: Tower) -> Iterator[Ahead]:
    ahead = Ahead(tower.answers, MOST, "ahead")
    yield ahead
    tower.may.set()
    ahead.close()


@pytest.fixture
def told() -> list[Any]:
    return []


@pytest.fixture
def given(ahead: Ahead, told: list[Any]) -> Callable[..., list[Sender]]:
    """Gives requests of one item each, named by numbers, or of errors."""

    def give(*items: Any) -> list[Sender]:
        senders = [Sender(told) for _ in items]
        requests = [SimpleNamespace(get_response_sender=lambda s=sender: s) for sender in senders]
        batches = [each if isinstance(each, Exception) else np.array([each]) for each in items]
        ahead.give(requests, batches)
        return senders

    return give


@pytest.mark.parametrize(
    ("before", "waited_s", "items", "wanted"),
    [
        (MOST, 0.3, MOST, True),
        (MOST, 0.001, MOST, False),  # the queue fed it at once
        (MOST, 5.0, MOST, False),  # nobody asked
        (MOST, 0.3, MOST - 1, False),  # no more was waiting
        (1, 0.3, MOST, False),
    ],
)
def test_it_is_for_a_tower_that_idled_behind_a_full_queue(
    before: int, waited_s: float, items: int, wanted: bool, ahead: Ahead, clock: Clock
) -> None:
    ahead.rested(before)
    clock.now_s += waited_s
    assert ahead.wanted(items) is wanted


def test_all_are_answered_in_their_order_in_whole_batches(
    given: Callable[..., list[Sender]], tower: Tower, told: list[Any], ahead: Ahead
) -> None:
    given(0)
    given(1)
    assert ahead.wanted(1)  # nothing overtakes them
    given(2, 3)
    tower.may.set()
    given(4, 5)
    until(lambda: len(told) == 6)
    assert told == [*range(6)]
    assert [*chain(*tower.computed)] == [*range(6)]
    assert max(map(len, tower.computed)) <= MOST
    until(lambda: not ahead.wanted(1))


def test_one_waits_until_there_is_room(
    given: Callable[..., list[Sender]], tower: Tower, told: list[Any]
) -> None:
    given(0, 1, 2)
    over = threading.Event()
    thread = threading.Thread(target=lambda: (given(3, 4), over.set()))
    thread.start()
    assert not over.wait(0.2)
    tower.may.set()
    assert over.wait(60)
    thread.join()
    until(lambda: len(told) == 5)


def test_what_was_cancelled_is_not_computed(
    given: Callable[..., list[Sender]], tower: Tower, told: list[Any]
) -> None:
    given(0)
    assert tower.begun.wait(60)
    (sender,) = given(1)
    sender.cancelled = True
    tower.may.set()
    until(lambda: len(told) == 2)
    assert isinstance(told[1], _backend.Cancelled)
    assert 1 not in [*chain(*tower.computed)]


def test_a_bad_request_and_a_broken_tower_cost_themselves_alone(
    given: Callable[..., list[Sender]], tower: Tower, told: list[Any]
) -> None:
    tower.may.set()
    bad = ValueError("bad")
    given(0, bad, 1)
    until(lambda: len(told) == 3)
    assert told == [0, bad, 1]
    tower.fails = True
    given(2)
    until(lambda: len(told) == 4)
    assert "broken" in str(told[3])
    tower.fails = False
    given(3)
    until(lambda: len(told) == 5)
    assert told[4] == 3


def test_closing_answers_what_is_there(
    given: Callable[..., list[Sender]], tower: Tower, told: list[Any], ahead: Ahead
) -> None:
    given(0, 1)
    tower.may.set()
    ahead.close()
    assert told == [0, 1]
