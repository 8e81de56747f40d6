"""Units of a job go through the pipeline and into the folder."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Literal, TypeVar

from cliprt._cores import usable_cores
from cliprt_batch._encoders import Encoder
from cliprt_batch._items import Item, Unit
from cliprt_batch._monitor import Monitor
from cliprt_batch._options import JobOptions
from cliprt_batch._outage import Outage
from cliprt_batch._outcome import Part
from cliprt_batch._pipeline import Chunk, Pipeline, Times
from cliprt_batch._records import PART_ITEMS
from cliprt_batch._run_folder import RunFolder
from cliprt_batch._source import Plan

_T = TypeVar("_T")

# Encoded bytes that a source may hand over with a window: large pictures share it with fewer.
_WINDOW_BYTES = 32 * 2**20


@dataclass(frozen=True)
class _Place:
    """What a chunk becomes: a part of a unit, the end of one, or rows that replace failed ones."""

    unit: int
    part: int
    kind: Literal["part", "end", "amendment"]


class Work:
    """What one process does of a job.

    Attributes:
        computed: items that went through the pipeline.
        times: of the stages.
    """

    def __init__(
        self,
        plan: Plan,
        folder: RunFolder,
        encoder: Encoder,
        options: JobOptions,
        *,
        workers: int | None = None,
        keep_going: bool = False,
        times: Times,
        monitor: Monitor,
    ) -> None:
        """Starts no process before there are pictures.

        Args:
            plan: of the source.
            folder: gets what is made.
            encoder: computes the embeddings; it is not closed.
            options: what the output is like.
            workers: processes that decode; None means one for each core.
            keep_going: take items for failed however many cannot be read in a row.
            times: gets the time of each stage.
            monitor: is told of items.

        Raises:
            ModelUnavailable: the model has no such tower.
        """
        self.computed, self.times = 0, times
        self._outage = Outage(keep_going)
        self._plan, self._folder, self._options = plan, folder, options
        self._monitor, self._encoder, self._window = monitor, encoder, encoder.window
        self._pipeline = Pipeline(
            encoder,
            towers=options.towers,
            limits=options.limits,
            workers=workers or usable_cores(),
            fast_jpeg=options.fast_jpeg,
            times=times,
        )

    def __enter__(self) -> Work:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            # Threads that wait for a server would be waited for.
            self._encoder.stop()
        self._pipeline.close()

    def run(self, chunks: Iterator[Chunk[_Place]]) -> None:
        """Embeds chunks and writes what comes out, beside the computing of the next ones."""
        with (
            ThreadPoolExecutor(1, thread_name_prefix="cliprt-write") as writer,
            ThreadPoolExecutor(1, thread_name_prefix="cliprt-commit") as committer,
        ):
            writing: Future[None] | None = None
            committing: Future[None] | None = None
            for place, part in self._pipeline.run(chunks, self._advance):
                # One part is written, the next waits: no more are held in memory.
                if writing is not None:
                    writing.result()
                if place.kind == "part":
                    self._outage.look(part)
                    writing = writer.submit(self._write, place, part)
                    continue
                # A shard takes longer; parts of the next one are written meanwhile.
                if committing is not None:
                    committing.result()
                committing = committer.submit(self._write, place, part)
            for last in (writing, committing):
                if last is not None:
                    last.result()

    def missing(self, units: Iterable[Unit]) -> Iterator[Chunk[_Place]]:
        """The parts of units that no run has kept yet."""
        for unit in units:
            kept = self._folder.parts(unit.number)
            # Parts are kept in order; what lies behind a gap is made again.
            first = next(part for part in range(len(kept) + 1) if part not in kept)
            row = sum(kept[part] for part in range(first))
            parts = first
            for number, rows, items, ends in self._cut(enumerate(self._plan.read(unit, row), row)):
                yield Chunk(_Place(unit.number, first + number, "part"), rows, items, ends)
                parts = first + number + 1
            yield Chunk(_Place(unit.number, parts, "end"), (), (), ends=True)

    def failed(self, units: Iterable[Unit]) -> Iterator[Chunk[_Place]]:
        """The items of units that failed, a part at a time."""
        for unit in units:
            rows = sorted({failure.row for failure in self._folder.failed(unit.number)})
            self._monitor.again(len(rows))
            for number, some, items, ends in self._cut(_picked(self._plan, unit, rows)):
                yield Chunk(_Place(unit.number, number, "amendment"), some, items, ends)

    def _cut(
        self, items: Iterator[tuple[int, Item]]
    ) -> Iterator[tuple[int, list[int], list[Item], bool]]:
        """Items by parts and windows: number of the part, rows, items, and whether it ends.

        Nothing but the items themselves decides where it is cut.
        """
        number = count = size = 0
        rows: list[int] = []
        window: list[Item] = []
        for (row, item), last in _with_last(items):
            rows.append(row)
            window.append(item)
            count += 1
            size += len(item.image) if isinstance(item.image, bytes) else 0
            ends = last or count == PART_ITEMS
            if ends or len(window) == self._window or size >= _WINDOW_BYTES:
                yield number, rows, window, ends
                rows, window, size = [], [], 0
            if ends:
                number, count = number + 1, 0

    def _advance(self, items: int, failed: int) -> None:
        self.computed += items
        self._monitor.advance(items, failed)

    def _write(self, place: _Place, part: Part) -> None:
        begun = time.monotonic()
        if place.kind == "end":
            self._folder.commit(place.unit, place.part)
        elif place.kind == "part":
            self._folder.write_part(place.unit, place.part, part.table(self._options.dtype))
        else:
            self._folder.amend(place.unit, part.table(self._options.dtype))
        self.times.add("write", time.monotonic() - begun)


def _with_last(items: Iterator[_T]) -> Iterator[tuple[_T, bool]]:
    """Each item, and whether it is the last one."""
    for item in items:
        for following in items:
            yield item, False
            item = following
        yield item, True


def _picked(plan: Plan, unit: Unit, rows: list[int]) -> Iterator[tuple[int, Item]]:
    """Items of a unit by their places, ascending."""
    if not rows:
        return
    items, at = plan.read(unit, rows[0]), rows[0]
    for row in rows:
        if row - at > PART_ITEMS:  # a new start is cheaper than to read all in between
            items, at = plan.read(unit, row), row
        yield row, next(islice(items, row - at, None))
        at = row + 1
