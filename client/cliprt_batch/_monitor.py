"""How far a job is: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cliprt_batch._pipeline import Times

if TYPE_CHECKING:
    from rich.progress import Progress

# Seconds between two lines where standard error is no terminal.
_EVERY_S = 5.0

_WAITS = "another process of this job is listing the source; waiting for it"


class Monitor:
    """Is told how far a job is, and shows nothing."""

    def __init__(self) -> None:
        self._times = Times()
        self._total: int | None = None
        self._done = self._failed = self._kept = 0
        self._begun = time.monotonic()

    @contextmanager
    def listing(self) -> Iterator[Callable[[int], None]]:
        """While the source is listed; what it yields is told of items that were found."""
        yield lambda items: None

    def waits(self) -> None:
        """Another process of the job makes the plan, or finishes; this one waits for it."""

    def begin(self, total: int | None, times: Times) -> None:
        """Embedding begins.

        Args:
            total: items of the whole job; None where only reading tells.
            times: of the stages, as they are added up.
        """
        self._total, self._times, self._begun = total, times, time.monotonic()

    def kept(self, items: int, failed: int) -> None:
        """Items that earlier runs have done, and how many of these failed."""
        self._kept, self._done, self._failed = items, items, failed

    def again(self, items: int) -> None:
        """Items that failed are tried again."""
        self._done -= items
        self._kept -= items
        self._failed -= items

    def advance(self, items: int, failed: int) -> None:
        """Items more are done, and some of these failed."""
        self._done += items
        self._failed += failed

    def end(self) -> None:
        """All is done."""

    def words(self) -> tuple[str, str]:
        """The rate, and what else is worth telling: failures and the slowest stage."""
        seconds = time.monotonic() - self._begun
        rate = (self._done - self._kept) / seconds if seconds > 0 else 0.0
        notes = [f"{self._failed:,} failed"] if self._failed else []
        if stage := self._times.slowest(seconds):
            notes.append(f"{stage} is the slowest stage")
        if self._total is not None and rate > 0:
            notes.insert(0, f"{_duration((self._total - self._done) / rate)} left")
        return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s", ", ".join(notes)


class Lines(Monitor):
    """Writes a line to standard error now and then."""

    def __init__(self) -> None:
        super().__init__()
        self._told = time.monotonic()

    @contextmanager
    def listing(self) -> Iterator[Callable[[int], None]]:
        """Writes how many items were found."""
        found = 0

        def advance(items: int) -> None:
            nonlocal found
            found += items
            if self._is_time():
                _line(f"listing the source: {found:,} items")

        yield advance

    def waits(self) -> None:
        """Says so."""
        _line(_WAITS)

    def advance(self, items: int, failed: int) -> None:
        """Counts."""
        super().advance(items, failed)
        if self._is_time():
            self._print()

    def end(self) -> None:
        """Writes the last line."""
        self._print()

    def _is_time(self) -> bool:
        now = time.monotonic()
        if now - self._told < _EVERY_S:
            return False
        self._told = now
        return True

    def _print(self) -> None:
        of = f" of {self._total:,}" if self._total is not None else ""
        rate, notes = self.words()
        _line(f"{self._done:,}{of} items, {rate}" + (f", {notes}" if notes else ""))


class Bar(Monitor):
    """Draws a bar on the terminal of standard error."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TextColumn("[dim]{task.fields[notes]}"),
        )
        self._bar: Progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task("", total=None, rate="", notes="")
        self._lock = threading.Lock()

    @contextmanager
    def listing(self) -> Iterator[Callable[[int], None]]:
        """Shows how many items were found."""
        self._bar.start()
        self._bar.update(self._task, description="listing the source")
        yield lambda items: self._bar.advance(self._task, items)

    def waits(self) -> None:
        """Says so above the bar."""
        self._bar.console.print(_WAITS)

    def begin(self, total: int | None, times: Times) -> None:
        """Begins anew."""
        super().begin(total, times)
        self._bar.start()
        self._bar.update(self._task, description="embedding", total=total, completed=0)

    def kept(self, items: int, failed: int) -> None:
        """Shows what was done before."""
        super().kept(items, failed)
        self._bar.update(self._task, completed=items)

    def advance(self, items: int, failed: int) -> None:
        """Moves the bar."""
        super().advance(items, failed)
        rate, notes = self.words()
        self._bar.update(self._task, completed=self._done, rate=rate, notes=notes)

    def end(self) -> None:
        """Removes the bar: the summary follows."""
        self._bar.stop()


@contextmanager
def shown() -> Iterator[Monitor]:
    """The monitor that fits standard error; it is ended whatever happens."""
    monitor: Monitor = Bar() if sys.stderr.isatty() else Lines()
    try:
        yield monitor
    except BaseException:
        if isinstance(monitor, Bar):
            monitor.end()
        raise


def _line(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
