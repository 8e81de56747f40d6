"""``cliprt bench``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import msgspec
from rich.console import Console

from cliprt._console import out
from cliprt_bench._bench_card import BenchCard
from cliprt_bench._cli_compare import compare
from cliprt_bench._cli_options import Asked, Numbers, shared_options, writable, write_out

_PATH = click.Path(path_type=Path)
_PRECISIONS = ("fp32", "int8-cpu", "fastest")
_OUT = click.option("--out", "path", type=_PATH, callback=writable, help="Write the card here.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print the card, and nothing else.")
_LENGTHS = click.option(
    "--text-length",
    "lengths",
    type=Numbers(),
    default=(),
    help="Tokens of each text [default: captions as they come].",
)
_AT_P99 = click.option(
    "--at-p99",
    type=click.FloatRange(min=0, min_open=True),
    metavar="MS",
    help="Tell the highest throughput whose p99 holds this limit.",
)


@click.group()
def bench() -> None:
    """Measure latency, throughput, load, stages and startup, and compare machines.

    Each command measures one thing, prints what it found, and writes it to a card with --out.
    """


@bench.command()
@click.option("--batch", "batches", type=Numbers(), default="1,8", show_default=True)
@click.option("--concurrency", type=Numbers(), default="1", show_default=True, help="Callers.")
@_LENGTHS
@shared_options
def latency(
    batches: tuple[int, ...], concurrency: tuple[int, ...], lengths: tuple[int, ...], asked: Asked
) -> None:
    """How long requests take: callers that ask again as soon as they are answered."""
    from cliprt_bench._run import closed_card

    card = closed_card(
        asked,
        "latency",
        batches=batches,
        concurrencies=concurrency,
        lengths=lengths,
        tell=teller(),
    )
    _finish(card, asked.out, as_json=asked.as_json)


@bench.command()
@click.option("--batch", "batches", type=Numbers(), default="1,16", show_default=True)
@click.option("--concurrency", type=Numbers(), default="1,2,4,8,16,32", show_default=True)
@_AT_P99
@_LENGTHS
@shared_options
def throughput(
    batches: tuple[int, ...],
    concurrency: tuple[int, ...],
    at_p99: float | None,
    lengths: tuple[int, ...],
    asked: Asked,
) -> None:
    """How much is answered in a second: more and more callers, and what it costs in latency."""
    from cliprt_bench._run import closed_card

    card = closed_card(
        asked,
        "throughput",
        batches=batches,
        concurrencies=concurrency,
        lengths=lengths,
        tell=teller(),
    )
    _finish(card, asked.out, as_json=asked.as_json, at_p99_ms=at_p99)


@bench.command()
@click.option("--rate", "rates", type=Numbers(float), default=(), help="Requests per second.")
@click.option(
    "--share",
    "shares",
    type=Numbers(float),
    default="0.25,0.5,0.75,0.9",
    show_default=True,
    help="Without --rate: of what 16 callers of a closed loop reach.",
)
@click.option("--batch", "batches", type=Numbers(), default="1", show_default=True)
@click.option(
    "--most",
    type=click.IntRange(min=1),
    default=128,
    show_default=True,
    help="Requests under way; those beyond wait, and their waiting counts.",
)
@_AT_P99
@_LENGTHS
@shared_options
def load(
    rates: tuple[float, ...],
    shares: tuple[float, ...],
    batches: tuple[int, ...],
    most: int,
    at_p99: float | None,
    lengths: tuple[int, ...],
    asked: Asked,
) -> None:
    """How long requests take that come when they come: queueing shows.

    Requests arrive at random times (Poisson), whether earlier ones are answered or not, and a
    latency counts from the moment at which a request was due.
    """
    from cliprt_bench._run import open_card

    card = open_card(
        asked,
        rates=rates,
        shares=shares,
        batches=batches,
        lengths=lengths,
        most=most,
        tell=teller(),
    )
    _finish(card, asked.out, as_json=asked.as_json, at_p99_ms=at_p99)


@bench.command()
@shared_options
def stages(asked: Asked) -> None:
    """Where the time of an item goes: decoding, resizing, tokenising, wire, queue, tower."""
    from cliprt_bench._run import stages_card

    card = stages_card(asked, tell=teller())
    _finish(card, asked.out, as_json=asked.as_json)


@bench.command()
@click.option("--bundle", type=_PATH, required=True, help="Start LocalClip on this bundle.")
@click.option("--precision", type=click.Choice(_PRECISIONS), help="Of its towers.")
@click.option("--served", is_flag=True, help="Start a Triton that serves it instead.")
@click.option("--repeats", type=click.IntRange(min=1), default=5, show_default=True)
@_OUT
@_JSON
def startup(
    bundle: Path,
    precision: str | None,
    served: bool,
    repeats: int,
    path: Path | None,
    as_json: bool,
) -> None:
    """How long it takes from nothing to the first answer, in a process of its own."""
    if served and precision == "fastest":
        raise click.UsageError("a server does not look for the fastest; name a precision")
    from cliprt_bench._run import startup_card

    card = startup_card(bundle, precision, served=served, repeats=repeats, tell=teller())
    _finish(card, path, as_json=as_json)


bench.add_command(compare)


def teller() -> Callable[[str], None]:
    """Tells on standard error what was measured: on a terminal in one line that changes."""
    console = Console(stderr=True, highlight=False, markup=False)
    if not console.is_terminal:
        return lambda what: None
    return lambda what: console.print(what, end="\x1b[K\r", overflow="ellipsis", no_wrap=True)


def _finish(
    card: BenchCard, path: Path | None, *, as_json: bool, at_p99_ms: float | None = None
) -> None:
    from cliprt_bench._show import show

    if as_json:
        out().print(msgspec.json.encode(card).decode())
    else:
        show(card, at_p99_ms=at_p99_ms)
    if path is not None:
        write_out(card, path)
