"""A batch job from beginning to end: plan, embed what is missing, finish."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from cliprt._card import Card
from cliprt._extras import require
from cliprt._folders import write_whole
from cliprt_batch._encoders import Encoder
from cliprt_batch._items import Unit
from cliprt_batch._models import Local, Served
from cliprt_batch._monitor import Monitor
from cliprt_batch._options import COMPUTE, JobOptions
from cliprt_batch._output_errors import writing
from cliprt_batch._pipeline import Times
from cliprt_batch._run_config import RunConfig
from cliprt_batch._run_folder import RunFolder
from cliprt_batch._source import Plan, Source, make_plan, open_plan
from cliprt_batch._summary import Summary, summarise
from cliprt_batch._work import Work


def embed(
    source: Source,
    out: Path,
    model: Local | Served | Encoder,
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
        model: computes the embeddings. An encoder is not closed; its calls must be safe to make
            from many threads.
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

    Example:
        >>> embed(Source("pictures"), Path("embeddings"), Local(Path("bundle")))
    """
    options, monitor = options or JobOptions(), monitor or Monitor()

    with ExitStack() as stack:
        encoder = (
            stack.enter_context(model.encoder(out, options))
            if isinstance(model, (Local, Served))
            else model
        )

        def run(job: Job) -> int:
            with Work(
                job.plan, job.folder, encoder, options,
                workers=workers, times=job.times, monitor=monitor,
            ) as work:  # fmt: skip
                work.run(work.missing(job.left))
                if retry_failed:
                    work.run(work.failed(job.mine))
            return work.computed

        computation = Computation.of(encoder)
        return carry_out(source, out, computation, options, run=run, share=share, monitor=monitor)


@dataclass(frozen=True)
class Computation:
    """What is known of an encoder, also once it is closed; see ``Encoder``."""

    card: Card
    described: dict[str, str]
    settings: dict[str, Any]

    @classmethod
    def of(cls, encoder: Encoder) -> Computation:
        """What is known of an encoder."""
        return cls(encoder.card, encoder.described, encoder.settings)


@dataclass(frozen=True)
class Job:
    """A job whose folder is open and whose plan is made.

    Attributes:
        folder: of the output.
        plan: of the source.
        mine: the units of this share.
        left: those of them that are not committed.
        kept: items that earlier runs have done, those in parts of ``left`` too.
        times: of the stages.
    """

    folder: RunFolder
    plan: Plan
    mine: list[Unit]
    left: list[Unit]
    kept: int
    times: Times


def carry_out(
    source: Source,
    out: Path,
    computation: Computation,
    options: JobOptions,
    *,
    run: Callable[[Job], int],
    share: tuple[int, int] = (1, 1),
    monitor: Monitor,
) -> Summary:
    """All of a job but the embedding itself; see ``embed``.

    Args:
        source: what to embed.
        out: folder of the output.
        computation: what computes the embeddings.
        options: what the output is like.
        run: does the units that are left, and returns how many items went through the towers.
        share: which units are to be done.
        monitor: is told how far the job is.
    """
    require("pyarrow", extra="batch")  # its import takes a while, which is not to count as writing
    begun = time.monotonic()
    with RunFolder.open(out, config_of(source, computation, options), share=share) as folder:
        plan = _plan(source, folder, options, monitor)
        _record_settings(computation, folder.plan_folder / COMPUTE)
        mine = [unit for unit in plan.units if folder.owns(unit.number)]
        left = [unit for unit in mine if not folder.is_done(unit.number)]
        times = Times()
        monitor.begin(plan.items if share == (1, 1) else None, times)
        kept, failed = _kept(folder, mine)
        monitor.kept(kept, failed)
        computed = run(Job(folder, plan, mine, left, kept, times))
        manifest = folder.finish(len(plan.units))
        monitor.end()
        summary = summarise(
            folder,
            mine,
            finished=manifest is not None,
            model=computation.card.name,
            space=computation.card.space,
            times=times,
            computed=computed,
            wall_s=time.monotonic() - begun,
        )
        _write_summary(out, share, summary)
        return summary


def _kept(folder: RunFolder, units: Iterable[Unit]) -> tuple[int, int]:
    """Items that earlier runs have done, and how many of these are known to have failed."""
    items = failed = 0
    for unit in units:
        if folder.is_done(unit.number):
            record = folder.done_record(unit.number)
            items += record.items
            failed += sum(record.failed.values())
        else:
            items += sum(folder.parts(unit.number).values())
    return items, failed


def config_of(source: Source, computation: Computation, options: JobOptions) -> RunConfig:
    """What identifies a job."""
    card = computation.card
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
            **computation.described,
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


def _record_settings(computation: Computation, path: Path) -> None:
    if computation.settings and not path.exists():
        with writing(path):
            write_whole(path, msgspec.json.format(msgspec.json.encode(computation.settings)))


def _write_summary(out: Path, share: tuple[int, int], summary: Summary) -> None:
    """Keeps the figures of a run; the next one replaces them."""
    name = "summary" if share == (1, 1) else f"summary-{share[0]}-of-{share[1]}"
    with writing(out):
        write_whole(out / f"{name}.json", msgspec.json.format(msgspec.json.encode(summary)) + b"\n")
        write_whole(out / f"{name}.txt", summary.text().encode())
