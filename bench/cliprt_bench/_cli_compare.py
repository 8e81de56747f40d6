"""``cliprt bench compare``."""

from __future__ import annotations

from pathlib import Path

import click

from cliprt._console import out, print_table
from cliprt._errors import InvalidInput
from cliprt._folders import write_whole
from cliprt_bench._comparable import read_labelled
from cliprt_bench._compare import Comparison, compare_bench_cards
from cliprt_bench._compare_tables import (
    LEGEND,
    plain,
    tables,
    to_csv,
    to_json,
    to_markdown,
    verdict_lines,
)
from cliprt_bench._gate import Verdict, judge, parse_condition

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("cards", nargs=-1, required=True, type=_PATH)
@click.option("--at-p99", "at_p99_ms", type=float, help="Throughput at p99 of at most so many ms.")
@click.option(
    "--fail-if",
    "conditions",
    multiple=True,
    metavar="COND",
    help="Exit with 1 where this clearly holds, such as 'p99>1.1x' or 'items<200/s', and with 3 "
    "where it cannot be said; more than one may be given.",
)
@click.option(
    "--strict",
    is_flag=True,
    help="Where it cannot be said (noise, missing figures, failed requests), a condition fails.",
)
@click.option("--markdown", type=_PATH, help="Write the tables as Markdown.")
@click.option("--csv", type=_PATH, help="Write a line for each point and card.")
@click.option("--html", type=_PATH, help="Write a report with plots, one file with all in it.")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
@click.pass_context
def compare(
    context: click.Context,
    cards: tuple[Path, ...],
    at_p99_ms: float | None,
    conditions: tuple[str, ...],
    strict: bool,
    markdown: Path | None,
    csv: Path | None,
    html: Path | None,
    as_json: bool,
) -> None:
    """Put CARDS, written by 'cliprt bench', side by side; the first is the baseline.

    Cards of other models, inputs or kinds are refused. Another machine or method is told, and so
    is what is noisy. Conditions are FIGURE OP NUMBER[UNIT]: p50, p90, p95, p99, max (ms), items
    (/s) or rss (MB); >, <, >= or <=; with the unit x a multiple of the first card's figure. All
    cards but the first are checked. Status 0: all conditions hold. 1: one is violated, the whole
    95 % interval is beyond the limit (or, where there is none, the value by a quarter). 3: none is,
    but of some point it cannot be said.

    \b
    cliprt bench compare laptop.json server.json --at-p99 50 --html report.html
    cliprt bench compare main.json branch.json --fail-if "p99>1.1x" --fail-if "items<0.95x"
    """  # noqa: D301
    parsed = [parse_condition(text) for text in conditions]
    comparison = compare_bench_cards(read_labelled(cards), at_p99_ms=at_p99_ms)
    verdict = judge(comparison, parsed, strict=strict) if parsed else None
    if markdown is not None:
        _write(markdown, to_markdown(comparison, verdict).encode("utf-8", errors="replace"))
    if csv is not None:
        _write(csv, to_csv(comparison).encode("utf-8", errors="replace"))
    if html is not None:
        from cliprt_bench._report import report_page

        _write(html, report_page(comparison, verdict))
    if as_json:
        click.echo(to_json(comparison, verdict).decode())
    else:
        _print(comparison, verdict)
        for what, path in (("Markdown", markdown), ("CSV", csv), ("report", html)):
            if path is not None:
                out().print(f"{what}: {path}")
    if verdict is not None and verdict.status:
        context.exit(verdict.status)


def _print(comparison: Comparison, verdict: Verdict | None) -> None:
    console = out()
    for table in tables(comparison, brief=True):
        console.print(table.title)
        print_table(table.columns, [[plain(cell) for cell in row] for row in table.rows])
        console.print()
    console.print(LEGEND)
    for note in comparison.notes:
        console.print(f"note: {note}")
    for line in [] if verdict is None else verdict_lines(verdict):
        console.print(line)


def _write(path: Path, content: bytes) -> None:
    try:
        write_whole(path, content)
    except OSError as error:
        raise InvalidInput(
            f"{path} cannot be written: {error.strerror or error}; name another file"
        ) from None
