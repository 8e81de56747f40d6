"""Conditions that make a comparison fail."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bench_cards as cards
import pytest
from bench_cards import card, point, workload
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st

from cliprt_bench._bench_card import BenchCard, BenchCardError, Point
from cliprt_bench._cli_compare import compare
from cliprt_bench._comparable import LabelledCard, letters
from cliprt_bench._compare import compare_bench_cards
from cliprt_bench._figures import figure
from cliprt_bench._gate import (
    GRAMMAR,
    UNDECIDED,
    VIOLATED,
    Condition,
    Verdict,
    judge,
    parse_condition,
)

UNITS = {
    "p50": "ms",
    "p90": "ms",
    "p95": "ms",
    "p99": "ms",
    "max": "ms",
    "items": "/s",
    "rss": "MB",
}


def judged(conditions: str, *given: BenchCard, strict: bool = False) -> Verdict:
    labelled = [
        LabelledCard(label=letters(i), source="f", card=each) for i, each in enumerate(given)
    ]
    parsed = [parse_condition(text) for text in conditions.split(",")]
    return judge(compare_bench_cards(labelled), parsed, strict=strict)


@st.composite
def conditions(draw: st.DrawFn) -> tuple[str, Condition]:
    name = draw(st.sampled_from(sorted(UNITS)))
    op = draw(st.sampled_from([">", "<", ">=", "<="]))
    whole = draw(st.integers(0, 10**9))
    digits = draw(st.sampled_from([f"{whole}", f"{whole}.25", ".5"]))
    unit = draw(st.sampled_from(["", "x", UNITS[name]]))
    spaces = [draw(st.sampled_from(["", " ", "\t "])) for _ in range(5)]
    text = "".join(
        space + part for space, part in zip(spaces, (name, op, digits, unit, ""), strict=True)
    )
    figure = {"items": "items_s", "rss": "rss_mb"}.get(name, f"{name}_ms")
    expected = Condition(
        text=f"{name}{op}{digits}{unit}",
        figure=figure,
        op=op,
        number=float(digits),
        relative=unit == "x",
        unit=UNITS[name],
    )
    return text, expected


@given(conditions())
def test_conditions_are_read(both: tuple[str, Condition]) -> None:
    text, expected = both
    assert parse_condition(text) == expected


@given(st.text() | st.from_regex(r"[a-z0-9]{0,5}[<>=]{0,3}[0-9.ex-]{0,6}(x|ms|s|/s|MB)?"))
@example("p99>" + "9" * 400)
@example("p99>１x")
@example("p99>1.1x;")
@example("p99=>1")
@example("p99>-1ms")
@example("p99>1e3ms")
@example("p99>nan")
def test_any_other_text_is_refused_with_the_grammar(text: str) -> None:
    try:
        condition = parse_condition(text)
    except BenchCardError as error:
        message = str(error)
    else:
        # What was taken is what was written.
        assert condition.text == "".join(text.split())
        assert parse_condition(condition.text) == condition
        return
    assert GRAMMAR in message
    assert len(message) < 800


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("p99>20/s", "p99 is in ms, not in /s"),
        ("items<5ms", "items is in /s, not in ms"),
        ("rss>5ms", "rss is in MB, not in ms"),
        ("p42>1x", "names no figure that can be checked"),
        ("p99", "is no condition"),
    ],
)
def test_the_message_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(BenchCardError, match=message):
        parse_condition(text)


@pytest.mark.parametrize(
    ("condition", "fails"),
    [
        ("p99>1.4x", True),
        ("p99>1.6x", False),
        ("p99>=1.4x", True),
        ("p99<1.6x", True),
        ("p99<=1.4x", False),
        ("p99>14ms", True),
        ("p99>16ms", False),
        ("p99>14", True),
        ("items<0.9x", True),
        ("items<0.7x", False),
        ("items<81/s", True),
        ("items<79/s", False),
        ("rss>1.1x", True),
        ("rss>300MB", False),
    ],
)
def test_a_condition_decides(condition: str, fails: bool) -> None:
    one = card([point(p99=10.0, items=100.0, figures={"rss_mb": 100.0})])
    two = card([point(p99=15.0, items=80.0, figures={"rss_mb": 200.0})])
    assert judged(condition, one, two).status == (VIOLATED if fails else 0)


def test_each_violated_point_has_a_line_that_says_how_much() -> None:
    points = [point(workload(batch=batch), p99=10.0) for batch in (1, 2, 4)]
    slower = [point(workload(batch=batch), p99=10.0 * batch) for batch in (1, 2, 4)]
    verdict = judged("p99>1.1x", card(points), card(slower))
    assert verdict.violations == (
        "p99>1.1x: B, image, batch 2, 1 caller: 20 ms against 10 ms, 2.000x [1.978, 2.022]",
        "p99>1.1x: B, image, batch 4, 1 caller: 40 ms against 10 ms, 4.000x [3.957, 4.043]",
    )
    assert verdict.undecided == ()


def test_every_condition_and_every_card_counts() -> None:
    slow = card([point(p99=20.0, items=50.0)])
    verdict = judged("p99>1.1x,items<0.9x", card(), slow, card(), slow)
    assert [line[:12] for line in verdict.violations] == [
        "p99>1.1x: B,",
        "p99>1.1x: D,",
        "items<0.9x: ",
        "items<0.9x: ",
    ]


@pytest.mark.parametrize(("times", "status"), [(1.2, UNDECIDED), (10.0, VIOLATED), (1.0, 0)])
@pytest.mark.parametrize("which", [0, 1])
def test_the_whole_interval_has_to_lie_beyond_the_limit(
    which: int, times: float, status: int
) -> None:
    loud = figure([10.0 * part for part in (0.9, 1.0, 1.1)])
    quiet = cards.quiet(10.0)
    ours = figure([each * times for each in (quiet, loud)[which].repeats])
    given = card([point(p99=(loud, quiet)[which])]), card([point(p99=ours)])
    verdict = judged("p99>1.1x", *given)
    assert verdict.status == status
    if status == UNDECIDED:
        (line,) = verdict.undecided
        assert "12 ms against 10 ms, 1.200x [0." in line
        assert line.endswith("], but its interval reaches the limit")
    # Who is strict takes what lies beyond for a violation, and what holds for what it is.
    assert judged("p99>1.1x", *given, strict=True).status == (VIOLATED if status else 0)


@pytest.mark.parametrize(
    ("condition", "value", "status"),
    [
        ("p99>1.1x", 100.0, VIOLATED),
        ("p99>1.1x", 13.8, VIOLATED),
        ("p99>1.1x", 13.7, UNDECIDED),
        ("p99>1.1x", 11.1, UNDECIDED),
        ("p99>1.1x", 10.9, 0),
        ("p99>20ms", 25.1, VIOLATED),
        ("p99>20ms", 24.9, UNDECIDED),
        ("p99<20ms", 15.9, VIOLATED),
        ("p99<20ms", 16.1, UNDECIDED),
        ("p99<20ms", 20.0, 0),
    ],
)
def test_a_value_without_an_interval_has_to_exceed_the_limit_by_a_quarter(
    condition: str, value: float, status: int
) -> None:
    given = (card([point(p99=figure([10.0]))]), card([point(p99=figure([value]))]))
    verdict = judged(condition, *given)
    assert verdict.status == status
    if status == UNDECIDED:
        assert "no interval, and is not beyond the limit by 25%" in verdict.undecided[0]
    assert judged(condition, *given, strict=True).status == (VIOLATED if status else 0)


def test_an_absolute_limit_is_held_against_the_own_interval() -> None:
    loud = figure([8.0, 10.0, 12.0])
    assert judged("p99>9ms", card([point(p99=loud)])).status == UNDECIDED
    assert judged("p99>4ms", card([point(p99=loud)])).status == VIOLATED
    # Noise of the baseline is no excuse.
    assert judged("p99>20ms", card([point(p99=loud)]), card([point(p99=30.0)])).status == VIOLATED


def test_what_answers_nothing_is_below_every_multiple() -> None:
    nothing = card([point(items=figure([0.0, 0.0, 0.0]))])
    assert judged("items<0.9x", card(), nothing).status == VIOLATED
    verdict = judged("items<0.9x,p99>9x", nothing, card())
    assert verdict.violations == ("items<0.9x: B has no point to check it at",)


def test_the_baseline_is_not_held_against_a_limit() -> None:
    assert judged("p99>20ms", card([point(p99=30.0)]), card()).status == 0


def test_a_card_alone_is_held_against_a_limit() -> None:
    assert judged("p99>20ms", card([point(p99=30.0)])).status == VIOLATED


def test_a_card_alone_has_nothing_to_be_a_multiple_of() -> None:
    with pytest.raises(BenchCardError, match="there is only one; give another, or a limit in ms"):
        judged("p99>1.1x", card())


def test_a_gate_that_finds_nothing_to_check_fails() -> None:
    one = card([point(p99=None)])
    assert judged("p99>1.1x", one, one).violations == ("p99>1.1x: B has no point to check it at",)


BOTH = (point(), point(workload(batch=2)))
ONE = (point(), point(workload(batch=2), p99=None))


@pytest.mark.parametrize(
    ("first", "second", "condition", "reason"),
    [
        (BOTH, BOTH[:1], "p99>1.1x", "this point was not measured"),
        (BOTH, ONE, "p99>1.1x", "p99_ms is not there to check"),
        (ONE, ONE, "p99>1.1x", "p99_ms is not there to check"),
        (ONE, ONE, "p99>90ms", "p99_ms is not there to check"),
        (BOTH[:1], BOTH, "p99>1.1x", "the first card has no such point"),
        (ONE, BOTH, "p99>1.1x", "p99_ms of the first card is not there to compare with"),
        (
            (BOTH[0], point(workload(batch=2), p99=figure([0.0]))),
            BOTH,
            "p99>1.1x",
            "p99_ms of the first card is 0, and has no multiples",
        ),
    ],
)
def test_what_is_missing_is_told_and_has_a_status_of_its_own(
    first: Sequence[Point], second: Sequence[Point], condition: str, reason: str
) -> None:
    given = (card(first), card(second))
    verdict = judged(condition, *given)
    assert verdict.undecided == (f"{condition}: B, image, batch 2, 1 caller: {reason}",)
    assert verdict.status == UNDECIDED
    assert judged(condition, *given, strict=True).status == VIOLATED


def test_what_only_a_third_card_has_is_not_missed() -> None:
    assert judged("p99>90ms", card(), card(), card(BOTH)).status == 0


def test_failed_requests_leave_undecided() -> None:
    given = (card(), card([point(errors={"Overloaded": 1500})]))
    verdict = judged("p99>1.1x", *given)
    assert verdict.status == UNDECIDED
    assert verdict.undecided == (
        "p99>1.1x: B, image, batch 1, 1 caller: holds, but 1,500 requests failed",
    )
    assert judged("p99>1.1x", *given, strict=True).status == VIOLATED


def test_a_violation_outweighs_what_is_undecided() -> None:
    given = (card(BOTH), card([point(p99=99.0)]))
    verdict = judged("p99>1.1x", *given)
    assert (len(verdict.violations), len(verdict.undecided)) == (1, 1)
    assert verdict.status == VIOLATED


@pytest.mark.parametrize(
    ("options", "status", "line"),
    [
        (["--fail-if", "p99>1.1x"], 1, "violated: p99>1.1x: B, image, batch 1, 1 caller: 28 ms"),
        (["--fail-if", "p99>3x"], 0, "all conditions hold"),
        (["--fail-if", "p99>3x", "--fail-if", "items<0.5/s"], 0, "all conditions hold"),
        (["--fail-if", "p50>1.1x"], 3, "undecided: p50>1.1x"),
        (["--fail-if", "p50>1.1x", "--strict"], 1, "violated: p50>1.1x"),
    ],
)
def test_the_command_ends_with_the_verdict(
    tmp_path: Path, options: list[str], status: int, line: str
) -> None:
    files: list[Any] = [tmp_path / "A.json", tmp_path / "B.json"]
    card().write(files[0])
    card([point(p50=cards.noisy(13.0), p99=28.0)]).write(files[1])
    result = CliRunner().invoke(compare, [*map(str, files), *options])
    assert result.exit_code == status
    assert line in result.output


def test_a_bad_condition_is_refused_before_a_card_is_read(tmp_path: Path) -> None:
    result = CliRunner().invoke(compare, [str(tmp_path / "none.json"), "--fail-if", "p99 is slow"])
    assert "is no condition; write FIGURE OP NUMBER" in str(result.exception)
