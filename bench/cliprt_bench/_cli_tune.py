"""``cliprt tune``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from cliprt import Bundle, open_bundle
from cliprt._console import out, print_table
from cliprt._extras import require
from cliprt_bench._bench_card import Tower
from cliprt_bench._cli import teller
from cliprt_bench._cli_options import writable, write_out

if TYPE_CHECKING:
    from cliprt_bench._tune import Trial
    from cliprt_bench._tune_search import Result
    from cliprt_triton import Tuned

# Many short windows tell how far they lie apart better than few long ones.
_SECONDS, _REPEATS = 3.0, 5

_PRECISIONS = ("fp32", "int8-cpu")


def _percentile(percentile: int) -> Callable[[Any], Any]:
    """The option that limits a percentile of latency."""
    ways = {
        99: "The 99th percentile of latency must hold this limit, in milliseconds.",
        95: "The 95th, instead: for a load that brings too few requests for the 99th.",
        90: "The 90th, instead.",
    }
    return click.option(
        f"--p{percentile}",
        type=click.FloatRange(min=0, min_open=True),
        metavar="MS",
        help=ways[percentile],
    )


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@_percentile(99)
@_percentile(95)
@_percentile(90)
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
    help="Of a window, at least: it is lengthened, to a minute at most, for the requests that the "
    "percentile needs.",
)
@click.option(
    "--repeats",
    type=click.IntRange(min=3),
    default=_REPEATS,
    show_default=True,
    help="Windows of each candidate, and turns in the end.",
)
@click.option(
    "--out",
    "path",
    type=click.Path(path_type=Path),
    callback=writable,
    help="Write the policy here.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the policy, and nothing else.")
def tune(
    bundle: Path,
    p99: float | None,
    p95: float | None,
    p90: float | None,
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
    threads, greatest batch, delay, instances, precision. What came out best is measured again, in
    turns with the defaults. Takes some minutes; says how many. Ctrl-C keeps the best so far. One
    tower is measured, and the policy is for both: what was not measured is said. The
    file that --out names is what `cliprt serve BUNDLE --policy FILE` and `cliprt repository` take.
    """
    require("cliprt_triton", extra="serve")
    from cliprt_bench._inputs import given_inputs
    from cliprt_bench._tune import Goal, plan
    from cliprt_bench._tune_search import Search
    from cliprt_bench._tuning import Tuner, foretold

    limits = {p: ms for p, ms in ((99, p99), (95, p95), (90, p90)) if ms is not None}
    if len(limits) != 1:
        raise click.UsageError("give one limit: --p99, --p95 or --p90")
    ((percentile, limit_ms),) = limits.items()
    opened = open_bundle(bundle)
    there = _precisions_of(opened, tower, precisions)
    goal = Goal(limit_ms=limit_ms, rate=rate, percentile=percentile)
    windows = plan(goal, callers=concurrency, seconds=seconds, repeats=repeats)
    tuner = Tuner(
        opened,
        given_inputs(pictures, captions),
        goal,
        windows,
        tower=tower,
        batch=batch,
        callers=concurrency,
    )
    search = Search(
        tuner.measure,
        goal,
        windows,
        there,
        most_items=None if rate is not None else batch * concurrency,
        tell=teller(),
    )
    click.echo(foretold(search, windows), err=True)
    result = search.run()
    load = f"{concurrency} callers" if rate is None else f"{rate:g} requests per second"
    tuned = _tuned(
        opened, result, tuner.settings(result.best.candidate), tower, f"{load} of {batch}"
    )
    if as_json:
        out().print(msgspec.json.encode(tuned).decode())
    else:
        _show(result)
        out().print(tuned.why)
    if not result.held:
        raise SystemExit(1)
    if path is not None:
        write_out(tuned, path)
        if not as_json:
            out().print(f"cliprt serve {bundle} --policy {path}")


def _precisions_of(bundle: Bundle, tower: Tower, wanted: tuple[str, ...]) -> list[str]:
    """The precisions that the bundle has, of those that may be used; the plainest first."""
    if getattr(bundle.card, tower) is None:
        raise click.UsageError(f"{bundle.card.name} has no {tower} tower")
    there = [
        precision
        for precision in _PRECISIONS
        if (bundle.path / f"{tower}.{precision}.onnx").exists()
        and (not wanted or precision in wanted)
    ]
    if not there:
        raise click.UsageError(f"{bundle.path} has no {tower} tower in {' or '.join(wanted)}")
    return there


def _tuned(
    bundle: Bundle, result: Result, settings: Mapping[str, Any], tower: Tower, load: str
) -> Tuned:
    """The policy file."""
    from cliprt_bench._targets import certified, towers_in
    from cliprt_bench._tune_words import in_words, unmeasured, why
    from cliprt_triton import Tuned

    goal = result.goal
    others = [other for other in towers_in(bundle.card) if other != tower]
    losses = {
        precision: in_words(certified(bundle, dict.fromkeys(("image", "text"), precision)))
        for precision in {trial.candidate.precision for trial in result.trials}
        if precision != _PRECISIONS[0]
    }
    return Tuned(
        schema=1,
        model=bundle.card.name,
        space=bundle.card.space,
        machine=Tuned.this_machine(),
        goal=f"{tower}, {load}, {goal.in_words()}",
        why=why(result, losses) + unmeasured(tower, others),
        precision=result.best.candidate.precision,
        policy=result.best.candidate.policy,
        settings=dict(settings),
        evidence=(
            *(trial.in_words(goal) for trial in result.trials),
            *(f"in turns: {trial.in_words(goal)}" for trial in result.turns),
        ),
    )


def _show(result: Result) -> None:
    """Prints what was measured."""
    columns = ("", "measured", "items/s", "p50 ms", f"p{result.goal.percentile} ms", "failed")
    rows = [_row(trial, "alone", result) for trial in result.trials]
    rows += [_row(trial, "in turns", result) for trial in result.turns]
    print_table(columns, rows)


def _row(trial: Trial, measured: str, result: Result) -> tuple[str, ...]:
    from cliprt_bench._tune import spread

    def told(percentile: int) -> str:
        late = trial.late_ms(percentile)
        return "" if late is None else f"{late:.1f}"

    best = trial.candidate == result.best.candidate
    return (
        ("* " if best else "  ") + trial.candidate.in_words(),
        measured,
        "" if trial.items_s is None else spread(trial.items_s),
        told(50),
        told(result.goal.percentile),
        trial.problem or str(trial.failed or ""),
    )
