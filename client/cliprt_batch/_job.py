"""A batch job from beginning to end: plan, embed what is missing, finish."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import msgspec

from cliprt._extras import require
from cliprt._folders import write_whole
from cliprt_batch._encoders import Encoder
from cliprt_batch._items import Unit
from cliprt_batch._models import Local, Served
from cliprt_batch._monitor import Monitor
from cliprt_batch._options import COMPUTE, JobOptions, agreed_settings
from cliprt_batch._output_errors import OutputMismatch, writing
from cliprt_batch._pipeline import Times
from cliprt_batch._run_config import RunConfig
from cliprt_batch._run_folder import RunFolder
from cliprt_batch._source import PLAN, Plan, Source, check_plan, make_plan, open_plan
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
    keep_going: bool = False,
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
        keep_going: take items for failed however many cannot be read in a row; otherwise a job ends
            where a thousand cannot, because then the source is gone.
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
    described = source.describe()  # there must be one, before a model is opened
    with ExitStack() as stack:
        named = model if isinstance(model, (Local, Served)) else None
        encoder: Encoder = (
            stack.enter_context(named.encoder(options, named.settings_in(out)))
            if named
            else cast(Encoder, model)
        )

        def run(job: Job) -> int:
            if not job.left and not retry_failed:
                return 0
            used = encoder
            if job.settings != encoder.settings:
                # Another share measured at the same time, and was the first to write it down.
                if named is None:
                    raise OutputMismatch(
                        f"{out} was begun with other settings of the runtime; take what is in "
                        f"{job.folder.plan_folder / COMPUTE}"
                    )
                used = stack.enter_context(named.encoder(options, job.settings))
            with Work(
                job.plan, job.folder, used, options,
                workers=workers, keep_going=keep_going, times=job.times, monitor=monitor,
            ) as work:  # fmt: skip
                work.run(work.missing(job.left))
                if retry_failed:
                    left = {unit.number for unit in job.left}
                    work.run(work.failed(unit for unit in job.mine if unit.number not in left))
            return work.computed

        config = config_of(described, encoder, options)
        return carry_out(
            source, out, config, encoder, options, run=run, share=share, monitor=monitor
        )


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
        settings: with which every process computes; see ``Encoder``.
    """

    folder: RunFolder
    plan: Plan
    mine: list[Unit]
    left: list[Unit]
    kept: int
    times: Times
    settings: dict[str, Any]


def carry_out(
    source: Source,
    out: Path,
    config: RunConfig,
    encoder: Encoder,
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
        config: what identifies the job.
        encoder: computes the embeddings; its towers are not loaded before the folder is open.
        options: what the output is like.
        run: does the units that are left, and returns how many items went through the towers.
        share: which units are to be done.
        monitor: is told how far the job is.
    """
    require("pyarrow", extra="batch")  # its import takes a while, which is not to count as writing
    begun = time.monotonic()
    with RunFolder.open(out, config, share=share, told=monitor.waits) as folder:
        plan = _plan(source, folder, options, monitor)
        settings = agreed_settings(folder.plan_folder / COMPUTE, lambda: encoder.settings)
        mine = [unit for unit in plan.units if folder.owns(unit.number)]
        left = [unit for unit in mine if not folder.is_done(unit.number)]
        times = Times()
        counts = [unit.items for unit in mine]
        known = [count for count in counts if count is not None]
        monitor.begin(sum(known) if len(known) == len(counts) else None, times)
        kept, failed = _kept(folder, mine)
        monitor.kept(kept, failed)
        computed = run(Job(folder, plan, mine, left, kept, times, settings))
        manifest = folder.finish(len(plan.units))
        monitor.end()
        summary = summarise(
            folder,
            mine,
            finished=manifest is not None,
            model=encoder.card.name,
            space=encoder.card.space,
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


def config_of(described: dict[str, str], encoder: Encoder, options: JobOptions) -> RunConfig:
    """What identifies a job.

    Args:
        described: the source, in its own words.
        encoder: computes the embeddings.
        options: what the output is like.
    """
    card = encoder.card
    return RunConfig(
        source=described,
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
    with folder.alone(monitor.waits):
        if fresh := not (folder.plan_folder / PLAN).exists():
            with monitor.listing() as advance, writing(folder.plan_folder):
                make_plan(
                    source,
                    folder.plan_folder,
                    towers=options.towers,
                    shard_size=options.shard_size,
                    advance=advance,
                )
    plan = open_plan(folder.plan_folder)
    if not fresh:
        check_plan(source, plan)
    folder.note_plan(plan.sha256)
    return plan


def _write_summary(out: Path, share: tuple[int, int], summary: Summary) -> None:
    """Keeps the figures of a run; the next one replaces them."""
    name = "summary" if share == (1, 1) else f"summary-{share[0]}-of-{share[1]}"
    with writing(out):
        write_whole(out / f"{name}.json", msgspec.json.format(msgspec.json.encode(summary)) + b"\n")
        write_whole(out / f"{name}.txt", summary.text().encode())
