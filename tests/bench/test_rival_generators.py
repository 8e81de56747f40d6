"""Rivals: our load generator beside perf_analyzer."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cliprt import ServerError
from rivals import generators, perf_analyzer
from rivals.__main__ import show
from rivals.generators import OURS, THEIRS, GeneratorFailed, Seen, by_turns


def test_inputs_of_perf_analyzer_are_serialised_strings(tmp_path: Path) -> None:
    perf_analyzer.write_inputs(tmp_path / "inputs.json", "text", ["a cat", "ü"])
    data = json.loads((tmp_path / "inputs.json").read_text())["data"]
    raw = [base64.b64decode(item["text"]["b64"]) for item in data]
    assert raw == [b"\x05\0\0\0a cat", b"\x02\0\0\0" + "ü".encode()]
    assert [item["text"]["shape"] for item in data] == [[1], [1]]


def test_the_table_of_perf_analyzer_is_read() -> None:
    # Columns and a line of version 2.38.
    text = (
        "Concurrency,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,"
        "Server Compute Input,Server Compute Infer,Server Compute Output,Client Recv,"
        "p50 latency,p90 latency,p95 latency,p99 latency\n"
        "4,57.5,40,1500,310,25,62000,30,9,68123,75000,80456,90000\n"
    )
    assert generators.read_table(text) == Seen(57.5, 68.123, 80.456)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Concurrency,p50 latency,p95 latency\n", "not understood"),
        ("Concurrency,p50 latency,p95 latency\n4,1,2\n", "Inferences/Second"),
        ("Inferences/Second,p50 latency,p95 latency\n0,0,0\n", "no answers"),
    ],
)
def test_a_table_without_figures_is_refused(text: str, reason: str) -> None:
    with pytest.raises(GeneratorFailed, match=reason):
        generators.read_table(text)


def tower(answer: Callable[[], None]) -> Any:
    """A subject that does something before it answers."""

    def texts(strings: list[str]) -> Any:
        answer()
        return np.ones((len(strings), 2), np.float32)

    return SimpleNamespace(model=SimpleNamespace(dim=2), images=None, texts=texts)


def test_a_slow_tower_has_a_median_and_no_p95(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generators, "SETTLE_S", 0.0)
    # Five answers fit into the window at most.
    seen = generators.own(tower(lambda: time.sleep(0.01)), "text", ["a"], 1, 0.05)
    assert seen.p50_ms >= 10
    assert seen.p95_ms is None


def test_a_tower_that_fails_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer() -> None:
        raise ServerError("the queue is full")

    monkeypatch.setattr(generators, "SETTLE_S", 0.0)
    with pytest.raises(GeneratorFailed, match="cliprt bench: ServerError: the queue is full"):
        generators.own(tower(answer), "text", ["a"], 1, 0.01)


def test_both_generators_take_turns() -> None:
    order: list[str] = []

    def taking(name: str, seen: list[Seen]) -> Callable[[], Seen]:
        def measure() -> Seen:
            order.append(name)
            return seen[order.count(name) - 1]

        return measure

    ours, theirs = [Seen(20, 50, 60), Seen(24, 40, None)], [Seen(10, 100, 120), Seen(8, 80, 90)]
    found = by_turns({OURS: taking(OURS, ours), THEIRS: taking(THEIRS, theirs)}, 2)
    assert order == [THEIRS, OURS, OURS, THEIRS]
    assert found["absent"] is None
    assert found[OURS]["items_s"]["repeats"] == (20, 24)
    assert found["ratios"]["items_s"]["repeats"] == (2, 3)
    assert found["ratios"]["p50_ms"]["repeats"] == (0.5, 0.5)
    # One of our windows held too few answers.
    assert found[OURS]["p95_ms"] is found["ratios"]["p95_ms"] is None
    assert found[THEIRS]["p95_ms"]["repeats"] == (120, 90)
    json.dumps(found)


def test_a_point_that_fails_is_told_beside_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> Seen:
        raise GeneratorFailed("perf_analyzer: its windows did not agree")

    def dies() -> Seen:
        raise ServerError("it ended")

    def sees(p95: float | None) -> Callable[[], Seen]:
        return lambda: Seen(20, 50, p95)

    points = {
        "image, 1 callers": by_turns({OURS: sees(60), THEIRS: fails}, 2),
        "image, 4 callers": by_turns({OURS: sees(None), THEIRS: sees(60)}, 2),
        "text, 1 callers": by_turns({OURS: dies, THEIRS: sees(60)}, 2),
        "text, 4 callers": by_turns({OURS: sees(60), THEIRS: sees(60)}, 2),
    }
    generated = {"points": points, "absent": None}
    show({"rivals": [], "apart": {}, "batch": None, "generators": generated})
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    told = [[cell.strip() for cell in line if cell] for line in lines]
    same = "1.00 (1.00 to 1.00)"
    assert told[-5:] == [
        ["image, 4 callers", "20", "20", same, same, "-"],
        ["text, 4 callers", "20", "20", same, same, same],
        ["p95 -: cliprt bench tells none of fewer than 200 answers"],
        ["image, 1 callers: absent: GeneratorFailed: perf_analyzer: its windows did not agree"],
        ["text, 1 callers: absent: ServerError: it ended"],
    ]
