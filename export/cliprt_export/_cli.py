"""``cliprt export``."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from cliprt._console import out, steps
from cliprt_export._architectures import ARCHITECTURES
from cliprt_export._export import STEPS, export_checkpoint, export_random, read_certificate


@click.command()
@click.argument("checkpoint", required=False)
@click.option(
    "--out",
    "target",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder to write the bundle to.",
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
    revision: str | None,
    architecture: str | None,
    seed: int | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Turn CHECKPOINT into a bundle of ONNX towers.

    CHECKPOINT is a folder in Hugging Face format (config.json, model.safetensors or shards,
    tokenizer and preprocessor files) or a hub id such as openai/clip-vit-base-patch32. The towers
    are measured against the original weights before the bundle appears.

    With --random there is no CHECKPOINT: the bundle has the sizes of a published architecture and
    weights that mean nothing, for measuring speed.
    """
    if (checkpoint is None) == (architecture is None):
        raise click.UsageError("give either CHECKPOINT or --random ARCHITECTURE")
    if architecture is None and seed is not None:
        raise click.UsageError("--seed is for --random only")
    if architecture is not None and revision is not None:
        raise click.UsageError("--revision is for a CHECKPOINT on the hub only")
    with steps(STEPS) as on_step:
        if architecture is not None:
            bundle = export_random(
                architecture, target, seed=seed or 0, overwrite=overwrite, on_step=on_step
            )
        else:
            assert checkpoint is not None
            bundle = export_checkpoint(
                checkpoint, target, revision=revision, overwrite=overwrite, on_step=on_step
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
    for tower, precisions in certificate.towers.items():
        for precision, fidelity in precisions.items():
            console.print(
                f"{tower:<5} {precision}  cosine to the original weights >= "
                f"{fidelity.min_cosine:.7f}, largest difference {fidelity.max_abs_diff:.1e}"
            )
