"""Probes share reports, wait for nobody who hangs, and do not blame who is busy."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from cliprt import _standing_check
from cliprt._health import Check, Report, Verdict, report_of
from cliprt._standing_check import StandingCheck


def report(verdict: Verdict) -> Report:
    check = Check(where="image", what="answers", verdict=verdict, found="seen")
    return report_of([check], model="clip", space="1" * 64, took_s=0.0)


class Checks:
    """Gives reports as it is told, and counts."""

    def __init__(self, *verdicts: Verdict) -> None:
        self.verdicts = list(verdicts)
        self.count = 0

    def __call__(self) -> Report:
        self.count += 1
        return report(self.verdicts.pop(0) if len(self.verdicts) > 1 else self.verdicts[0])


@contextmanager
def standing(
    check: Callable[[], Report], *, patience_s: float = 20.0, busy_s: float = 60.0
) -> Iterator[StandingCheck]:
    found = StandingCheck(
        check, model="clip", patience_s=patience_s, waits_for=lambda: "image", busy_s=busy_s
    )
    yield found
    found.close()


@pytest.fixture
def _never_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_standing_check, "_HOLDS_S", 0.0)


def test_a_report_holds_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_standing_check, "_HOLDS_S", 1e6)
    checks = Checks("good")
    with standing(checks) as one:
        assert {one.report().status for _ in range(50)} == {"good"}
    assert checks.count == 1


@pytest.mark.usefixtures("_never_fresh")
def test_and_then_another_is_made() -> None:
    checks = Checks("good", "wrong", "good")
    with standing(checks) as one:
        assert [one.report().healthy for _ in range(3)] == [True, False, True]


def test_all_who_come_meanwhile_share_one_check() -> None:
    go = threading.Event()
    checks = Checks("good")

    def slow() -> Report:
        assert go.wait(20)
        return checks()

    with standing(slow) as one, ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(one.report) for _ in range(8)]
        go.set()
        assert {future.result(20).status for future in waiting} == {"good"}
    assert checks.count == 1


@pytest.mark.usefixtures("_never_fresh")
def test_one_that_hangs_is_wrong_until_it_ends() -> None:
    go = threading.Event()
    begun: list[int] = []

    def hanging() -> Report:
        begun.append(1)
        assert go.wait(20)
        return report("good")

    with standing(hanging, patience_s=0.05) as one:
        for _ in range(3):
            late = one.report()
            assert (late.status, late.healthy) == ("wrong", False)
            assert "waits for image since" in late.problems()
        assert len(begun) == 1, "no other is begun while it lasts"
        running = one._running
        assert running is not None
        go.set()
        running.result(20)
        assert one.report().healthy


@pytest.mark.usefixtures("_never_fresh")
def test_who_has_a_report_to_fall_back_on_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_standing_check, "_SOON_S", 0.0)
    go = threading.Event()
    checks = Checks("good", "wrong")

    def slow() -> Report:
        assert checks.count == 0 or go.wait(20)
        return checks()

    with standing(slow) as one:
        assert one.report().healthy
        assert one.report().healthy, "the old one, while the next is under way"
        running = one._running
        assert running is not None
        go.set()
        running.result(20)
        assert not one.report().healthy


@pytest.mark.usefixtures("_never_fresh")
def test_a_busy_report_leaves_the_last_verdict_in_force() -> None:
    with standing(Checks("busy", "good", "busy", "wrong", "busy")) as one:
        found = [(seen.status, seen.healthy) for seen in (one.report() for _ in range(5))]
    assert found == [
        ("busy", False),
        ("good", True),
        ("busy", True),
        ("wrong", False),
        ("busy", False),
    ]


@pytest.mark.usefixtures("_never_fresh")
def test_who_is_always_busy_is_not_healthy() -> None:
    with standing(Checks("good", "busy"), busy_s=0.0) as one:
        assert [one.report().healthy for _ in range(2)] == [True, False]


@pytest.mark.usefixtures("_never_fresh")
def test_who_is_always_busy_and_seen_at_work_stays_what_it_was() -> None:
    at_work = [time.monotonic()]
    one = StandingCheck(
        Checks("good", "busy", "busy", "wrong", "busy"),
        model="clip",
        patience_s=20.0,
        waits_for=lambda: "image",
        seen_at_work=lambda: at_work[0] + 1e6,
        busy_s=0.0,
    )
    assert [one.report().healthy for _ in range(5)] == [True, True, True, False, False]
    one.close()


@pytest.mark.usefixtures("_never_fresh")
def test_a_check_that_fails_vouches_for_nothing() -> None:
    def failing() -> Report:
        raise RuntimeError("no towers")

    with standing(failing) as one:
        seen = one.report()
    assert (seen.healthy, seen.problems()) == (
        False,
        "model check: the check failed: no towers; see the server's log",
    )
