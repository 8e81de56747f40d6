"""Sources for tests of batch runs: written to a folder or to fsspec's store in memory."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from cliprt_batch._addresses import read_bytes
from cliprt_batch._items import Item, Ref
from cliprt_batch._source import Plan, Source, make_plan, open_plan

LIMIT = 2**20


def put(root: str, name: str, content: bytes | str) -> str:
    """Writes a file below a root, and gives its address."""
    address = f"{root}/{name}"
    data = content.encode() if isinstance(content, str) else content
    if "://" in root:
        with fsspec.open(address, "wb") as file:
            file.write(data)
    else:
        Path(address).parent.mkdir(parents=True, exist_ok=True)
        Path(address).write_bytes(data)
    return address


def planned(
    source: Source | str,
    folder: Path,
    towers: tuple[str, ...] = ("image",),
    shard_size: int = 3,
    advanced: list[int] | None = None,
) -> Plan:
    """A plan that was written and read again."""
    if isinstance(source, str):
        source = Source(source)
    told = [] if advanced is None else advanced
    make_plan(source, folder, towers=towers, shard_size=shard_size, advance=told.append)
    return open_plan(folder)


def items_of(plan: Plan) -> list[Item]:
    """All items, in the order of the source."""
    return [item for unit in plan.units for item in plan.read(unit)]


def keys_of(plan: Plan) -> list[str]:
    return [item.key for item in items_of(plan)]


def content(item: Item) -> bytes | None:
    """The picture of an item, read if it lies somewhere."""
    return read_bytes(item.image, LIMIT) if isinstance(item.image, Ref) else item.image


def tar(members: Iterable[tuple[str, bytes]], *, packed: bool = False, **options: Any) -> bytes:
    """A tar of files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", **options) as file:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return gzip.compress(out.getvalue(), mtime=0) if packed else out.getvalue()


def samples(count: int, size: int = 700) -> list[tuple[str, bytes]]:
    """Members of a webdataset: a picture and a caption of each sample."""
    return [
        member
        for number in range(count)
        for member in (
            (f"{number:04}.jpg", bytes([number % 256]) * size),
            (f"{number:04}.txt", f"picture {number}".encode()),
        )
    ]


def parquet(columns: Mapping[str, Any], **options: Any) -> bytes:
    """A Parquet file."""
    out = io.BytesIO()
    pq.write_table(pa.table(dict(columns)), out, **options)
    return out.getvalue()
