"""A comparison as tables for people, and as CSV and JSON for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from cliprt_bench._comparable import LabelledCard, printable
from cliprt_bench._compare import Cell, Comparison
from cliprt_bench._derived import Ratio, Share
from cliprt_bench._facts import facts_of
from cliprt_bench._figures import Figure
from cliprt_bench._gate import Verdict
from cliprt_bench._resources import resources

NONE = "–"
LEGEND = (
    "± is how far the 95 % confidence interval over repeats reaches from the figure, as a part of "
    "it; ~ marks a figure too noisy to go by. x is a multiple of the first card's figure. In "
    "brackets stands its 95 % interval, or that of a share (Welch's, on the logarithms of the "
    "repeats)."
)

_LATENCIES = {
    "p50_ms": "Latency p50, ms",
    "p90_ms": "Latency p90, ms",
    "p95_ms": "Latency p95, ms",
    "p99_ms": "Latency p99, ms",
    "max_ms": "Longest request, ms",
}

# What Markdown or HTML would take for more than a sign.
_MARKDOWN = {
    **{ord(sign): f"\\{sign}" for sign in "\\`*_[]#~"},
    **{ord(sign): f"&#{ord(sign)};" for sign in "<>|&"},
}

Tone = Literal["", "better", "worse"]


@dataclass(frozen=True)
class Text:
    """What a table's cell shows: a figure, what stands behind it, and whether it is good news."""

    main: str
    detail: str = ""
    tone: Tone = ""


@dataclass(frozen=True)
class Table:
    """A table; most have a row for each point and a column for each card."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Text, ...], ...]


def number(value: float) -> str:
    """A figure with three digits that count, or all before the point."""
    size = abs(value)
    if size >= 1e9:
        return f"{value:.3g}"
    if size >= 100:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 1 else f"{value:#.3g}" if size >= 1e-4 else f"{value:.3g}"


def tables(comparison: Comparison, *, brief: bool = False) -> tuple[Table, ...]:
    """All tables that there is something to say in; those of the cards themselves come first.

    Args:
        comparison: of cards.
        brief: leave out the longest request and, if there is a higher percentile, p90.
    """
    found = [_cards(comparison)]
    if comparison.at_p99_ms is not None:
        found.append(_best(comparison))
    left_out = _left_out(comparison) if brief else ()
    found += [
        _figures(comparison, name, title, more=False)
        for name, title in _LATENCIES.items()
        if name not in left_out
    ]
    found.append(_figures(comparison, "items_s", "Throughput, items/s", more=True))
    found.append(
        _per_point(
            comparison,
            "Share of the ceiling",
            lambda c: None if c.share is None else _share_text(c.share),
        )
    )
    found.append(
        _per_point(
            comparison,
            "Price of a million items",
            lambda c: None if c.per_million is None else Text(_spread(c.per_million)),
        )
    )
    found += [_resources(comparison), _stages(comparison)]
    return tuple(table for table in found if table.rows)


def column_name(each: LabelledCard) -> str:
    """Heading of a card's column: its letter and its precision."""
    return f"{each.label} {printable(each.card.target.precision or each.card.target.kind, 24)}"


def to_markdown(comparison: Comparison, verdict: Verdict | None) -> str:
    """The tables, notes and verdict as Markdown."""
    lines = [f"# {_md(heading(comparison))}", ""]
    lines += [f"- {_md(note)}" for note in comparison.notes]
    for table in tables(comparison):
        lines += ["", f"## {_md(table.title)}", ""]
        lines.append("| " + " | ".join(map(_md, table.columns)) + " |")
        lines.append("|---" + "|---:" * (len(table.columns) - 1) + "|")
        for row in table.rows:
            cells = (_md(plain(cell)) for cell in row)
            lines.append("| " + " | ".join(cells) + " |")
    lines += ["", LEGEND]
    if verdict is not None:
        lines += ["", "## Conditions", ""]
        lines += [f"- {_md(line)}" for line in verdict_lines(verdict)]
    return "\n".join(lines) + "\n"


def verdict_lines(verdict: Verdict) -> list[str]:
    """What the conditions came to, one line each."""
    lines = [f"violated: {line}" for line in verdict.violations]
    lines += [f"undecided: {line}" for line in verdict.undecided]
    return lines or ["all conditions hold"]


def heading(comparison: Comparison) -> str:
    """Title of a comparison."""
    first = comparison.cards[0].card
    return f"{printable(first.model.name, 60)}: {first.kind}"


def to_csv(comparison: Comparison) -> str:
    """One line for each point and card, numbers as they were measured.

    Ratios are those to the first card. An empty field is a figure that is not there.
    """
    names = sorted(
        {
            name
            for row in comparison.rows
            for cell in row.cells
            if cell is not None
            for name in cell.figures
        }
    )
    fixed = ["card", "source", "target", "precision", "cpu", "tower", "batch", "concurrency"]
    fixed += ["loop", "rate", "share", "text_length", "samples", "errors", "p01_cosine", "ceiling"]
    spread = ("", "_low", "_high", "_noisy")
    fixed += [name + end for name in ("share_of_ceiling", "per_million") for end in spread]
    suffixes = ("", "_low", "_high", "_noisy", "_ratio", "_ratio_low", "_ratio_high")
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*fixed, *(_csv(name) + suffix for name in names for suffix in suffixes)])
    for row in comparison.rows:
        point = row.workload
        for each, cell in zip(comparison.cards, row.cells, strict=True):
            if cell is None:
                continue
            card = each.card
            line: list[Any] = [each.label, _csv(each.source), _csv(card.target.name)]
            line += [_csv(card.target.precision or ""), _csv(card.machine.cpu)]
            line += [point.tower, point.batch, point.concurrency, point.loop, point.rate]
            line += [point.share]
            line += [point.text_length, cell.samples, cell.errors, cell.p01_cosine]
            share = cell.share
            line += [None if share is None else _csv(share.of), *_csv_figure(share)]
            line += _csv_figure(cell.per_million)
            for name in names:
                ratio = cell.ratios.get(name)
                line += _csv_figure(cell.figures.get(name))
                line += [None] * 3 if ratio is None else [ratio.value, ratio.low, ratio.high]
            writer.writerow(line)
    return file.getvalue()


def to_json(comparison: Comparison, verdict: Verdict | None) -> bytes:
    """All of it for programs, without the cards' own points, which the rows hold."""
    left_out = ("points", "ceilings", "stages")
    cards = []
    for each in comparison.cards:
        card = msgspec.to_builtins(each.card)
        own = {name: value for name, value in card.items() if name not in left_out}
        cards.append({"label": each.label, "source": each.source, **own})
    content = {**msgspec.to_builtins(comparison), "cards": cards}
    content["conditions"] = None if verdict is None else msgspec.to_builtins(verdict)
    return msgspec.json.encode(content)


def plain(cell: Text) -> str:
    """A cell in one line."""
    return f"{cell.main}  {cell.detail}".rstrip()


def _cards(comparison: Comparison) -> Table:
    facts = [facts_of(each) for each in comparison.cards]
    names = dict.fromkeys(name for own in facts for name in own)
    rows = [
        (Text(name), *(Text(own.get(name) or NONE) for own in facts))
        for name in names
        if any(own.get(name) for own in facts)
    ]
    return Table("Cards", _columns(comparison, ""), tuple(rows))


def _spread(figure: Figure) -> str:
    main = f"{'~' if figure.noisy else ''}{number(figure.value)}"
    if figure.reach is None or figure.value <= 0:
        return main
    reach = figure.reach / figure.value
    return f"{main} ±{reach:.0%}" if reach >= 0.0995 else f"{main} ±{reach:.1%}"


def _ratio(ratio: Ratio | None, *, more_is_better: bool) -> tuple[str, Tone]:
    if ratio is None:
        return "", ""
    text = f"{ratio.value:.2f}x"
    if ratio.low is not None and ratio.high is not None:
        text += f" [{ratio.low:.2f}, {ratio.high:.2f}]"
    if not ratio.clear:
        return text, ""
    return text, "better" if (ratio.value > 1) is more_is_better else "worse"


def _figure_text(figure: Figure | None, ratio: Ratio | None, *, more_is_better: bool) -> Text:
    if figure is None:
        return Text(NONE)
    detail, tone = _ratio(ratio, more_is_better=more_is_better)
    return Text(_spread(figure), detail, tone)


def _columns(comparison: Comparison, first: str) -> tuple[str, ...]:
    return (first, *map(column_name, comparison.cards))


def _left_out(comparison: Comparison) -> tuple[str, ...]:
    there = {
        name
        for row in comparison.rows
        for cell in row.cells
        if cell is not None
        for name in cell.figures
    }
    return ("p90_ms", "max_ms") if there & {"p95_ms", "p99_ms"} else ("max_ms",)


def _figures(comparison: Comparison, name: str, title: str, *, more: bool) -> Table:
    rows: list[tuple[Text, ...]] = []
    tower = None
    for row in comparison.rows:
        # Speed beside accuracy: a tower's rows begin with how true it is to the original weights.
        if more and row.workload.tower != tower:
            tower = row.workload.tower
            known = [each.card.fidelity.get(tower) for each in comparison.cards]
            if any(known):
                texts = (Text(NONE if f is None else f"{f.p01_cosine:.5f}") for f in known)
                rows.append((Text(f"{tower}, p01 cosine to the reference"), *texts))
        cells = [
            Text(NONE)
            if cell is None
            else _figure_text(cell.figures.get(name), cell.ratios.get(name), more_is_better=more)
            for cell in row.cells
        ]
        if any(cell.main != NONE for cell in cells):
            rows.append((Text(row.workload.in_words()), *cells))
    return Table(title, _columns(comparison, "point"), tuple(rows))


def _share_text(share: Share) -> Text:
    main = f"{'~' if share.noisy else ''}{share.value:.1%}"
    if share.low is not None and share.high is not None:
        main += f" [{share.low:.1%}, {share.high:.1%}]"
    return Text(main, f"of {printable(share.of, 40)}")


def _per_point(comparison: Comparison, title: str, show: Callable[[Cell], Text | None]) -> Table:
    rows = []
    for row in comparison.rows:
        cells = [None if cell is None else show(cell) for cell in row.cells]
        if any(cells):
            texts = (cell or Text(NONE) for cell in cells)
            rows.append((Text(row.workload.in_words()), *texts))
    return Table(title, _columns(comparison, "point"), tuple(rows))


def _best(comparison: Comparison) -> Table:
    rows = []
    for row in comparison.best:
        length = "" if row.text_length is None else f", {row.text_length:,} tokens"
        cells = []
        for cell in row.cells:
            if cell is None:
                cells.append(Text("no point holds it"))
                continue
            text = _figure_text(cell.items_s, cell.ratio, more_is_better=True)
            point = cell.workload.in_words().removeprefix(f"{row.tower}, ")
            mark = "~" if cell.p99_ms.noisy else ""
            where = f"at {point}, p99 {mark}{number(cell.p99_ms.value)} ms"
            cells.append(Text(text.main, f"{text.detail}  {where}".lstrip(), text.tone))
        rows.append((Text(f"{row.tower}{length}"), *cells))
    title = f"Throughput at p99 ≤ {comparison.at_p99_ms:g} ms, items/s"
    return Table(title, _columns(comparison, "tower"), tuple(rows))


def _stages(comparison: Comparison) -> Table:
    rows = [
        (
            Text(printable(f"{row.tower}: {row.stage}", 60)),
            *(
                _figure_text(figure, ratio, more_is_better=False)
                for figure, ratio in zip(row.figures, row.ratios, strict=True)
            ),
        )
        for row in comparison.stages
    ]
    starts = comparison.cards[0].card.kind == "startup"
    title = "Steps of a start, ms" if starts else "Stages, ms of an item"
    return Table(title, _columns(comparison, "stage"), tuple(rows))


def _resources(comparison: Comparison) -> Table:
    points = [
        (f"{cell.label}, {row.workload.in_words()}", cell.figures)
        for row in comparison.rows
        for cell in row.cells
        if cell is not None
    ]
    columns, rows = resources(points, _spread)
    texts = tuple(tuple(Text(text or NONE) for text in row) for row in rows)
    return Table("Load and resources", columns, texts)


def _md(text: str) -> str:
    return text.translate(_MARKDOWN)


def _csv(text: str) -> str:
    # A spreadsheet computes a field that begins like a formula.
    line = printable(text)
    return f"'{line}" if line[:1] in ("=", "+", "-", "@") else line


def _csv_figure(figure: Figure | Share | None) -> list[Any]:
    if figure is None:
        return [None] * 4
    return [figure.value, figure.low, figure.high, int(figure.noisy)]
