"""``cliprt dedup``."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from cliprt._console import out, print_table
from cliprt_batch._collection import Collection
from cliprt_batch._dedup import MOST, Group, Member, near_duplicates, seconds_for
from cliprt_batch._pictures import find_pictures
from cliprt_batch._results import write_result
from cliprt_batch._sheet import Card, Section, write_sheet
from cliprt_batch._words import in_a_line

_PATH = click.Path(path_type=Path)

# A run is announced that takes longer; whether it does is measured from so many pictures on.
_LONG_S, _LONG_FROM = 60.0, 50_000


class _Row(msgspec.Struct):
    """A line of the file of --out."""

    group: int
    keep: bool
    exact: bool
    nearest: float
    key: str
    image_path: str | None
    width: int | None
    height: int | None
    sha256: str | None
    shard: int
    row: int


@click.command()
@click.argument("folder", type=_PATH)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.98,
    show_default=True,
    help="Least cosine of two pictures that count as near-identical.",
)
@click.option(
    "--out",
    "target",
    type=_PATH,
    help="Write the groups, a row for each picture: a file .parquet or .jsonl.",
)
@click.option("--html", type=_PATH, help="Write a contact sheet of the first groups.")
@click.option(
    "--show",
    type=click.IntRange(min=0),
    default=50,
    show_default=True,
    help="Groups in the table and on the contact sheet.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=MOST,
    show_default=True,
    help="Refuse to compare more pictures than this.",
)
@click.option("--json", "as_json", is_flag=True, help="Print all groups as JSON.")
def dedup(
    folder: Path,
    threshold: float,
    target: Path | None,
    html: Path | None,
    show: int,
    limit: int,
    as_json: bool,
) -> None:
    """List near-identical pictures in FOLDER, made by 'cliprt embed'.

    Each group has one picture to keep, the largest, and its duplicates: those whose files are equal
    ("same bytes"), and those that look alike ("near"). A group is what pairs above the threshold
    connect, so two of its pictures may be less alike. Nothing is deleted.

    All pairs are compared: twice the pictures take four times as long. On two cores 100,000
    pictures take a minute or two, a million some two hours; the memory stays small. Faiss makes it
    faster where it is installed: pip install 'cliprt[faiss]'.

    \b
    cliprt dedup out --out duplicates.parquet --html duplicates.html
    """  # noqa: D301
    if target is not None and target.suffix not in (".parquet", ".jsonl"):
        raise click.UsageError(f"--out {target} must end with .parquet or .jsonl")
    collection = Collection(folder)
    collection.require_tower("image")
    if not as_json:
        _warn(collection, limit)
    groups = near_duplicates(collection, threshold, most=limit, show_progress=sys.stderr.isatty())
    if target is not None:
        _write(target, groups)
    if html is not None:
        _sheet(html, groups[:show], len(groups), threshold, collection)
    if as_json:
        result = {"threshold": threshold, "items": collection.rows, "groups": groups}
        click.echo(msgspec.json.encode(result).decode())
    else:
        _print(groups, show, collection, [path for path in (target, html) if path is not None])


def _warn(collection: Collection, limit: int) -> None:
    """Says how long it will take where that is long."""
    if not _LONG_FROM < collection.rows <= limit:
        return
    seconds = seconds_for(collection.rows, collection.manifest.dim)
    if seconds > _LONG_S:
        minutes = max(1, round(seconds / 60))
        took = f"{minutes} min" if minutes < 120 else f"{minutes / 60:.0f} h"
        click.echo(f"comparing all pairs of {collection.rows:,} pictures: about {took}", err=True)


def _print(groups: list[Group], show: int, collection: Collection, written: list[Path]) -> None:
    rows = [
        (
            str(number) if keep else "",
            "keep" if keep else "same bytes" if member.exact else "near",
            f"{member.nearest:.4f}",
            _size(member),
            in_a_line(member.key),
        )
        for number, group in enumerate(groups[:show], start=1)
        for keep, member in _members(group)
    ]
    if rows:
        print_table(("group", "what", "nearest", "size", "key"), rows)
    console = out()
    if 0 < show < len(groups):
        console.print(f"and {len(groups) - show:,} more groups (--show, --out, --json)")
    duplicates = sum(len(group.duplicates) for group in groups)
    exact = sum(member.exact for group in groups for member in group.duplicates)
    console.print(
        f"{duplicates:,} of {collection.rows:,} pictures are duplicates, in {len(groups):,} "
        f"groups; {exact:,} have the same bytes as another"
    )
    for path in written:
        console.print(f"written: {path}")


def _write(path: Path, groups: list[Group]) -> None:
    rows = (
        _Row(number, keep, **{name: getattr(member, name) for name in _Row.__struct_fields__[2:]})
        for number, group in enumerate(groups, start=1)
        for keep, member in _members(group)
    )
    if path.suffix == ".jsonl":
        write_result(path, msgspec.json.Encoder().encode_lines(list(rows)))
    else:
        write_result(path, _parquet([msgspec.to_builtins(row) for row in rows]))


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {int: pa.int64(), bool: pa.bool_(), float: pa.float64(), str: pa.string()}
    kinds = {
        "keep": bool, "exact": bool, "nearest": float, "key": str, "image_path": str, "sha256": str
    }  # fmt: skip
    schema = pa.schema([(name, types[kinds.get(name, int)]) for name in _Row.__struct_fields__])
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), buffer)
    return buffer.getvalue()


def _sheet(
    path: Path, shown: list[Group], count: int, threshold: float, collection: Collection
) -> None:
    members = [member for group in shown for _, member in _members(group)]
    pictures = iter(find_pictures(collection.folder, members))
    sections = [
        Section(
            f"group {number}: {len(group.duplicates) + 1} pictures",
            [
                Card(
                    key=member.key,
                    picture=next(pictures),
                    badge="keep" if keep else "same bytes" if member.exact else _cosine(member),
                    text=member.caption,
                    note=_size(member),
                    marked=keep,
                )
                for keep, member in _members(group)
            ],
        )
        for number, group in enumerate(shown, start=1)
    ]
    some = f"the first {len(shown)} of " if len(shown) < count else ""
    write_sheet(
        path,
        title=f"Near-identical pictures in {collection.folder.name}",
        subtitle=f"{some}{count:,} groups among {collection.rows:,} pictures; a cosine of "
        f"{threshold:g} or more with at least one other, by the model {collection.manifest.model}",
        sections=sections,
    )


def _cosine(member: Member) -> str:
    return f"cosine {member.nearest:.4f}"


def _members(group: Group) -> Iterator[tuple[bool, Member]]:
    yield True, group.representative
    for member in group.duplicates:
        yield False, member


def _size(member: Member) -> str:
    return f"{member.width} x {member.height}" if member.width and member.height else ""
