"""``cliprt convert``."""

from __future__ import annotations

from pathlib import Path

import click

from cliprt._console import out
from cliprt_export._convert import convert_checkpoint


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "--out",
    "target",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder to write the checkpoint to.",
)
def convert(source: Path, target: Path) -> None:
    """Turn pickled weights into a checkpoint in safetensors.

    SOURCE is a .bin, .pt, .pth or .ckpt file, or a folder with pytorch_model.bin, its shards,
    open_clip_pytorch_model.bin, or one such file. The configuration and tokenizer files beside it
    are copied. Needs torch; nothing that a pickle holds is run.
    """
    console = out()
    console.print(f"checkpoint  {convert_checkpoint(source, target)}")
    console.print(f"next        cliprt export {target} --out BUNDLE")
