"""How far a long call is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from typing import Protocol

# Seconds between two lines where standard error is no terminal.
_EVERY_S = 5.0


class Advance(Protocol):
    """Is told of items that are done."""

    def __call__(self, items: int) -> None:
        """Adds to what is done."""


@contextmanager
def progress(what: str, items: object, *, show: bool) -> Iterator[Advance]:
    """Shows on standard error how many items are done, and how many there are if that is known.

    Args:
        what: name of the items, ``images`` for instance.
        items: the collection; its length is taken where it has one.
        show: whether anything is shown.
    """
    if not show:
        yield _silent
        return
    total = len(items) if isinstance(items, Sized) and not isinstance(items, str) else None
    if not sys.stderr.isatty():
        lines = _Lines(what, total)
        try:
            yield lines
        finally:
            lines.end()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)


def _silent(items: int) -> None:
    """Shows nothing."""


class _Lines:
    """Progress as plain lines."""

    def __init__(self, what: str, total: int | None) -> None:
        self._what, self._total = what, total
        self._done = 0
        self._begun = self._told = time.monotonic()

    def __call__(self, items: int) -> None:
        self._done += items
        if time.monotonic() - self._told >= _EVERY_S:
            self._told = time.monotonic()
            self._print()

    def end(self) -> None:
        """The last line."""
        self._print()

    def _print(self) -> None:
        seconds = time.monotonic() - self._begun
        of = f" of {self._total}" if self._total is not None else ""
        rate = f", {self._done / seconds:.0f}/s" if seconds > 0 else ""
        print(f"{self._done}{of} {self._what}{rate}", file=sys.stderr, flush=True)  # noqa: T201
