"""What live towers are asked, on towers in this process; the real server is in test_health.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import pytest
from numpy.typing import NDArray

from cliprt import Bundle, CliprtError, DeadlineExceeded, Overloaded, ServerError
from cliprt._health import Check, LiveTower, Question, check_towers, text_of
from cliprt._known import Known, bar_of_folder
from cliprt._texts import fill_up
from cliprt_engines import OnnxTower

Answer: TypeAlias = "NDArray[Any] | CliprtError"
Change: TypeAlias = Callable[[Question, NDArray[Any]], Answer]


class Live:
    """Towers of a bundle that remember what they were asked."""

    def __init__(self, bundle: Bundle) -> None:
        self._towers = {
            name: OnnxTower(bundle.file(f"{name}.fp32.onnx"), threads=1)
            for name in ("image", "text")
        }
        self.asked: list[Sequence[Question]] = []
        self.change: Change = lambda question, rows: rows

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        self.asked.append(questions)
        return [
            self.change(question, self._towers[question.tower].run(question.batch).copy())
            for question in questions
        ]

    def of(self, tower: str) -> list[NDArray[Any]]:
        return [one.batch for many in self.asked for one in many if one.tower == tower]


@pytest.fixture
def live(demo_bundle: Bundle) -> Live:
    return Live(demo_bundle)


def towers_of(bundle: Bundle, *, max_batch: int = 64, lengths: tuple[int, ...] = ()) -> Any:
    return [
        LiveTower(
            name=name,
            known=Known.of(bundle.path, name),
            bar=bar_of_folder(bundle.path, name, "fp32"),
            max_batch=max_batch,
            text=bundle.card.text if name == "text" else None,
            lengths=lengths if name == "text" else (),
        )
        for name in ("image", "text")
    ]


def bad(checks: list[Check]) -> list[str]:
    return [f"{one.where} {one.what} {one.verdict}" for one in checks if one.verdict != "good"]


@pytest.mark.parametrize("thorough", [True, False])
@pytest.mark.parametrize("max_batch", [1, 3, 64])
@pytest.mark.parametrize("lengths", [(), (16, 32), (32,)])
def test_sound_towers_pass_however_they_are_asked(
    demo_bundle: Bundle, live: Live, thorough: bool, max_batch: int, lengths: tuple[int, ...]
) -> None:
    towers = towers_of(demo_bundle, max_batch=max_batch, lengths=lengths)
    assert bad(check_towers(towers, live.ask, thorough=thorough)) == []
    assert max(map(len, live.of("image") + live.of("text"))) <= max_batch
    if lengths:
        assert {batch.shape[1] for batch in live.of("text")} <= set(lengths)
    else:
        assert min(batch.shape[1] for batch in live.of("text")) == 3


def test_a_quick_look_is_a_handful_of_items(demo_bundle: Bundle, live: Live) -> None:
    check_towers(towers_of(demo_bundle), live.ask, thorough=False)
    assert [sum(map(len, live.of(tower))) for tower in ("image", "text")] == [6, 7]
    assert [len(questions) for questions in live.asked] == [1, 1, 4]


def test_a_thorough_one_asks_for_all_alone_and_mixes_others_in(
    demo_bundle: Bundle, live: Live
) -> None:
    check_towers(towers_of(demo_bundle), live.ask, thorough=True)
    images = live.of("image")
    assert [len(batch) for batch in images] == [1, 1, 1, 1, 8, 1, 1, 1, 1]
    known = Known.of(demo_bundle.path, "image").inputs
    strangers = [row for row in images[4] if not any((row == one).all() for one in known)]
    assert len(strangers) == 4
    assert all(batch.dtype == np.uint8 for batch in images)
    assert all(batch.dtype == np.int32 for batch in live.of("text"))


def test_one_that_fails_is_not_asked_on(demo_bundle: Bundle, live: Live) -> None:
    live.change = lambda question, rows: (
        ServerError("out of memory") if question.tower == "image" else rows
    )
    checks = check_towers(towers_of(demo_bundle), live.ask, thorough=True)
    assert bad(checks) == ["image answers wrong"]
    assert "out of memory" in str(checks[0])
    assert len(live.of("image")) == 1


@pytest.mark.parametrize(
    ("error", "verdict"),
    [(Overloaded("full"), "busy"), (DeadlineExceeded("late"), "wrong")],
)
def test_in_traffic_alone_who_refuses_is_busy_and_who_is_late_is_wrong(
    demo_bundle: Bundle, live: Live, error: CliprtError, verdict: str
) -> None:
    live.change = lambda question, rows: error if len(question.batch) > 1 else rows
    checks = check_towers(towers_of(demo_bundle), live.ask, thorough=True)
    assert bad(checks) == [f"image answers {verdict}", f"text answers {verdict}"]
    # What was answered is judged all the same.
    assert "known answers" in [check.what for check in checks]


def test_wrong_answers_outweigh_a_refusal(demo_bundle: Bundle, live: Live) -> None:
    live.change = lambda question, rows: Overloaded("full") if len(rows) > 1 else -rows
    checks = check_towers(towers_of(demo_bundle), live.ask, thorough=True)
    assert "image known answers wrong" in bad(checks)


@pytest.mark.parametrize("thorough", [True, False])
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda rows: rows.astype(np.float16), "image shape wrong"),
        (lambda rows: rows[:, :-1], "image shape wrong"),
        (lambda rows: rows * np.float32(np.inf), "image numbers wrong"),
        (lambda rows: np.zeros_like(rows), "image length wrong"),
        (lambda rows: np.roll(rows, 1, axis=1), "image known answers wrong"),
    ],
)
def test_each_cause_is_told_once(
    demo_bundle: Bundle,
    live: Live,
    change: Callable[[Any], Any],
    expected: str,
    thorough: bool,
) -> None:
    live.change = lambda question, rows: change(rows) if question.tower == "image" else rows
    found = bad(check_towers(towers_of(demo_bundle), live.ask, thorough=thorough))
    assert found[0] == expected
    assert set(found) <= {expected, "image constant wrong"}


def test_texts_are_cut_where_nothing_behind_them_is_seen(demo_bundle: Bundle) -> None:
    spec = demo_bundle.card.text
    assert spec is not None
    known = Known.of(demo_bundle.path, "text").inputs
    texts = [text_of(row, spec) for row in known]
    assert len(texts[0]) == 3
    assert all(text[-1] == spec.end_id for text in texts)
    assert fill_up(texts[:1], spec, (16, 32)).shape == (1, 16)
    assert fill_up(texts, spec, ()).tolist() == known.tolist()
