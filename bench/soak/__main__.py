"""Mixed traffic for an hour, every answer checked, everything that could grow watched: `make soak`.

`cliprt serve` runs the demo model with all its doors open, in processes of its own: Triton under
supervision, shared memory, Triton's HTTP and the OpenAI front. This program asks it from threads
and coroutines by every way in, with good and bad inputs, deadlines that are too short and calls
that are cancelled, while clients of every kind are opened and closed and others are killed. It
kills the server and its models' processes, and has models loaded anew.

It ends with status 1 if one answer was wrong, one request lost, one failed for no reason; if of one
kind of request none ended as it should; if more than one in a hundred was refused as overloaded
while nothing was done to the server; if the server crashed by itself, beyond the known crashes of
old Tritons whose clients are killed; if memory, files, threads or shared memory grew by more than
`judging.BOUNDS`; or if anything is left.
`--calm` kills nothing: one server from the beginning to the end.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cliprt import open_bundle
from cliprt._console import errors_as_lines, out, print_table
from cliprt_bench._compare_tables import Table
from cliprt_export import export_checkpoint
from soak.books import BAD, DISTURBED, Books
from soak.running import Found, Sight, soak
from soak.serving import NotHealthy
from soak.storm import plan
from soak.telling import as_json, growth_table, requests_table, sentences, write_page

CHECKPOINT = Path(__file__).resolve().parents[2] / "demo" / "checkpoint"

_LINE_S = 60.0
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.option("--minutes", default=60.0, show_default=True, type=click.FloatRange(min=0.1))
@click.option("--requests", type=click.IntRange(1), help="End after so many instead of the time.")
@click.option("--calm", is_flag=True, help="Kill nothing and load nothing anew.")
@click.option("--seed", default=0, show_default=True, help="Of what is killed.")
@click.option("--json", "json_file", type=_FILE, help="Write all that was seen here.")
@click.option("--html", "html_file", type=_FILE, help="Write a page with plots here.")
def main(
    minutes: float,
    requests: int | None,
    calm: bool,
    seed: int,
    json_file: Path | None,
    html_file: Path | None,
) -> None:
    """Soak cliprt, and say whether anything broke, grew or was left behind."""
    seconds = 60 * minutes
    acts = [] if calm else plan(seconds, random.Random(seed))

    def done(lasted: float, ended: int) -> float:
        return lasted / seconds if requests is None else ended / requests

    def enough(lasted: float, books: Books) -> bool:
        return done(lasted, books.requests) >= 1

    # The server is in a session of its own: it ends when this program unwinds.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder, errors_as_lines():
        bundle = open_bundle(export_checkpoint(str(CHECKPOINT), Path(folder) / "bundle").path)
        try:
            with _Progress() as progress:
                found = soak(
                    bundle,
                    acts,
                    every_s=min(max(seconds / 300, 0.5), 5.0),
                    enough=enough,
                    tell=lambda sight: progress.show(sight, done(sight.seconds, sight.requests)),
                    victims=not calm,
                )
        except NotHealthy as error:
            raise click.ClickException(str(error)) from None
    if json_file is not None:
        json_file.write_text(as_json(found), encoding="utf-8")
    if html_file is not None:
        write_page(found, html_file)
    _show(found, load)
    sys.exit(1 if found.faults() else 0)


class _Progress:
    """How far it is: a bar on a terminal, a line each minute elsewhere."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        columns = (BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self._bar = Progress(
            TextColumn("{task.description}"),
            *columns,
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=1.0)
        self._said = time.monotonic()

    def __enter__(self) -> _Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, sight: Sight, part: float) -> None:
        """Shows it."""
        bad = sum(sight.totals[one] for one in BAD)
        line = (
            f"{sight.requests:,} requests, {bad} bad, {sight.totals[DISTURBED]} while it was gone, "
            f"{sight.acts} kills and reloads, {sight.crashes} crashes"
        )
        self._bar.update(self._task, description=line, completed=part)
        if not self._console.is_terminal and time.monotonic() > self._said + _LINE_S:
            self._said = time.monotonic()
            self._console.print(f"{sight.seconds:.0f} s: {line}", highlight=False)


def _show(found: Found, load: float) -> None:
    console = out()
    for table in (requests_table(found), growth_table(found)):
        console.print(f"\n{table.title}")
        _print(table)
    console.print("")
    for line in sentences(found):
        console.print(line)
    console.print(f"{os.cpu_count()} cores; load before: {load:.1f}")
    for trouble in found.troubles[:20]:
        console.print(f"{trouble.outcome} at {trouble.at_s:.0f} s, {trouble.kind}: {trouble.text}")
    for fault in found.faults():
        console.print(f"NOT AS PROMISED: {fault}")


def _print(table: Table) -> None:
    rows = [tuple(cell.main for cell in row) for row in table.rows]
    print_table(table.columns, rows)


if __name__ == "__main__":
    main()
