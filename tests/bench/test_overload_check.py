"""``make overload-check``: what it makes of what it saw, and which promises it finds broken."""

from __future__ import annotations

import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from patience import until

from cliprt import Overloaded
from cliprt_bench._trace import Trace
from overload_check import Readiness, _dealt, broken
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
    found = judged(trace_of(*seen), 2.0, 11.0, 9.0, 3.0, 0.4)
    assert found.outcomes == {"good": 2, "late": 1, "Overloaded": 1, "DeadlineExceeded": 1}
    assert found.good_s == pytest.approx(4.0)
    assert found.good == pytest.approx(0.4)
    assert found.offered_s == pytest.approx(10.0)
    assert (found.p50_ms, found.p99_ms) == (pytest.approx(3100), None)
    assert found.refused_p50_ms == pytest.approx(10)
    assert found.refused_p99_ms == pytest.approx(10)
    assert (found.capacity_s, found.recovered_s) == (10.0, 0.4)
    assert found.again == pytest.approx(9 / 11)


KEPT = Storm(
    share=2.0,
    capacity_s=20.0,
    offered_s=40.0,
    good_s=19.0,
    p50_ms=900.0,
    p99_ms=1900.0,
    refused_p50_ms=2.0,
    refused_p95_ms=9.0,
    refused_p99_ms=20.0,
    outcomes={"good": 190, "late": 1, "Overloaded": 210},
    recovered_s=1.0,
    again=1.0,
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
        ({"refused_p99_ms": 300.0}, "way at 2 x: refused after 300 ms (p99), 0.25 s"),
        ({"again": 0.7}, "way at 2 x: then 0.70 of the capacity before, 0.75"),
        ({"bottleneck": "it was late"}, "way at 2 x: not measured, it was late"),
        ({"bottleneck": "it was late", "p99_ms": None}, "way at 2 x: not measured, it was late"),
        ({"outcomes": {"good": 9, "WrongAnswer": 1}}, "way at 2 x: 1 WrongAnswer"),
        ({"p99_ms": None}, "way at 2 x: p99 never, 3 s"),
        ({"recovered_s": 2.5}, "way at 2 x: quick again after 2.5 s, 2.0 s"),
    ],
)
def test_each_promise_is_told_when_it_is_broken(change: dict[str, Any], told: str) -> None:
    assert broken("way", [replace(KEPT, **change)], WAIT_S) == [told]


def test_a_wrong_answer_is_told_of_a_point_that_was_not_measured_as_well() -> None:
    found = replace(KEPT, bottleneck="it was late", outcomes={"good": 9, "WrongAnswer": 1})
    assert broken("way", [found], WAIT_S) == [
        "way at 2 x: 1 WrongAnswer",
        "way at 2 x: not measured, it was late",
    ]


def test_below_the_capacity_there_is_no_storm_to_recover_from() -> None:
    assert broken("way", [replace(KEPT, share=0.5, again=0.1, recovered_s=9.0)], WAIT_S) == []


def test_mixed_items_keep_their_answers() -> None:
    images, texts = np.eye(2, 8, dtype=np.float32), np.eye(4, 8, k=4, dtype=np.float32)
    items, rows = _dealt(["p0", "p1"], images, ["c0", "c1", "c2", "c3"], texts)
    assert items == ["p0", "c0", "c1", "p1", "c2", "c3"]
    assert [int(row.argmax()) for row in rows] == [0, 4, 5, 1, 6, 7]


def test_readiness_is_asked_without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ready(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setattr("overload_check._FRONT_EVERY_S", 0.01)
    # Nothing listens there.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    readiness = Readiness()
    with ThreadingHTTPServer(("127.0.0.1", 0), Ready) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with readiness.watched(f"http://127.0.0.1:{server.server_port}", "127.0.0.1:9"):
            until(lambda: readiness.said)
        server.shutdown()
    assert set(readiness.said) == {"front 200"}


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
