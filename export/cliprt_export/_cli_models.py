"""``cliprt models``."""

from __future__ import annotations

import json
import sys

import click
from rich.table import Table

from cliprt._console import out
from cliprt_export._families import FAMILIES


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def models(as_json: bool) -> None:
    """List the checkpoint families that can be exported.

    With each: which variants of it are supported, and what the tests compare them with.
    """
    entries = [
        {key: getattr(family, key) for key in ("name", "title", "variants", "verified")}
        for family in FAMILIES
    ]
    if as_json:
        click.echo(json.dumps(entries, ensure_ascii=False))
        return
    console = out()
    if sys.stdout.isatty():
        table = Table("family", "checkpoints", "variants", "verified against", show_lines=True)
        for entry in entries:
            table.add_row(*entry.values())
        console.print(table)
        return
    for entry in entries:
        console.print(f"{entry['name']}  {entry['title']}")
        console.print(f"  variants          {entry['variants']}")
        console.print(f"  verified against  {entry['verified']}")
