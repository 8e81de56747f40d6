"""``cliprt health``."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from cliprt._bundle import open_bundle
from cliprt._connection_options import ConnectionOptions, connection_options
from cliprt._console import out, print_table
from cliprt._health import Report
from cliprt._server_health import check_server

_WORDS = {"good": "healthy", "wrong": "unhealthy", "busy": "busy"}
_EXIT = {"good": 0, "wrong": 1, "busy": 3}


@click.command()
@click.argument("address")
@click.option("--model", default="clip", show_default=True, help="Prefix of the models' names.")
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    help="What should be served: its space and its known answers are taken, not the server's.",
)
@click.option(
    "--timeout",
    "timeout_s",
    default=30.0,
    show_default=True,
    help="Seconds that everything together may take.",
)
@click.option(
    "--thorough",
    is_flag=True,
    help="Ask for every known item alone, and mix others into the batches: about three times as "
    "many pictures and texts.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@connection_options
@click.pass_context
def health(
    context: click.Context,
    address: str,
    model: str,
    bundle: Path | None,
    timeout_s: float,
    thorough: bool,
    as_json: bool,
    via: ConnectionOptions,
) -> None:
    """Ask the live model at ADDRESS (host:port of gRPC) for known answers.

    A handful of known inputs goes through both towers: one alone, all in a batch, and both at once.
    The exit status is 0 if every answer is right, 1 if something is wrong, and 3 if the server was
    too busy to be asked for all and nothing was wrong.
    """
    opened = None if bundle is None else open_bundle(bundle)
    connection = via.to(address)
    try:
        report = check_server(
            connection, model=model, bundle=opened, thorough=thorough, timeout_s=timeout_s
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if as_json:
        click.echo(msgspec.json.encode(report).decode())
    else:
        _print(report, address)
    if status := _EXIT[report.status]:
        context.exit(status)


def _print(report: Report, address: str) -> None:
    rows = [
        (check.verdict, check.where, check.what, check.found, check.limit)
        for check in report.checks
    ]
    print_table(("verdict", "where", "what", "found", "limit"), rows)
    console = out()
    for check in report.checks:
        if check.advice:
            console.print(f"{check.where} {check.what}: {check.advice}")
    console.print(f"{report.model} at {address} is {_WORDS[report.status]} ({report.took_s:.2f} s)")
