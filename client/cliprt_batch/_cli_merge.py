"""``cliprt merge``."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from cliprt._console import out as console_of_results
from cliprt._progress import progress
from cliprt_batch._options import COMPUTE
from cliprt_batch._run_config import FOLDER


@click.command()
@click.argument(
    "folders",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
)
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder to make.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was made as JSON.")
def merge(folders: tuple[Path, ...], out: Path, as_json: bool) -> None:
    """Join the FOLDERs of `cliprt embed --shard I/N` into one.

    The result is, byte for byte, that of the undivided run. Files are checked against their hashes
    and hard linked, or copied to another file system; FOLDERs stay as they are. Where all shares
    wrote into one folder, the last one to end finishes it, and merging that folder into itself does
    if it was killed.
    """
    from cliprt_batch._merge import merge as join

    with progress("shards", None, show=not as_json) as advance:
        manifest = join(folders, out, on_shard=lambda done, of: advance(1))
    settings = [folder / FOLDER / COMPUTE for folder in folders]
    if len({path.read_bytes() for path in settings if path.exists()}) > 1:
        click.echo(
            "the shares were computed with different settings: numbers may differ in their last "
            "digits from those of an undivided run",
            err=True,
        )
    if as_json:
        summary = {
            "out": str(out),
            "items": manifest.items,
            "embedded": manifest.embedded,
            "failed": manifest.failed,
            "shards": len(manifest.shards),
        }
        click.echo(msgspec.json.encode(summary).decode())
        return
    failed = sum(manifest.failed.values())
    console_of_results().print(
        f"{out}: {len(manifest.shards)} shards, {manifest.embedded} items embedded, {failed} failed"
    )
