"""``cliprt export``."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from cliprt._console import out, print_table, steps
from cliprt_export._architectures import ARCHITECTURES
from cliprt_export._certificate import Bars, Certificate, read_certificate
from cliprt_export._export import STEPS, export_checkpoint, export_random
from cliprt_export._families import FAMILIES
from cliprt_export._options import (
    COLUMNS,
    cells,
    changed,
    measuring_options,
    precision_list,
)
from cliprt_export._precision import PRECISIONS, PrecisionName


@click.command()
@click.argument("checkpoint", required=False)
@click.option(
    "--out",
    "target",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder to write the bundle to.",
)
@click.option(
    "--precision",
    "precisions",
    callback=precision_list,
    default="fp32",
    show_default=True,
    help=f"Variants of each tower, with commas: {', '.join(PRECISIONS)}. fp32 is always there.",
)
@click.option(
    "--calibrate",
    type=click.Path(),
    metavar="FOLDER",
    help="Pictures, and .txt files with a text on each line, such as the model will see: three "
    "quarters calibrate 8-bit precisions, the certificate is measured on the others.",
)
@measuring_options
@click.option(
    "--family",
    type=click.Choice([family.name for family in FAMILIES]),
    help="Read CHECKPOINT as that family, where it holds a model in more than one form.",
)
@click.option("--revision", help="Branch, tag or commit, if CHECKPOINT is a hub id.")
@click.option(
    "--random",
    "architecture",
    metavar="ARCHITECTURE",
    help=f"Draw the weights instead of reading them: {', '.join(ARCHITECTURES)}.",
)
@click.option("--seed", type=click.IntRange(min=0), help="Of --random; 0 if not given.")
@click.option("--overwrite", is_flag=True, help="Replace a bundle that is already there.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def export(
    checkpoint: str | None,
    target: Path,
    precisions: tuple[PrecisionName, ...],
    calibrate: str | None,
    evaluate: str | None,
    prompt: str,
    samples: int | None,
    min_cosines: dict[str, float],
    min_overlap: float | None,
    max_top1_loss: float | None,
    family: str | None,
    revision: str | None,
    architecture: str | None,
    seed: int | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Turn CHECKPOINT into a bundle of ONNX towers.

    CHECKPOINT is a folder with configuration and safetensors, of one of the families that `cliprt
    models` lists, or a hub id such as openai/clip-vit-base-patch32. The towers
    are measured against the original weights before the bundle appears; a precision that misses the
    bar is refused.

    With --random there is no CHECKPOINT: the bundle has the sizes of a published architecture and
    weights that mean nothing, for measuring speed.
    """
    if (checkpoint is None) == (architecture is None):
        raise click.UsageError("give either CHECKPOINT or --random ARCHITECTURE")
    if architecture is None and seed is not None:
        raise click.UsageError("--seed is for --random only")
    unused = {"--revision": revision, "--family": family, "--calibrate": calibrate}
    for option, value in {**unused, "--evaluate": evaluate}.items():
        if architecture is not None and value is not None:
            raise click.UsageError(f"{option} is for a CHECKPOINT; drawn weights mean nothing")
    bars = changed(Bars(), min_cosines, min_overlap, max_top1_loss)
    with steps(STEPS) as on_step:
        if architecture is not None:
            bundle = export_random(
                architecture,
                target,
                seed=seed or 0,
                precisions=precisions,
                samples=samples,
                bars=bars,
                overwrite=overwrite,
                on_step=on_step,
            )
        else:
            assert checkpoint is not None
            bundle = export_checkpoint(
                checkpoint,
                target,
                precisions=precisions,
                family=family,
                revision=revision,
                calibrate=calibrate,
                evaluate=evaluate,
                prompt=prompt,
                samples=samples,
                bars=bars,
                overwrite=overwrite,
                on_step=on_step,
            )
    certificate = read_certificate(bundle)
    if as_json:
        result = {
            "bundle": str(bundle.path),
            "space": bundle.card.space,
            "certificate": msgspec.to_builtins(certificate),
        }
        click.echo(msgspec.json.encode(result).decode())
        return
    console = out()
    console.print(f"bundle  {bundle.path}")
    console.print(f"space   {bundle.card.space}")
    _print(certificate)


def _print(certificate: Certificate) -> None:
    rows = [
        [tower, precision, *cells(found)]
        for tower, precisions in certificate.towers.items()
        for precision, found in precisions.items()
    ]
    print_table(("tower", "precision", *COLUMNS), rows)
    for tower, items in certificate.measured_on.items():
        skipped = f", {items.skipped} could not be read" if items.skipped else ""
        out().print(
            f"{tower} measured on {items.items} items: {items.labelled} labelled, "
            f"{items.given} held out, {items.drawn} drawn{skipped}"
        )
