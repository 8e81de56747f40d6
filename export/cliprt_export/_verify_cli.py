"""``cliprt verify``."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click
import msgspec

from cliprt._console import out, print_table, steps
from cliprt_export._engine_verify import holds_engines
from cliprt_export._engine_verify_cli import verify_engines_command
from cliprt_export._families import FAMILIES
from cliprt_export._options import (
    COLUMNS,
    cells,
    changed,
    measuring_options,
    precision_list,
)
from cliprt_export._precision import PrecisionName
from cliprt_export._verify import STEPS, Row, Verification, verify_bundle


@click.command()
@click.argument("measured", metavar="BUNDLE|ENGINES", type=click.Path())
@click.option(
    "--bundle",
    type=click.Path(),
    help="With ENGINES: the bundle that they were built from.  [default: the one beside them]",
)
@click.option(
    "--checkpoint",
    metavar="SOURCE",
    help="The original weights, a folder or a hub id; without them towers are compared with the "
    "known answers in the bundle and with its fp32 tower.",
)
@click.option("--revision", help="Branch, tag or commit, if the checkpoint is a hub id.")
@click.option(
    "--family",
    type=click.Choice([family.name for family in FAMILIES]),
    help="Read the checkpoint as that family.",
)
@click.option(
    "--calibrate",
    type=click.Path(),
    metavar="FOLDER",
    help="The folder that the export was calibrated on: its other quarter is measured on.",
)
@click.option(
    "--precision",
    "precisions",
    callback=precision_list,
    help="Precisions to measure, with commas.  [default: all of the bundle]",
)
@measuring_options
@click.option("--layers", is_flag=True, help="Compare every layer; needs --checkpoint.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_context
def verify(
    context: click.Context,
    measured: str,
    bundle: str | None,
    checkpoint: str | None,
    revision: str | None,
    family: str | None,
    calibrate: str | None,
    precisions: tuple[PrecisionName, ...] | None,
    evaluate: str | None,
    prompt: str,
    samples: int | None,
    min_cosines: dict[str, float],
    min_overlap: float | None,
    max_top1_loss: float | None,
    layers: bool,
    as_json: bool,
) -> None:
    """Measure the towers of BUNDLE again, or its ENGINES, on this machine.

    The figures stand beside those of the certificate. 8-bit towers may answer otherwise on another
    processor, which this shows. The exit status is 1 if a bar is missed; the bars are those of the
    export unless options say otherwise.

    ENGINES is a folder that `cliprt build` filled, or one engine of it. They run on the GPU at hand
    and are compared with the bundle's known answers and fp32 tower; inputs that take turns under
    CUDA graphs, the edges of every profile, an item alone and in the greatest batch, and extreme
    inputs beside others are checked as well. A certificate is written beside each engine.
    """
    demanded = partial(
        changed, min_cosines=min_cosines, min_overlap=min_overlap, max_top1_loss=max_top1_loss
    )
    if holds_engines(measured):
        original = {
            "--checkpoint": checkpoint,
            "--revision": revision,
            "--family": family,
            "--calibrate": calibrate,
            "--evaluate": evaluate,
            "--max-top1-loss": max_top1_loss,
            "--layers": layers or None,
        }
        for option, value in original.items():
            if value is not None:
                raise click.UsageError(f"{option} is for a BUNDLE; {measured} holds engines")
        verify_engines_command(
            context,
            Path(measured),
            bundle=bundle,
            samples=samples,
            precisions=precisions,
            bars=demanded,
            as_json=as_json,
        )
        return
    if bundle is not None:
        raise click.UsageError(f"--bundle is for ENGINES; {measured} holds none")
    with steps(STEPS) as on_step:
        result = verify_bundle(
            measured,
            checkpoint=checkpoint,
            revision=revision,
            family=family,
            calibrate=calibrate,
            evaluate=evaluate,
            prompt=prompt,
            samples=samples,
            precisions=precisions,
            layers=layers,
            bars=demanded,
            on_step=on_step,
        )
    if as_json:
        content = {"passed": result.passed, **msgspec.to_builtins(result)}
        click.echo(msgspec.json.encode(content).decode())
    else:
        _print(result, checkpoint is not None)
    if not result.passed:
        context.exit(1)


def _print(result: Verification, with_checkpoint: bool) -> None:
    console = out()
    console.print(f"space      {result.space}")
    console.print(f"here       {result.runtime}, {result.cpu}")
    console.print(f"certified  {result.certified_runtime}, {result.certified_cpu}")
    if not with_checkpoint:
        console.print(
            "Without --checkpoint: compared with the known answers that the original weights gave "
            "at export, and on more items with the fp32 tower of the bundle."
        )
    print_table(
        ("tower", "precision", "against", *COLUMNS, "certified 1%", "items are"),
        [_row(row) for row in result.rows],
    )
    for row in result.rows:
        if row.layers:
            console.print(f"{row.tower} {row.precision}, layer by layer:")
            shown = [
                (
                    layer.name,
                    "nan" if layer.cosine is None else f"{layer.cosine:.7f}",
                    "pooled token" if layer.pooled else "all",
                )
                for layer in row.layers
            ]
            print_table(("layer", "cos 1%", "tokens"), shown)
    for row in result.rows:
        for missed in row.missed:
            console.print(
                f"missed: {row.tower} {row.precision} against the {row.against}: {missed}"
            )


def _row(row: Row) -> list[str]:
    certified = "-" if row.certified is None else f"{row.certified.p01_cosine:.7f}"
    items = "the certificate's" if row.same_items else "others"
    return [row.tower, row.precision, row.against, *cells(row.found), certified, items]
