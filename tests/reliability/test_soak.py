"""`make soak`: a short one for real, and what its judge and its books make of drawn ones."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from numpy.typing import NDArray

from cliprt import (
    Bundle,
    DeadlineExceeded,
    ImageTooLarge,
    InvalidInput,
    ModelUnavailable,
    Overloaded,
    ServerError,
    ServerUnavailable,
)
from soak.books import (
    BAD,
    DISTURBED,
    GIVEN_UP,
    KILLED,
    LOST,
    OVERLOADED,
    REFUSED,
    RIGHT,
    UNFORESEEN,
    WRONG,
    Books,
    Expected,
    Hasty,
    Items,
    Refusal,
    Rows,
    outcome_of,
)
from soak.callers import NeverGone, never_gone
from soak.judging import LEAST_READINGS, Series, growth, judge, unjudged
from soak.running import Found
from soak.storm import KILL, KILL_STUB, RELOAD, plan

# One of each kind, in a process of its own: what is left in the end must be the run's alone.
PROGRAM = """
import sys
from pathlib import Path
from cliprt import open_bundle
from soak.running import soak
from soak.storm import KILL, KILL_STUB, RELOAD, Act
from soak.telling import as_json, write_page
acts = [Act(1, RELOAD, "clip_text"), Act(2, KILL_STUB, "clip_image_file"), Act(3, KILL)]
kinds = set(sys.argv[3].split("|"))
found = soak(
    open_bundle(Path(sys.argv[1])),
    acts,
    every_s=0.5,
    enough=lambda seconds, books: kinds <= books.kinds(),
    pause_s=0.5,
)
write_page(found, Path(sys.argv[2]))
print(as_json(found))
"""

KINDS = {
    *(f"Client: {kind}" for kind in ("texts", "pictures", "generators", "good beside bad")),
    *(f"Client: {kind}" for kind in ("bad pictures", "bad texts", "deadlines")),
    "Client that waits, shared memory",
    *(f"AsyncClient: {kind}" for kind in ("texts", "pictures", "bad pictures")),
    *(f"AsyncClient: {kind}" for kind in ("cancelled", "deadlines")),
    *(
        f"{way}: {kind}"
        for way in ("Triton, gRPC", "Triton, HTTP", "OpenAI")
        for kind in ("texts", "pictures", "bad pictures", "bad texts")
    ),
    "raw tensors",
    *(
        f"opened and closed: {kind}"
        for kind in ("Client", "AsyncClient", "shared memory", "decoding processes", "LocalClip")
    ),
    KILLED,
    KILL,
    KILL_STUB,
    RELOAD,
}


def test_a_short_one_keeps_what_is_promised(demo_bundle: Bundle, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, demo_bundle.path, page]
    done = subprocess.run(
        [*command, "|".join(KINDS)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    # A minute is all warm-up: what grows is for the long ones.
    assert [one for one in found["faults"] if " grew by " not in one] == [], found["troubles"]
    assert [found["outcomes"][bad] for bad in BAD] == [0, 0, 0]
    assert {one["kind"] for one in found["kinds"]} >= KINDS
    assert [act["what"] for act in found["done"]] == [RELOAD, KILL_STUB, KILL]
    roles = {(one["role"], one["generation"]) for one in found["series"]}
    # A reloaded model has another process; where one was killed, the server was started again.
    assert {("client", 1), ("front", 1), ("tritonserver", 2), ("stub clip_text", 2)} <= roles
    assert page.read_text().count("<svg") == 9


def series(values: Sequence[float], role: str = "client", what: str = "memory_mb") -> Series:
    return Series(role, 1, what, [5.0 * number for number in range(len(values))], list(values))


def hour(seed: int = 0, noise: float = 10.0) -> NDArray[np.float64]:
    """Readings of an hour, one every five seconds, that stay where they are."""
    return 300 + np.random.default_rng(seed).normal(0, noise, 720)


def broken(*one: Series) -> bool:
    judged = judge(one)
    assert len(judged) == len(one)
    return any(each.broken for each in judged)


@pytest.mark.parametrize("seed", range(20))
def test_a_leak_is_found_and_noise_is_none(seed: int) -> None:
    leak = np.linspace(0, 150, 720)  # MB within the hour, of which 60 % lie between the medians
    assert broken(series(hour(seed) + leak))
    assert not broken(series(hour(seed, noise=40.0)))
    # It shows in the slope long before it breaks a bound.
    slow = growth(series(hour(seed)).at_s, hour(seed) + leak / 3)
    assert slow is not None
    assert slow.per_hour == pytest.approx(50, abs=10)
    assert not broken(series(hour(seed) + leak / 3))


def test_warm_up_and_single_readings_count_nothing() -> None:
    warming = hour() - 250 * np.exp(-np.arange(720) / 40)
    spikes = hour()
    spikes[::5] += 1000
    assert not broken(series(warming))
    assert not broken(series(spikes))


@pytest.mark.parametrize(("more", "found"), [(8, False), (9, True)])
def test_files_are_counted(more: int, found: bool) -> None:
    steps = np.repeat([40, 40 + more], 360)
    assert broken(series(steps, what="files")) is found


def test_each_process_is_judged_by_itself() -> None:
    first = series(np.full(100, 100.0), "stub clip_text")
    second = Series("stub clip_text", 2, "memory_mb", first.at_s, [400.0] * 100)
    assert not broken(first, second)
    leaking = Series("stub clip_text", 3, "memory_mb", first.at_s, list(np.linspace(100, 300, 100)))
    (line,) = [one.line() for one in judge([first, second, leaking]) if one.broken]
    assert line.startswith("memory_mb of stub clip_text (process 3) grew by 12")


def test_who_lives_too_short_is_told() -> None:
    short = series([100.0] * (LEAST_READINGS - 1), "stub clip_text")
    long = series([100.0] * LEAST_READINGS, "stub clip_image")
    assert unjudged([short, long], judge([short, long])) == ["stub clip_text"]


def test_the_end_of_a_run_is_left_alone() -> None:
    acts = plan(3600, random.Random(0))
    assert Counter(act.what for act in acts) == {RELOAD: 8, KILL: 4, KILL_STUB: 4}
    assert acts == sorted(acts, key=lambda act: act.at_s)
    assert max(act.at_s for act in acts) <= 2700
    assert {act.what for act in acts if act.at_s >= 1800} == {RELOAD}


ROWS = np.eye(3, 4, dtype=np.float32)


@pytest.mark.parametrize(
    ("found", "expected", "outcome"),
    [
        (ROWS, Rows(ROWS), RIGHT),
        (ROWS + 9e-6, Rows(ROWS), RIGHT),
        (ROWS + 2e-5, Rows(ROWS), WRONG),
        (ROWS[[1, 0, 2]], Rows(ROWS), WRONG),  # in another order
        (ROWS[:2], Rows(ROWS), WRONG),
        (ROWS * np.nan, Rows(ROWS), WRONG),
        (InvalidInput("zero bytes", index=1), Refusal("zero", 1), REFUSED),
        (ImageTooLarge("zero bytes", index=1), Refusal("zero", 1), REFUSED),
        (InvalidInput("zero bytes", index=2), Refusal("zero", 1), WRONG),
        (InvalidInput("nothing", index=1), Refusal("zero", 1), WRONG),
        (ROWS, Refusal("zero", 1), WRONG),
        (InvalidInput("zero bytes", index=1), Rows(ROWS), UNFORESEEN),
        (DeadlineExceeded("late"), Hasty(ROWS), GIVEN_UP),
        (asyncio.CancelledError(), Hasty(ROWS), GIVEN_UP),
        (ROWS, Hasty(ROWS), RIGHT),
        (ROWS[::-1], Hasty(ROWS), WRONG),
        ([*ROWS[:2], InvalidInput("bad", index=2)], Items(ROWS, frozenset([2])), RIGHT),
        ([*ROWS[:2], InvalidInput("bad", index=1)], Items(ROWS, frozenset([2])), WRONG),
        ([*ROWS], Items(ROWS, frozenset([2])), WRONG),
        ([*ROWS[:2]], Items(ROWS, frozenset([2])), WRONG),
        ([*ROWS[:2], ServerUnavailable("gone")], Items(ROWS, frozenset()), DISTURBED),
        ([*ROWS[:2], Overloaded("full")], Items(ROWS, frozenset()), OVERLOADED),
        ([*ROWS[:2], TypeError("a bug")], Items(ROWS, frozenset()), UNFORESEEN),
        (Overloaded("full"), Rows(ROWS), OVERLOADED),
        (ServerUnavailable("gone"), Rows(ROWS), DISTURBED),
        (ServerError("it failed on a good request"), Rows(ROWS), UNFORESEEN),
        (ModelUnavailable("gone"), Refusal("zero", 1), DISTURBED),
        (ConnectionResetError(), Rows(ROWS), DISTURBED),
        (TimeoutError(), Rows(ROWS), UNFORESEEN),
        (TypeError("a bug"), Rows(ROWS), UNFORESEEN),
    ],
)
def test_what_answers_and_errors_come_to(found: object, expected: Expected, outcome: str) -> None:
    assert outcome_of(found, expected)[0] == outcome


def asked(books: Books, call: Callable[[], object]) -> None:
    books.ask("kind", call, Rows(ROWS), deadline_s=60)


def gone() -> object:
    raise ServerUnavailable("gone")


def test_a_failure_is_explained_by_what_was_done_to_the_server_or_by_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    books = Books()
    asked(books, gone)
    monkeypatch.setattr("soak.books._SETTLE_S", 0.0)
    books.settle()
    assert books.totals() == {UNFORESEEN: 1}
    with books.disturbed("loaded anew", excuses=False):
        asked(books, gone)
    books.settle()
    assert books.totals() == {UNFORESEEN: 2}
    with books.disturbed("killed"):
        asked(books, gone)
    books.settle()
    assert books.totals() == {UNFORESEEN: 2, DISTURBED: 1}
    # A crash is noticed when it has had its effects.
    asked(books, gone)
    with books.disturbed("a crash", since_s=60):
        pass
    books.settle()
    assert books.totals() == {UNFORESEEN: 2, DISTURBED: 2}


def full() -> object:
    raise Overloaded("full")


def test_a_full_queue_is_told_apart_from_one_of_a_server_that_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("soak.books._SETTLE_S", 0.0)
    books = Books()
    asked(books, full)
    books.settle()
    assert books.totals() == {OVERLOADED: 1}
    with books.disturbed("loaded anew", excuses=False):
        asked(books, full)
    books.settle()
    assert books.totals() == {OVERLOADED: 2}
    with books.disturbed("killed"):
        asked(books, full)
    books.settle()
    assert books.totals() == {OVERLOADED: 2, DISTURBED: 1}


@pytest.mark.parametrize(
    ("call", "kept"),
    [(lambda: ROWS, True), (lambda: ROWS[::-1], False), (gone, False), (full, False)],
)
def test_a_kind_counts_as_seen_once_one_request_ended_as_it_should(
    call: Callable[[], object], kept: bool
) -> None:
    books = Books()
    with books.disturbed("killed"):
        asked(books, call)
    books.settle()
    assert books.kinds() == ({"kind"} if kept else set())


def test_who_waits_for_the_server_is_spared_every_failure() -> None:
    with pytest.raises(NeverGone, match="ServerError: a model's process died"):
        never_gone(raising(ServerError("a model's process died")))
    with pytest.raises(NeverGone, match="Overloaded: full"):
        never_gone(full)
    assert outcome_of(NeverGone("gone"), Rows(ROWS))[0] == UNFORESEEN


def raising(error: Exception) -> Callable[[], object]:
    def call() -> object:
        raise error

    return call


def test_a_request_without_answer_is_lost_and_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    books = Books()
    monkeypatch.setattr("soak.books.SLACK_S", 0.0)

    def late() -> object:
        time.sleep(0.001)
        assert books.overdue() == ["kind"]
        assert books.overdue() == []
        return ROWS

    books.ask("kind", late, Rows(ROWS), deadline_s=0)
    assert books.totals() == {LOST: 1}


def run(
    counts: dict[tuple[str, str], int], *grew: Series, crashes: int = 0, may_crash: bool = False
) -> Found:
    """What a run of a minute came to."""
    return Found(
        60.0, "2.60.0", Counter(counts), [], [], 0.0, [], crashes, may_crash, grew, judge(grew), []
    )  # fmt: skip


def test_everything_that_is_not_as_promised_is_told() -> None:
    leaking = series(np.linspace(0, 1000, 100))
    counts = {("kind", RIGHT): 5, ("kind", WRONG): 1, ("other", LOST): 2, ("third", DISTURBED): 9}
    found = replace(run(counts, leaking, crashes=1), left=["a file"])
    assert [line.partition(" grew")[0] for line in found.faults()] == [
        "1 requests wrong",
        "2 requests lost",
        "third: not one request ended as it should",
        "memory_mb of client (process 1)",
        "left behind: a file",
        "the tritonserver crashed 1 times, 0 allowed",
    ]


@pytest.mark.parametrize(
    ("counts", "fault"),
    [
        ({("kind", RIGHT): 990, ("kind", OVERLOADED): 10}, ""),
        (
            {("kind", RIGHT): 989, ("kind", OVERLOADED): 11},
            "11 of 1,000 requests refused as overloaded by a sound server",
        ),
        ({("kind", RIGHT): 1, ("kind", DISTURBED): 999}, ""),
        ({("kind", GIVEN_UP): 1, ("other", REFUSED): 1}, ""),
        (
            {("kind", RIGHT): 999, ("other", OVERLOADED): 1},
            "other: not one request ended as it should",
        ),
    ],
)
def test_nothing_that_failed_makes_a_run_good(
    counts: dict[tuple[str, str], int], fault: str
) -> None:
    assert run(counts).faults() == ([fault] if fault else [])


@pytest.mark.parametrize(
    ("killed", "crashes", "may_crash", "sound"),
    [
        (0, 0, True, True),
        (0, 1, True, False),  # nobody was killed, with --calm for instance
        (3, 3, True, True),
        (3, 4, True, False),
        (3, 1, False, False),  # a Triton that bears it
    ],
)
def test_no_more_crashes_are_excused_than_clients_were_killed(
    killed: int, crashes: int, may_crash: bool, sound: bool
) -> None:
    counts = {("kind", RIGHT): 1, (KILLED, RIGHT): killed}
    found = run(counts, crashes=crashes, may_crash=may_crash).faults()
    assert (found == []) is sound, found
