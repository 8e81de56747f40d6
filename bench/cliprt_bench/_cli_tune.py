"""``cliprt tune``."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from cliprt import open_bundle
from cliprt._console import out, print_table
from cliprt._extras import require
from cliprt_bench._bench_card import Method, Tower
from cliprt_bench._cli import teller

# A 99th percentile needs a thousand requests, and a slow tower a while for them.
_SECONDS, _REPEATS = 5.0, 3

_PRECISIONS = ("fp32", "int8-cpu")


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--p99",
    "p99_ms",
    type=click.FloatRange(min=0, min_open=True),
    required=True,
    metavar="MS",
    help="The 99th percentile of latency must hold this limit, in milliseconds.",
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    help="The load: requests per second that come at random times  [default: as many as can be "
    "answered within the limit].",
)
@click.option("--tower", type=click.Choice(["image", "text"]), default="image", show_default=True)
@click.option(
    "--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Items of a request."
)
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="Callers, where no rate is given.",
)
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(_PRECISIONS),
    multiple=True,
    help="Which may be used  [default: those of the bundle].",
)
@click.option(
    "--pictures",
    type=click.Path(path_type=Path),
    help="A folder of pictures [default: drawn ones].",
)
@click.option(
    "--captions",
    type=click.Path(path_type=Path),
    help="A file of captions, one a line [default: drawn ones].",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.1),
    default=_SECONDS,
    show_default=True,
    help="Of a repeat.",
)
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    default=_REPEATS,
    show_default=True,
    help="Of each candidate.",
)
@click.option("--out", "path", type=click.Path(path_type=Path), help="Write the policy here.")
@click.option("--json", "as_json", is_flag=True, help="Print the policy, and nothing else.")
def tune(
    bundle: Path,
    p99_ms: float,
    rate: float | None,
    tower: Tower,
    batch: int,
    concurrency: int,
    precisions: tuple[str, ...],
    pictures: Path | None,
    captions: Path | None,
    seconds: float,
    repeats: int,
    path: Path | None,
    as_json: bool,
) -> None:
    """Find out how BUNDLE is best served on this machine, under a load and a limit of latency.

    Starts a Triton for each candidate, asks it as the load will, and changes one thing at a time:
    precision, threads, greatest batch, delay, instances. Takes some minutes. The file that --out
    names is what `cliprt serve BUNDLE --policy FILE` and `cliprt repository` take.
    """
    require("cliprt_triton", extra="serve")
    from cliprt_bench._inputs import given_inputs
    from cliprt_bench._machine import machine
    from cliprt_bench._tune import Goal, search
    from cliprt_bench._tuning import Tuner
    from cliprt_triton import Tuned

    opened = open_bundle(bundle)
    if getattr(opened.card, tower) is None:
        raise click.UsageError(f"{opened.card.name} has no {tower} tower")
    there = [
        precision
        for precision in _PRECISIONS
        if (opened.path / f"{tower}.{precision}.onnx").exists()
        and (not precisions or precision in precisions)
    ]
    if not there:
        raise click.UsageError(f"{bundle} has no {tower} tower in {' or '.join(precisions)}")
    goal = Goal(p99_ms=p99_ms, rate=rate)
    tuner = Tuner(
        opened,
        given_inputs(pictures, captions),
        goal,
        tower=tower,
        batch=batch,
        callers=concurrency,
        method=Method(
            warmup_s=1.0, repeat_s=seconds, repeats=repeats, seed=0, command="cliprt tune"
        ),
        tell=teller(),
    )
    most_items = None if rate is not None else batch * concurrency
    result = search(tuner.evaluate, goal, there, most_items=most_items)
    here = machine()
    load = f"{concurrency} callers" if rate is None else f"{rate:g} requests per second"
    tuned = Tuned(
        schema=1,
        model=opened.card.name,
        space=opened.card.space,
        machine=f"{here.cpu}, {here.cores} cores",
        goal=f"{tower}, {load} of {batch}, p99 within {p99_ms:g} ms",
        why=result.why(),
        precision=result.best.candidate.precision,
        policy=result.best.candidate.policy,
        settings=tuner.settings(result.best.candidate),
        evidence=tuple(trial.in_words() for trial in result.trials),
    )
    if path is not None and result.held:
        tuned.write(path)
    if as_json:
        out().print(msgspec.json.encode(tuned).decode())
    else:
        print_table(
            ("", "items/s", "p50 ms", "p99 ms", "failed"),
            [
                (
                    ("* " if trial is result.best else "  ") + trial.candidate.in_words(),
                    f"{trial.items_s:.1f}",
                    "" if trial.p50_ms is None else f"{trial.p50_ms:.1f}",
                    "" if trial.p99_ms is None else f"{trial.p99_ms:.1f}",
                    str(trial.failed or ""),
                )
                for trial in result.trials
            ],
        )
        out().print(result.why())
        if path is not None and result.held:
            out().print(f"cliprt serve {bundle} --policy {path}")
    if not result.held:
        raise SystemExit(1)
