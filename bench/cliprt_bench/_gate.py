"""``--fail-if``: conditions that make a comparison fail, for someone's CI.

The rule: a condition is violated at a point if the figure's value lies beyond the limit and so does
the whole of its 95 % confidence interval, for a multiple of the first card's figure that of the
ratio. Where there is no interval, since only all repeats together had enough samples, the value has
to lie beyond the limit by more than a quarter. A value beyond the limit for which neither holds,
a figure that a card does not have, and a point where requests failed are undecided: they are told,
and have an exit status of their own. `--strict` takes all of them for violations.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Sequence

import msgspec

from cliprt_bench._bench_card import BenchCardError
from cliprt_bench._compare import Cell, Comparison

GRAMMAR = (
    "FIGURE OP NUMBER[UNIT] with FIGURE one of p50, p90, p95, p99, max, items, rss; OP one of "
    ">, <, >=, <=; UNIT x (times the first card's), or ms, /s, MB; for instance 'p99>1.1x', "
    "'items<0.95x' or 'p99>20ms'"
)

MARGIN = 1.25
"""A figure without an interval is beyond a limit if it exceeds it so many times.

A p99 of a thousand samples of an exponential distribution has a standard error of 7 %, the ratio of
two has 10 %: in one case of twenty chance alone moves it by a fifth.
"""

VIOLATED, UNDECIDED = 1, 3
"""Exit statuses; 2 is that of a command line that cannot be read."""

_FIGURES = {
    "p50": ("p50_ms", "ms"),
    "p90": ("p90_ms", "ms"),
    "p95": ("p95_ms", "ms"),
    "p99": ("p99_ms", "ms"),
    "max": ("max_ms", "ms"),
    "items": ("items_s", "/s"),
    "rss": ("rss_mb", "MB"),
}
_COMPARE = {">": operator.gt, "<": operator.lt, ">=": operator.ge, "<=": operator.le}
_FORM = re.compile(
    r"\s*([a-z0-9]+)\s*(>=|<=|>|<)\s*([0-9]+(?:\.[0-9]+)?|\.[0-9]+)\s*(x|ms|/s|MB)?\s*",
    re.ASCII,
)


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """What must not be.

    Attributes:
        text: as it was written, without spaces.
        figure: name of the figure in a card, ``p99_ms`` for instance.
        op: ``>``, ``<``, ``>=`` or ``<=``.
        number: the limit.
        relative: whether it is a multiple of the first card's figure; else it is in ``unit``.
        unit: of the figure.
    """

    text: str
    figure: str
    op: str
    number: float
    relative: bool
    unit: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What conditions came to.

    Attributes:
        violations: one line for each point that fails.
        undecided: one line for each point of which it cannot be said: the value is beyond the
            limit, but not clearly; the figure is not there; or requests failed.
    """

    violations: tuple[str, ...]
    undecided: tuple[str, ...]

    @property
    def status(self) -> int:
        """Exit status of a command: 0 if all conditions hold, ``VIOLATED`` or ``UNDECIDED``."""
        return VIOLATED if self.violations else UNDECIDED if self.undecided else 0


def parse_condition(text: str) -> Condition:
    """Reads a condition.

    Raises:
        BenchCardError: it is none; the message holds the grammar.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise BenchCardError(f"{text[:60]!r} is no condition; write {GRAMMAR}")
    name, op, digits, unit = match.groups()
    if name not in _FIGURES:
        raise BenchCardError(f"{text[:60]!r} names no figure that can be checked; write {GRAMMAR}")
    figure, own = _FIGURES[name]
    if unit not in (None, "x", own):
        raise BenchCardError(f"{text[:60]!r}: {name} is in {own}, not in {unit}; write {GRAMMAR}")
    number = float(digits)
    if not math.isfinite(number):
        raise BenchCardError(f"{text[:60]!r}: the number is too great; write {GRAMMAR}")
    return Condition(
        text="".join(text.split()),
        figure=figure,
        op=op,
        number=number,
        relative=unit == "x",
        unit=own,
    )


def judge(
    comparison: Comparison, conditions: Sequence[Condition], *, strict: bool = False
) -> Verdict:
    """Checks conditions at every point, by the rule above.

    All cards but the first are checked, and the first where it is alone; each at the points that it
    or the first card has. A condition that finds nothing to check is violated: a gate must not pass
    because nothing was measured.

    Args:
        comparison: cards side by side.
        conditions: what must not be.
        strict: whether what is undecided is violated.

    Raises:
        BenchCardError: a condition is relative, and there is only one card.
    """
    violations: list[str] = []
    undecided: list[str] = []
    doubtful = violations if strict else undecided
    alone = len(comparison.cards) == 1
    for condition in conditions:
        if condition.relative and alone:
            raise BenchCardError(
                f"'{condition.text}' compares with the first card, and there is only one; give "
                f"another, or a limit in {condition.unit}"
            )
        for index in range(0 if alone else 1, len(comparison.cards)):
            label = comparison.cards[index].label
            missing: list[str] = []
            checked = 0
            for row in comparison.rows:
                first, cell = row.cells[0], row.cells[index]
                if first is None and cell is None:
                    continue
                where = f"{condition.text}: {label}, {row.workload.in_words()}"
                lacking = _lacking(condition, first, cell)
                if cell is None or lacking:
                    missing.append(f"{where}: {lacking}")
                    continue
                checked += 1
                beyond, clear, words = _check(condition, first, cell)
                if beyond and clear is None:
                    violations.append(f"{where}: {words}")
                elif beyond:
                    doubtful.append(f"{where}: {words}, but {clear}")
                elif cell.errors:
                    # Fast answers of a server that refuses the rest prove nothing.
                    doubtful.append(f"{where}: holds, but {cell.errors:,} requests failed")
            if checked:
                doubtful += missing
            else:
                violations.append(f"{condition.text}: {label} has no point to check it at")
    return Verdict(violations=tuple(violations), undecided=tuple(undecided))


def _lacking(condition: Condition, first: Cell | None, cell: Cell | None) -> str:
    """Why a condition cannot be checked at a point; nothing if it can."""
    if cell is None:
        return "this point was not measured"
    if condition.figure not in cell.figures:
        return f"{condition.figure} is not there to check"
    if not condition.relative:
        return ""
    if first is None:
        return "the first card has no such point"
    if condition.figure not in first.figures:
        return f"{condition.figure} of the first card is not there to compare with"
    if first.figures[condition.figure].value <= 0:
        return f"{condition.figure} of the first card is 0, and has no multiples"
    return ""


def _check(condition: Condition, first: Cell | None, cell: Cell) -> tuple[bool, str | None, str]:
    """Checks a point that lacks nothing.

    Returns:
        Whether the value is beyond the limit; why that is not clear, None if it is; and the figure
        in words.
    """
    figure = cell.figures[condition.figure]
    words = f"{_figure(figure.value)} {condition.unit}"
    value, low, high = figure.value, figure.low, figure.high
    if condition.relative and first is not None:
        base, ratio = first.figures[condition.figure], cell.ratios.get(condition.figure)
        value = figure.value / base.value
        low, high = (None, None) if ratio is None else (ratio.low, ratio.high)
        words += f" against {_figure(base.value)} {condition.unit}, {value:.3f}x"
    if low is not None and high is not None:
        words += f" [{_figure(low)}, {_figure(high)}]"
    compare, limit = _COMPARE[condition.op], condition.number
    beyond = compare(value, limit)
    upwards = condition.op.startswith(">")
    end = low if upwards else high
    if end is not None:
        clear = None if compare(end, limit) else "its interval reaches the limit"
    elif compare(value, limit * MARGIN if upwards else limit / MARGIN):
        clear = None
    else:
        clear = f"it has no interval, and is not beyond the limit by {MARGIN - 1:.0%}"
    return beyond, clear, words


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
