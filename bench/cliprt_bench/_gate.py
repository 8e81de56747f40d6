"""``--fail-if``: conditions that make a comparison fail, for someone's CI."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Sequence

import msgspec

from cliprt_bench._bench_card import BenchCardError
from cliprt_bench._compare import Comparison, Row

GRAMMAR = (
    "FIGURE OP NUMBER[UNIT] with FIGURE one of p50, p90, p95, p99, max, items, rss; OP one of "
    ">, <, >=, <=; UNIT x (times the first card's), or ms, /s, MB; for instance 'p99>1.1x', "
    "'items<0.95x' or 'p99>20ms'"
)

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
        told: one line for each point that would fail were it not noisy, that was not there to
            check, or where requests failed.
    """

    violations: tuple[str, ...]
    told: tuple[str, ...]

    @property
    def failed(self) -> bool:
        """Whether a command should end with exit status 1."""
        return bool(self.violations)


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
    """Checks conditions at every point.

    All cards but the first are checked, and the first where it is alone. A condition that finds
    nothing to check is violated: a gate must not pass because nothing was measured.

    Args:
        comparison: cards side by side.
        conditions: what must not be.
        strict: whether noisy and missing points, and failed requests, fail as well.

    Raises:
        BenchCardError: a condition is relative, and there is only one card.
    """
    violations: list[str] = []
    told: list[str] = []
    doubtful = violations if strict else told
    alone = len(comparison.cards) == 1
    for condition in conditions:
        if condition.relative and alone:
            raise BenchCardError(
                f"'{condition.text}' compares with the first card, and there is only one; give "
                f"another, or a limit in {condition.unit}"
            )
        for index in range(0 if alone else 1, len(comparison.cards)):
            checked = 0
            label = comparison.cards[index].label
            for row in comparison.rows:
                where = f"{label}, {row.workload.in_words()}"
                found = _check(condition, row, index)
                if found is None:
                    if _expected(row, index, condition):
                        doubtful.append(f"{condition.text}: {where}: not there to check")
                    continue
                checked += 1
                violated, noisy, words = found
                if violated and noisy:
                    doubtful.append(f"{condition.text}: {where}: {words}, but noisy")
                elif violated:
                    violations.append(f"{condition.text}: {where}: {words}")
                elif failed := _failed(row, index):
                    # Fast answers of a server that refuses the rest prove nothing.
                    doubtful.append(
                        f"{condition.text}: {where}: holds, but {failed:,} requests failed"
                    )
            if not checked:
                violations.append(f"{condition.text}: {label} has no point to check it at")
    return Verdict(violations=tuple(violations), told=tuple(told))


def _failed(row: Row, index: int) -> int:
    cell = row.cells[index]
    return 0 if cell is None else cell.errors


def _expected(row: Row, index: int, condition: Condition) -> bool:
    """Whether the baseline or the card itself leads one to expect the figure here."""
    cells = (row.cells[0], row.cells[index])
    return any(cell is not None and condition.figure in cell.figures for cell in cells)


def _check(condition: Condition, row: Row, index: int) -> tuple[bool, bool, str] | None:
    cell, first = row.cells[index], row.cells[0]
    if cell is None or condition.figure not in cell.figures:
        return None
    figure = cell.figures[condition.figure]
    shown = f"{_figure(figure.value)} {condition.unit}"
    if not condition.relative:
        violated = _COMPARE[condition.op](figure.value, condition.number)
        return violated, figure.noisy, shown
    if first is None or condition.figure not in first.figures:
        return None
    base = first.figures[condition.figure]
    violated = _COMPARE[condition.op](figure.value, condition.number * base.value)
    times = f", {figure.value / base.value:.3f}x" if base.value > 0 else ""
    words = f"{shown} against {_figure(base.value)} {condition.unit}{times}"
    return violated, figure.noisy or base.noisy, words


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
