"""A batch job from beginning to end: plan, embed what is missing, finish."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import msgspec

from cliprt._cores import usable_cores
from cliprt._extras import require
from cliprt._folders import write_whole
from cliprt._limits import Limits
from cliprt_batch._encoders import Encoder
from cliprt_batch._items import Item, Unit
from cliprt_batch._monitor import Monitor
from cliprt_batch._outcome import Part
from cliprt_batch._output_errors import writing
from cliprt_batch._pipeline import Chunk, Pipeline, Times
from cliprt_batch._records import PART_ITEMS, Dtype
from cliprt_batch._run_config import Layout, RunConfig
from cliprt_batch._run_folder import RunFolder
from cliprt_batch._run_state import read_run
from cliprt_batch._source import Plan, Source, make_plan, open_plan
from cliprt_batch._summary import Summary, summarise

Towers: TypeAlias = tuple[Literal["image", "text"], ...]


@dataclass(frozen=True)
class JobOptions:
    """What decides which bytes come out, besides the source and the model.

    Attributes:
        towers: which embeddings are made.
        layout: ``npy``, that of clip-retrieval, or ``parquet``, one table.
        dtype: of the embeddings that are kept.
        shard_size: items of a shard, where the source does not decide (a tar is one).
        truncate: whether captions beyond the context are cut or refused.
        fast_jpeg: whether large JPEG files are decoded at a part of their size; see ``Decoding``.
        limits: bounds on pictures and texts.
    """

    towers: Towers = ("image",)
    layout: Layout = "npy"
    dtype: Dtype = "float32"
    shard_size: int = 10_000
    truncate: bool = True
    fast_jpeg: bool = False
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not self.towers or set(self.towers) - {"image", "text"}:
            raise ValueError(f"towers must be image, text or both, got {self.towers!r}")
        if self.shard_size < 1:
            raise ValueError(f"shard_size must be at least 1, got {self.shard_size}")


_T = TypeVar("_T")

# Encoded bytes that a source may hand over with a window: large pictures share it with fewer.
_WINDOW_BYTES = 32 * 2**20

COMPUTE = "compute.json"
"""Beside the plan: how the towers are computed, so that a resumed run computes the same numbers."""


@dataclass(frozen=True)
class _Place:
    """What a chunk becomes: a part of a unit, the end of one, or rows that replace failed ones."""

    unit: int
    part: int
    kind: Literal["part", "end", "amendment"]


def embed(
    source: Source,
    out: Path,
    encoder: Encoder,
    options: JobOptions | None = None,
    *,
    workers: int | None = None,
    share: tuple[int, int] = (1, 1),
    retry_failed: bool = False,
    monitor: Monitor | None = None,
) -> Summary:
    """Embeds everything in a source, or what an earlier run that was interrupted left to do.

    Whatever ends the process, what is in the folder stays whole, and the same call goes on from
    there; of each shard under way at most 512 items are computed again.

    Args:
        source: what to embed.
        out: folder of the output; ``cliprt_batch``'s page describes what appears in it.
        encoder: computes the embeddings; it is not closed.
        options: what the output is like; None means the defaults.
        workers: processes that read and decode pictures; None means one for each core. The output
            does not depend on it.
        share: ``(i, n)`` takes every n-th shard from the i-th on, for n processes or machines.
        retry_failed: try items again that failed in an earlier run, after what was left to do.
        monitor: is told how far the job is; None means nobody.

    Returns:
        What was done, and how fast.

    Raises:
        DeploymentError: the folder belongs to another job or is in use, the source changed, or
            nothing can be written there.
        RetryableError: the server is gone or full and did not come back.
        CliprtError: the model failed.
    """
    require("pyarrow", extra="batch")  # its import takes a while, which is not to count as writing
    options, monitor = options or JobOptions(), monitor or Monitor()
    workers = workers or usable_cores()
    begun = time.monotonic()
    with RunFolder.open(out, _config(source, encoder, options), share=share) as folder:
        plan = _plan(source, folder, options, monitor)
        _record_settings(encoder, folder.plan_folder / COMPUTE)
        mine = [unit for unit in plan.units if unit.number % share[1] == share[0] - 1]
        left = [unit for unit in mine if not folder.is_done(unit.number)]
        times = Times()
        with _pipeline(encoder, options, workers, times) as pipeline:
            job = _Job(plan, folder, pipeline, encoder.window, times, options, monitor)
            monitor.begin(plan.items if share == (1, 1) else None, times)
            job.count_kept(mine, left)
            job.run(job.missing(left))
            if retry_failed:
                job.run(job.failed(mine))
        manifest = folder.finish(len(plan.units))
        monitor.end()
        summary = summarise(
            folder,
            mine,
            finished=manifest is not None,
            model=encoder.card.name,
            space=encoder.card.space,
            times=times,
            computed=job.computed,
            wall_s=time.monotonic() - begun,
        )
        _write_summary(out, share, summary)
        return summary


class _Job:
    """One run of a job: what is left of it goes through the pipeline and into the folder."""

    def __init__(
        self,
        plan: Plan,
        folder: RunFolder,
        pipeline: Pipeline,
        window: int,
        times: Times,
        options: JobOptions,
        monitor: Monitor,
    ) -> None:
        self.computed = 0
        self._plan, self._folder, self._pipeline = plan, folder, pipeline
        self._window = window
        self._times, self._options, self._monitor = times, options, monitor

    def count_kept(self, mine: Iterable[Unit], left: Iterable[Unit]) -> None:
        """Tells the monitor what earlier runs have done."""
        done = self._folder.done()
        kept = [done[unit.number] for unit in mine if unit.number in done]
        items = sum(record.items for record in kept)
        for unit in left:
            items += sum(self._folder.parts(unit.number).values())
        self._monitor.kept(items, sum(sum(record.failed.values()) for record in kept))

    def run(self, chunks: Iterator[Chunk[_Place]]) -> None:
        """Embeds chunks and writes what comes out, beside the computing of the next ones."""
        with ThreadPoolExecutor(1, thread_name_prefix="cliprt-write") as writer:
            writing: Future[None] | None = None
            for place, part in self._pipeline.run(chunks, self._advance):
                # One part is written, the next waits: no more are held in memory.
                if writing is not None:
                    writing.result()
                writing = writer.submit(self._write, place, part)
            if writing is not None:
                writing.result()

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
        self._times.add("write", time.monotonic() - begun)


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


def _config(source: Source, encoder: Encoder, options: JobOptions) -> RunConfig:
    card = encoder.card
    return RunConfig(
        source=source.describe(),
        model=card.name,
        space=card.space,
        dim=card.dim,
        towers=options.towers,
        layout=options.layout,
        dtype=options.dtype,
        shard_size=options.shard_size,
        options={
            **encoder.described,
            "truncate": options.truncate,
            "fast_jpeg": options.fast_jpeg,
            **asdict(options.limits),
        },
    )


def _plan(source: Source, folder: RunFolder, options: JobOptions, monitor: Monitor) -> Plan:
    """The plan of the folder, made if there is none."""
    with folder.alone():
        if not (folder.plan_folder / "plan.jsonl").exists():
            with monitor.listing() as advance, writing(folder.plan_folder):
                make_plan(
                    source,
                    folder.plan_folder,
                    towers=options.towers,
                    shard_size=options.shard_size,
                    advance=advance,
                )
    plan = open_plan(folder.plan_folder)
    folder.note_plan(plan.sha256)
    return plan


def recorded_settings(out: Path, precision: str) -> dict[str, Any]:
    """How an earlier run in the folder computed each tower; empty where there was none.

    Settings of another precision are left out: they are not fit for the one that is asked for, and
    that the folder holds another run is said when it is opened.

    Args:
        out: the folder.
        precision: the one asked for; ``fastest`` takes what was chosen before.
    """
    path = out / "_cliprt" / COMPUTE
    if not path.exists():
        return {}
    settings: dict[str, Any] = msgspec.json.decode(path.read_bytes())
    chosen = read_run(out).config.options
    return {
        tower: setting
        for tower, setting in settings.items()
        if precision in ("fastest", chosen.get(f"{tower}_precision"))
    }


def _record_settings(encoder: Encoder, path: Path) -> None:
    if encoder.settings and not path.exists():
        with writing(path):
            write_whole(path, msgspec.json.format(msgspec.json.encode(encoder.settings)))


def _write_summary(out: Path, share: tuple[int, int], summary: Summary) -> None:
    """Keeps the figures of a run; the next one replaces them."""
    name = "summary" if share == (1, 1) else f"summary-{share[0]}-of-{share[1]}"
    with writing(out):
        write_whole(out / f"{name}.json", msgspec.json.format(msgspec.json.encode(summary)) + b"\n")
        write_whole(out / f"{name}.txt", summary.text().encode())


@contextmanager
def _pipeline(
    encoder: Encoder, options: JobOptions, workers: int, times: Times
) -> Iterator[Pipeline]:
    with Pipeline(
        encoder,
        towers=options.towers,
        limits=options.limits,
        workers=workers,
        fast_jpeg=options.fast_jpeg,
        times=times,
    ) as pipeline:
        yield pipeline
