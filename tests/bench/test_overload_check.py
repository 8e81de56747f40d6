"""``make overload-check``: what it makes of what it saw, and which promises it finds broken."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cliprt import Overloaded
from cliprt_bench._trace import Trace
from overload_check import Readiness, broken
from storms import Recovery, Storm, Way, WrongAnswer, judged

SECOND = 1_000_000_000
WAIT_S = 2.0


def trace_of(*requests: tuple[float, str]) -> Trace:
    """Requests due ten times a second, with seconds until they ended, and how."""
    count = len(requests)
    due = np.arange(count, dtype=np.int64) * SECOND // 10
    took = np.array([seconds * SECOND for seconds, _ in requests], np.int64)
    kinds = ("", *sorted({kind for _, kind in requests} - {""}))
    zeros = np.zeros(count, np.int64)
    return Trace(
        loop="open",
        most=count,
        window=(0, count * SECOND // 10),
        number=np.arange(count),
        due=due,
        begun=due,
        ended=due + took,
        lag=zeros,
        kind=np.array([kinds.index(kind) for _, kind in requests], np.int16),
        kinds=kinds,
        messages={},
        held_up=zeros,
        generator_s=0.0,
        sending_s=0.0,
        process_s=0.0,
        beside=0,
        complete=True,
    )


def test_what_comes_too_late_is_not_good() -> None:
    seen = [(0.5, ""), (2.9, ""), (3.1, ""), (0.01, "Overloaded"), (3.0, "DeadlineExceeded")]
    found = judged(trace_of(*seen), 2.0, 10.0, 3.0, 0.4)
    assert found.outcomes == {"good": 2, "late": 1, "Overloaded": 1, "DeadlineExceeded": 1}
    assert found.good_s == pytest.approx(4.0)
    assert found.good == pytest.approx(0.4)
    assert found.offered_s == pytest.approx(10.0)
    assert (found.p50_ms, found.p99_ms) == (pytest.approx(3100), None)
    assert found.refused_p50_ms == pytest.approx(10)
    assert found.recovered_s == 0.4


KEPT = Storm(
    share=2.0,
    capacity_s=20.0,
    offered_s=40.0,
    good_s=19.0,
    p50_ms=900.0,
    p99_ms=1900.0,
    refused_p50_ms=2.0,
    refused_p95_ms=9.0,
    outcomes={"good": 190, "late": 1, "Overloaded": 210},
    recovered_s=1.0,
    bottleneck=None,
)


def test_kept_promises_are_not_broken() -> None:
    assert broken("way", [KEPT, replace(KEPT, share=5.0, good_s=12.0)], WAIT_S) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"good_s": 17.0}, "way at 2 x: goodput 0.85 of the best, 0.9"),
        ({"p99_ms": 3100.0}, "way at 2 x: p99 3100 ms, 3 s"),
        ({"refused_p95_ms": 150.0}, "way at 2 x: refused after 150 ms (p95), 0.1 s"),
        ({"outcomes": {"good": 9, "WrongAnswer": 1}}, "way at 2 x: 1 WrongAnswer"),
        ({"p99_ms": None}, "way at 2 x: p99 never, 3 s"),
        ({"recovered_s": 2.5}, "way at 2 x: quick again after 2.5 s, 2.0 s"),
    ],
)
def test_each_promise_is_told_when_it_is_broken(change: dict[str, Any], told: str) -> None:
    assert broken("way", [replace(KEPT, **change)], WAIT_S) == [told]


def test_the_best_may_be_another_rate() -> None:
    best = replace(KEPT, share=1.0, good_s=22.0)
    assert broken("way", [best, KEPT], WAIT_S) == [
        "way at 2 x: goodput 0.86 of the best, 0.9",
    ]


def test_red_is_what_a_sound_model_does_not_say() -> None:
    readiness = Readiness()
    readiness.said.update(["front 200", "health busy", "health good", "front 503", "health wrong"])
    assert readiness.red == ["front 503", "health wrong"]


def way(ask: Any) -> Way:
    return Way("way", ask, ["a", "b"], np.eye(2, dtype=np.float32), 0.75)


def test_another_items_answer_is_wrong() -> None:
    first = np.eye(2, dtype=np.float32)[:1]
    asked = way(lambda item: first)
    asked.send(0)
    asked.send(2)
    with pytest.raises(WrongAnswer, match="item 1 has the cosine 0.000000"):
        asked.send(1)
    with pytest.raises(WrongAnswer):
        way(lambda item: first * np.nan).send(0)


def test_recovery_is_when_a_request_is_answered_again() -> None:
    asked: list[int] = []

    def ask(item: str) -> Any:
        asked.append(1)
        if 9 < len(asked) < 12:
            raise Overloaded("not yet")
        return np.eye(2, dtype=np.float32)[:1]

    with Recovery(way(ask), patience_s=60.0) as recovery:
        pass
    assert 0 < recovery.seconds() < 60.0
    assert len(asked) == 12
