"""``cliprt export``."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from cliprt._console import out, steps
from cliprt_export._certificate import Bars, Certificate, read_certificate
from cliprt_export._export import STEPS, export_checkpoint
from cliprt_export._options import (
    COLUMNS,
    cells,
    changed,
    measuring_options,
    precision_list,
    print_table,
)
from cliprt_export._precision import PrecisionName


@click.command()
@click.argument("checkpoint")
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
    help="Variants of each tower, with commas: fp32, fp16, int8, int8-cpu. fp32 is always there.",
)
@click.option(
    "--calibrate",
    type=click.Path(),
    metavar="FOLDER",
    help="Pictures, and .txt files with a text on each line, such as the model will see: three "
    "quarters calibrate 8-bit precisions, the certificate is measured on the others.",
)
@measuring_options
@click.option("--revision", help="Branch, tag or commit, if CHECKPOINT is a hub id.")
@click.option("--overwrite", is_flag=True, help="Replace a bundle that is already there.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def export(
    checkpoint: str,
    target: Path,
    precisions: tuple[PrecisionName, ...],
    calibrate: str | None,
    evaluate: str | None,
    prompt: str,
    samples: int | None,
    min_cosines: dict[str, float],
    min_overlap: float | None,
    max_top1_loss: float | None,
    revision: str | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Turn CHECKPOINT into a bundle of ONNX towers.

    CHECKPOINT is a folder in Hugging Face format (config.json, model.safetensors or shards,
    tokenizer and preprocessor files) or a hub id such as openai/clip-vit-base-patch32. The towers
    are measured against the original weights before the bundle appears; a precision that misses the
    bar is refused.
    """
    with steps(STEPS) as on_step:
        bundle = export_checkpoint(
            checkpoint,
            target,
            precisions=precisions,
            revision=revision,
            calibrate=calibrate,
            evaluate=evaluate,
            prompt=prompt,
            samples=samples,
            bars=changed(Bars(), min_cosines, min_overlap, max_top1_loss),
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
