"""Conditions that make a comparison fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bench_cards as cards
import pytest
from bench_cards import card, point, workload
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st

from cliprt_bench._bench_card import BenchCard, BenchCardError
from cliprt_bench._cli_compare import compare
from cliprt_bench._comparable import LabelledCard, letters
from cliprt_bench._compare import compare_bench_cards
from cliprt_bench._gate import GRAMMAR, Condition, Verdict, judge, parse_condition

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
        ("p99>=1.5x", True),
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
    assert judged(condition, one, two).failed is fails


def test_each_violated_point_has_a_line_that_says_how_much() -> None:
    points = [point(workload(batch=batch), p99=10.0) for batch in (1, 2, 4)]
    slower = [point(workload(batch=batch), p99=10.0 * batch) for batch in (1, 2, 4)]
    verdict = judged("p99>1.1x", card(points), card(slower))
    assert verdict.violations == (
        "p99>1.1x: B, image, batch 2, 1 caller: 20 ms against 10 ms, 2.000x",
        "p99>1.1x: B, image, batch 4, 1 caller: 40 ms against 10 ms, 4.000x",
    )
    assert verdict.told == ()


def test_every_condition_and_every_card_counts() -> None:
    slow = card([point(p99=20.0, items=50.0)])
    verdict = judged("p99>1.1x,items<0.9x", card(), slow, card(), slow)
    assert [line[:12] for line in verdict.violations] == [
        "p99>1.1x: B,",
        "p99>1.1x: D,",
        "items<0.9x: ",
        "items<0.9x: ",
    ]


@pytest.mark.parametrize("which", [0, 1])
def test_noise_in_either_card_is_told_and_fails_only_when_strict(which: int) -> None:
    given = [card([point(p99=10.0)]), card([point(p99=30.0)])]
    given[which] = card([point(p99=cards.noisy((10.0, 30.0)[which]))])
    lax = judged("p99>1.1x", *given)
    assert (lax.failed, len(lax.told)) == (False, 1)
    assert lax.told[0].endswith("30 ms against 10 ms, 3.000x, but noisy")
    assert judged("p99>1.1x", *given, strict=True).failed


def test_noise_of_the_baseline_does_not_matter_to_an_absolute_limit() -> None:
    given = (card([point(p99=cards.noisy(10.0))]), card([point(p99=30.0)]))
    assert judged("p99>20ms", *given).failed


def test_the_baseline_is_not_held_against_a_limit() -> None:
    assert not judged("p99>20ms", card([point(p99=30.0)]), card()).failed


def test_a_card_alone_is_held_against_a_limit() -> None:
    assert judged("p99>20ms", card([point(p99=30.0)])).failed


def test_a_card_alone_has_nothing_to_be_a_multiple_of() -> None:
    with pytest.raises(BenchCardError, match="there is only one; give another, or a limit in ms"):
        judged("p99>1.1x", card())


def test_a_gate_that_finds_nothing_to_check_fails() -> None:
    one = card([point(p99=None)])
    assert judged("p99>1.1x", one, one).violations == ("p99>1.1x: B has no point to check it at",)


def test_a_missing_point_is_told_and_fails_only_when_strict() -> None:
    one = card([point(), point(workload(batch=2))])
    verdict = judged("p99>1.1x", one, card())
    assert not verdict.failed
    assert verdict.told == ("p99>1.1x: B, image, batch 2, 1 caller: not there to check",)
    assert judged("p99>1.1x", one, card(), strict=True).failed


def test_failed_requests_are_told_and_fail_only_when_strict() -> None:
    given = (card(), card([point(errors={"Overloaded": 1500})]))
    verdict = judged("p99>1.1x", *given)
    assert not verdict.failed
    assert verdict.told == (
        "p99>1.1x: B, image, batch 1, 1 caller: holds, but 1,500 requests failed",
    )
    assert judged("p99>1.1x", *given, strict=True).failed


@pytest.mark.parametrize(
    ("options", "status", "line"),
    [
        (["--fail-if", "p99>1.1x"], 1, "violated: p99>1.1x: B, image, batch 1, 1 caller: 28 ms"),
        (["--fail-if", "p99>3x"], 0, "all conditions hold"),
        (["--fail-if", "p99>3x", "--fail-if", "items<0.5/s"], 0, "all conditions hold"),
        (["--fail-if", "p50>1.1x"], 0, "not counted: p50>1.1x"),
        (["--fail-if", "p50>1.1x", "--strict"], 1, "violated: p50>1.1x"),
    ],
)
def test_the_command_ends_with_the_verdict(
    tmp_path: Path, options: list[str], status: int, line: str
) -> None:
    files: list[Any] = [tmp_path / "A.json", tmp_path / "B.json"]
    card().write(files[0])
    card([point(p50=cards.noisy(30.0), p99=28.0)]).write(files[1])
    result = CliRunner().invoke(compare, [*map(str, files), *options])
    assert result.exit_code == status
    assert line in result.output


def test_a_bad_condition_is_refused_before_a_card_is_read(tmp_path: Path) -> None:
    result = CliRunner().invoke(compare, [str(tmp_path / "none.json"), "--fail-if", "p99 is slow"])
    assert "is no condition; write FIGURE OP NUMBER" in str(result.exception)
