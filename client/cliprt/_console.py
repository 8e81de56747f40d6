"""What commands print: results on standard output, progress on standard error, errors in a line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from cliprt._errors import CliprtError


def out() -> Console:
    """The console of results. In a pipe it wraps nothing and uses no colour.

    What is printed may hold paths, so square brackets are printed as they are.
    """
    return Console(soft_wrap=not sys.stdout.isatty(), highlight=False, markup=False)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table: with lines on a terminal, in plain columns in a pipe.

    What stands in cells may come from anybody; nothing in it steers the terminal.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    console = out()
    if console.is_terminal:
        table = Table(*columns)
        for row in rows:
            table.add_row(*row)
        console.print(table)
        return
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    for row in (columns, *rows):
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        console.print("  ".join(padded).rstrip())


def printable(text: str) -> str:
    """A text in which nothing steers a terminal: what is not printable becomes a space."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


@contextmanager
def steps(names: tuple[str, ...]) -> Iterator[Callable[[str], None]]:
    """A progress bar over named steps; silent where standard error is no terminal.

    Yields:
        A function that is called with a step's name as it begins; what follows a colon says how
        far it is.
    """
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("", total=len(names))

        def on_step(step: str) -> None:
            done = names.index(step.partition(":")[0])
            progress.update(task, description=step, completed=done)

        yield on_step


@contextmanager
def errors_as_lines() -> Iterator[None]:
    """Turns cliprt's errors into one line on standard error and exit status 1."""
    try:
        yield
    except CliprtError as error:
        # Lines stay lines; the rest of the words may be those of a server.
        lines = map(printable, str(error).split("\n"))
        raise click.ClickException("\n".join(lines)) from None
