"""From what was asked for to a card."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import product
from pathlib import Path

import click
import msgspec

import cliprt
from cliprt import open_bundle
from cliprt._errors import CliprtError, ServerError
from cliprt_bench._bench_card import (
    SCHEMA,
    BenchCard,
    Ceiling,
    Inputs,
    Kind,
    Machine,
    Method,
    Model,
    Point,
    Target,
    Tower,
    Workload,
)
from cliprt_bench._bounds import bounds_of
from cliprt_bench._cli_options import SERVER_ELSEWHERE, Asked, towers_of
from cliprt_bench._command import command_line
from cliprt_bench._figures import Figure
from cliprt_bench._foretold import foretold
from cliprt_bench._inputs import InputSet, given_inputs
from cliprt_bench._machine import elsewhere, machine, with_clocks
from cliprt_bench._measure import Measurement, settling_s
from cliprt_bench._stages import STAGED, Stages, stages_of
from cliprt_bench._startup import startup_of
from cliprt_bench._targets import InProcess, Subject, certified, precisions_of, towers_in

Tell = Callable[[str], None]

# Callers of the closed loop that finds out how much an open loop can ask for.
_CALLERS = 16
_CAPACITY_S, _CAPACITY_REPEATS = 2.0, 3


def closed_card(
    asked: Asked,
    kind: Kind,
    *,
    batches: tuple[int, ...],
    concurrencies: tuple[int, ...],
    lengths: tuple[int, ...],
    tell: Tell,
) -> BenchCard:
    """A card of closed loops over batch x concurrency x text length.

    Args:
        asked: what is measured, and how.
        kind: ``latency`` or ``throughput``, whose card also has the stages of an item.
        batches: items of a request.
        concurrencies: callers.
        lengths: tokens of texts; empty for captions as they come.
        tell: is told of what was measured.

    Raises:
        CliprtError: the target cannot be opened, or its first request failed.
    """
    with _opened(asked) as run:
        subject = run.subject
        towers = towers_of(subject, asked.towers)
        workloads = [
            Workload(
                tower=tower, batch=batch, concurrency=callers, loop="closed", text_length=length
            )
            for tower in towers
            for batch, callers in product(batches, concurrencies)
            for length in _lengths_of(tower, lengths)
        ]
        measurement = Measurement(subject, run.inputs, _method(asked))
        stages: Stages = {}

        def work() -> None:
            # A report of these cards shows them beside the rates.
            staged = kind == "throughput" and isinstance(subject, STAGED)
            later = [*(["stages"] if staged else []), *_ceilings_of(asked, subject)]
            click.echo(foretold(asked, [0.0] * len(workloads), later), err=True)
            measurement.run(workloads, tell)
            if staged:
                try:
                    _measure_stages(stages, asked, run, tell)
                except CliprtError as error:  # the points are worth keeping
                    warn(f"not all stages were measured: {error}")

        complete = _until_interrupted(work)
        return _card(
            asked,
            kind,
            run,
            points=measurement.points(),
            clocks=measurement.gpu_clocks_mhz(),
            stages=stages,
            complete=complete,
            tell=tell,
        )


def open_card(
    asked: Asked,
    *,
    rates: tuple[float, ...],
    shares: tuple[float, ...],
    batches: tuple[int, ...],
    lengths: tuple[int, ...],
    most: int,
    tell: Tell,
) -> BenchCard:
    """A card of open loops: requests come when they come.

    Args:
        asked: what is measured, and how.
        rates: requests per second; if there are none, ``shares`` counts.
        shares: of the rate that a closed loop of 16 callers reaches, measured first.
        batches: items of a request.
        lengths: tokens of texts; empty for captions as they come.
        most: requests under way; those beyond wait, and their waiting counts.
        tell: is told of what was measured.

    Raises:
        CliprtError: the target cannot be opened, its first request failed, or nothing was answered
            where a share was asked for.
    """
    with _opened(asked) as run:
        subject, inputs, method = run.subject, run.inputs, _method(asked)
        measurement = Measurement(subject, inputs, method)
        asked_for = [
            Workload(tower=tower, batch=batch, concurrency=most, loop="open", text_length=length)
            for tower in towers_of(subject, asked.towers)
            for batch in batches
            for length in _lengths_of(tower, lengths)
        ]

        def work() -> None:
            workloads: list[Workload] = []
            capacities: dict[Workload, Figure] = {}
            for point in asked_for:
                workloads += [msgspec.structs.replace(point, rate=rate) for rate in rates]
                if not rates:
                    capacity = _capacity(subject, inputs, method, point)
                    tell(f"{point.tower}, batch {point.batch}: {capacity.value:.4g} items/s")
                    parts = [msgspec.structs.replace(point, share=share) for share in shares]
                    capacities |= dict.fromkeys(parts, capacity)
                    workloads += parts
            rates_s = [
                point.rate or (point.share or 0) * capacities[point].value / point.batch
                for point in workloads
            ]
            settling = [settling_s(rate, method) for rate in rates_s]
            click.echo(foretold(asked, settling, _ceilings_of(asked, subject)), err=True)
            measurement.run(workloads, tell, capacities=capacities)

        complete = _until_interrupted(work)
        return _card(
            asked,
            "load",
            run,
            points=measurement.points(),
            clocks=measurement.gpu_clocks_mhz(),
            complete=complete,
            tell=tell,
        )


def stages_card(asked: Asked, *, tell: Tell) -> BenchCard:
    """A card of stages.

    Raises:
        CliprtError: the target cannot be opened, or does not tell its stages.
    """
    with _opened(asked) as run:
        stages: Stages = {}
        complete = _until_interrupted(lambda: _measure_stages(stages, asked, run, tell))
        return _card(asked, "stages", run, stages=stages, complete=complete, tell=tell)


def startup_card(
    path: Path, precision: str | None, *, served: bool, repeats: int, tell: Tell
) -> BenchCard:
    """A card of starts.

    Args:
        path: of the bundle.
        precision: of its towers; None means the default.
        served: start a Triton that serves it, and not LocalClip.
        repeats: how often.
        tell: is told of what was measured.

    Raises:
        CliprtError: the bundle cannot be read, or it did not start.
    """
    bundle = open_bundle(path)
    begun, here = _now(), machine(warn=warn)
    stages: Stages = {}

    def work() -> None:
        for found in startup_of(path, precision, served=served, repeats=repeats, advance=tell):
            stages.update(found)

    complete = _until_interrupted(work)
    if precision == "fastest":
        with closing(InProcess(bundle, precision)) as local:
            precisions = precisions_of(local)
    else:
        precisions = dict.fromkeys(towers_in(bundle.card), precision or "fp32")
    return BenchCard(
        schema=SCHEMA,
        kind="startup",
        cliprt=cliprt.__version__,
        made=begun,
        machine=here,
        target=Target(
            kind="served" if served else "local",
            name="Triton, from its start" if served else "cliprt LocalClip, from its import",
            runtime="python" if served else None,
            precision="+".join(sorted(set(precisions.values()))),
            settings={},
            process="other",
            precisions=precisions,
            device="cpu",
        ),
        model=Model(name=bundle.card.name, space=bundle.card.space, dim=bundle.card.dim),
        fidelity=certified(bundle, precisions),
        inputs=Inputs(described="one caption, one black picture", sha256="0" * 64),
        method=Method(warmup_s=0, repeat_s=0, repeats=repeats, seed=0, command=command_line()),
        points=(),
        stages=stages,
        complete=complete,
    )


def warn(sentence: str) -> None:
    """Tells what a card does not say, on standard error."""
    click.echo(f"Warning: {sentence}", err=True)


@dataclass(frozen=True)
class _Run:
    """What is measured, and with what.

    Attributes:
        begun: when, UTC.
        machine: this one, before anything was measured.
        subject: what is measured.
        inputs: what is embedded.
    """

    begun: str
    machine: Machine
    subject: Subject
    inputs: InputSet


@contextmanager
def _opened(asked: Asked) -> Iterator[_Run]:
    begun, here = _now(), machine(warn=warn)
    with closing(asked.open()) as subject:
        if asked.server_pid is not None and subject.target.process == "remote":
            raise click.UsageError(SERVER_ELSEWHERE)
        yield _Run(begun, here, subject, given_inputs(asked.pictures, asked.captions))


def _measure_stages(stages: Stages, asked: Asked, run: _Run, tell: Tell) -> None:
    """Fills in what is known, round by round."""
    for found in stages_of(
        run.subject,
        run.inputs,
        towers=towers_of(run.subject, asked.towers),
        repeats=asked.repeats,
        repeat_s=asked.seconds,
        advance=tell,
    ):
        stages.update(found)


def _ceilings_of(asked: Asked, subject: Subject) -> list[str]:
    """The word for them, if they will be measured."""
    return ["ceilings"] if asked.ceilings and subject.target.process != "remote" else []


def _lengths_of(tower: Tower, lengths: tuple[int, ...]) -> tuple[int | None, ...]:
    return (lengths or (None,)) if tower == "text" else (None,)


def _capacity(subject: Subject, inputs: InputSet, method: Method, point: Workload) -> Figure:
    """Items per second of a closed loop with the requests of a point.

    Raises:
        ServerError: nothing was answered.
        KeyboardInterrupt: it was interrupted.
    """
    workload = msgspec.structs.replace(point, concurrency=_CALLERS, loop="closed")
    short = msgspec.structs.replace(method, repeats=_CAPACITY_REPEATS, repeat_s=_CAPACITY_S)
    measurement = Measurement(subject, inputs, short)
    measurement.run([workload])
    (reached,) = measurement.points()
    found = reached.figures.get("items_s")
    if found is None or not found.value > 0:
        raise ServerError(
            f"no share of what {workload.in_words()} reach: nothing was answered. "
            + " ".join(reached.marks)
        )
    return found


def _method(asked: Asked) -> Method:
    return Method(
        warmup_s=asked.warmup,
        repeat_s=asked.seconds,
        repeats=asked.repeats,
        seed=asked.seed,
        command=command_line(),
    )


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _until_interrupted(work: Callable[[], None]) -> bool:
    """Whether it came to its end; after Ctrl-C what there is counts."""
    try:
        work()
    except KeyboardInterrupt:
        return False
    return True


def _card(
    asked: Asked,
    kind: Kind,
    run: _Run,
    *,
    points: tuple[Point, ...] = (),
    clocks: Sequence[float | None] = (),
    stages: Stages | None = None,
    complete: bool,
    tell: Tell,
) -> BenchCard:
    """What was measured, and the ceilings, which are measured now.

    Args:
        asked: what was asked for.
        kind: of the card.
        run: what was measured, and with what.
        points: the results.
        clocks: of the GPUs, in MHz, while it was measured.
        stages: the results, too.
        complete: whether that is all; after Ctrl-C there are no ceilings.
        tell: is told of what was measured.
    """
    subject = run.subject
    ceilings: tuple[Ceiling, ...] = ()
    if asked.ceilings and complete:
        ceilings, complete = bounds_of(
            subject, run.inputs, points, run.machine, tell=tell, warn=warn
        )
    here = run.machine
    if subject.target.process == "remote":
        here = elsewhere(here)
        warn(
            "the target is on another machine: the card says nothing about its processor, its GPUs "
            "and its ceilings"
        )
    return BenchCard(
        schema=SCHEMA,
        kind=kind,
        cliprt=cliprt.__version__,
        made=run.begun,
        machine=with_clocks(here, clocks),
        target=subject.target,
        model=subject.model,
        fidelity=certified(subject.bundle, precisions_of(subject)),
        inputs=run.inputs.record,
        method=_method(asked),
        points=points,
        ceilings=ceilings,
        stages=stages or {},
        complete=complete,
        price_per_hour=asked.price,
    )
