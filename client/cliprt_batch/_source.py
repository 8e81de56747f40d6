"""What is to be embedded: listed once, frozen as a plan, and read from the plan ever after.

A plan is two files in a folder. ``plan.jsonl`` has a header and then a line for each unit.
``listing.jsonl`` is there where the source itself cannot be kept: the names that a folder had, and
what came through the standard input. ``plan.jsonl`` is written last, so where it is, all is.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO

import msgspec

from cliprt._errors import DeploymentError, InvalidInput
from cliprt_batch._addresses import (
    absolute,
    open_stream,
    reason,
    scheme,
    shown,
    stamp,
)
from cliprt_batch._disk import sync_folder
from cliprt_batch._fields import Wanted
from cliprt_batch._folder import PICTURES, TEXTS, files_with_texts
from cliprt_batch._items import Unit
from cliprt_batch._kinds import Kind, Source, files_of, resolved
from cliprt_batch._lines import (
    Cutter,
    Form,
    LineUnit,
    counts,
    lines_of,
    list_form,
    quoted,
)
from cliprt_batch._parquet import parquet_units
from cliprt_batch._plan import (
    LISTING,
    PLAN,
    VERSION,
    Header,
    Plan,
    SourceChanged,
    listing_stamp,
    local_address,
    open_plan,
)
from cliprt_batch._stdin import from_stdin

__all__ = [
    "LISTING",
    "PLAN",
    "Plan",
    "Source",
    "SourceChanged",
    "check_plan",
    "make_plan",
    "open_plan",
]

# How often the caller hears of items that were listed.
_TOLD = 1000

# Files of a store that are asked for at the same time.
_THREADS = 16

# Files whose stamps are compared before a run goes on; changes of them that are told.
_CHECKED, _SHOWN = 1000, 3

Advance = Callable[[int], None]


def make_plan(
    source: Source, folder: Path, *, towers: tuple[str, ...], shard_size: int, advance: Advance
) -> None:
    """Lists a source and writes the plan of reading it.

    Args:
        source: what to list.
        folder: where the plan goes; one that is there is replaced.
        towers: which embeddings are asked for: ``image``, ``text`` or both. A folder or a list
            gives pictures, with the text of a ``.txt`` beside each (of a list only where the
            text tower is asked for too); for the text tower alone a folder gives its ``.txt``
            files, a list its lines. Texts of other sources are given in any case.
        shard_size: items of a unit; a tar is one unit whatever it holds.
        advance: called with the number of items that were listed since the last call; of tars,
            whose items are not known, with that of the files.

    Raises:
        InvalidInput: there is no such source, or nothing in it to embed.
        DeploymentError: the plan cannot be written, or the source needs a missing package.
    """
    if not towers or set(towers) - {"image", "text"} or shard_size < 1:
        raise InvalidInput(f"towers {towers!r} and shard_size {shard_size!r} cannot be planned")
    kind = resolved(source)
    wanted = Wanted(towers, source.image_column, source.text_column, source.key_column)
    header = Header(VERSION, source.describe(), kind, None, wanted, shard_size, base="")
    if kind in ("folder", "stdin"):
        header, units = _freeze(source, header, folder, advance)
    else:
        addresses, base = files_of(source, kind)
        form: Form = "objects" if kind == "jsonl" else list_form(towers)
        header = msgspec.structs.replace(
            header,
            base=base,
            files=len(addresses),
            form=None if kind in ("tar", "parquet") else form,
        )
        units = [
            msgspec.structs.replace(unit, number=number)
            for number, unit in enumerate(_units(addresses, header, advance))
        ]
        filled = {unit.address for unit in units}
        empty = {address: stamp(address) for address in addresses if address not in filled}
        header = msgspec.structs.replace(header, empty=empty)
    if not units:
        raise InvalidInput(f"nothing to embed: {shown(source.address)} holds no items")
    with _becoming(folder / PLAN) as file:
        for record in (header, *units):
            file.write(msgspec.json.encode(record) + b"\n")


def check_plan(source: Source, plan: Plan) -> None:
    """Compares a source with the plan that was made of it, before a run goes on with the plan.

    The files of a pattern or a folder must be those that were planned, and of the first thousand
    the stamps; every file is compared when a unit of it is read, which those of finished units are
    not. What comes through the standard input is read to its end, unless it is a terminal, and
    must be what was listed; where nothing comes, the run goes on with the listing. A folder of
    pictures is not listed again: files that came later are not in the plan, and those that went
    fail when they are read.

    Args:
        source: as it was when the plan was made.
        plan: that was made.

    Raises:
        SourceChanged: it is another one; what differs is named.
        DeploymentError: a store cannot be opened.
    """
    header = plan.header
    if header.kind == "stdin":
        changes = _other_input(source, plan)
    elif header.kind == "folder":
        changes = []
    else:
        changes = _other_files(source, header.kind, plan)
    if changes:
        more = f", and {len(changes) - _SHOWN:,} more changes" if len(changes) > _SHOWN else ""
        raise SourceChanged(
            f"the source has changed since the run was planned: {'; '.join(changes[:_SHOWN])}"
            f"{more}. Bring it back, or choose another --out"
        )


def _other_input(source: Source, plan: Plan) -> list[str]:
    # No process has to have a standard input.
    stream: IO[str] | None = sys.stdin
    if stream is None or stream.closed or stream.isatty():
        return []
    header = plan.header
    form, content = from_stdin(source.kind, header.wanted.towers)
    digest = hashlib.sha256()
    items = 0
    for line in content:
        digest.update(line)
        items += line != b"\n"
    if not items or (form == header.form and digest.hexdigest() == header.listing_sha256):
        return []
    return [
        f"the standard input has other lines ({items:,} items) than those that were listed "
        f"({plan.items:,} items); without any, the run goes on with what was listed"
    ]


def _other_files(source: Source, kind: Kind, plan: Plan) -> list[str]:
    planned = {unit.address: unit.stamp for unit in plan.units} | plan.header.empty
    try:
        found = set(files_of(source, kind)[0])
    except InvalidInput as error:
        return [error.reason]
    gone = [f"{shown(address)} is not there" for address in planned if address not in found]
    new = [f"{shown(address)} is new" for address in sorted(found - planned.keys())]

    def change(address: str) -> str | None:
        try:
            now = stamp(address)
        except InvalidInput as error:
            return error.reason
        if now == planned[address]:
            return None
        return f"{shown(address)} was {planned[address]}, and is {now}"

    checked = [address for address in planned if address in found][:_CHECKED]
    with ThreadPoolExecutor(_THREADS) as pool:
        changed = [text for text in pool.map(change, checked) if text is not None]
    return [*changed, *gone, *new]


def _units(addresses: list[str], header: Header, advance: Advance) -> Iterator[Unit]:
    """The units of files, in their order; numbers are those within each file."""
    size, wanted, form = header.shard_size, header.wanted, header.form
    if form is not None:
        for address in addresses:
            yield from _line_units(address, form, size, advance)
        return
    # On this machine the disk is the bound, in a store the way there.
    with ThreadPoolExecutor(_THREADS if scheme(addresses[0]) else 1) as pool:
        if header.kind == "tar":
            for address, found in zip(addresses, pool.map(stamp, addresses), strict=True):
                advance(1)
                yield Unit(0, address, found, None)
            return
        for units in pool.map(partial(parquet_units, wanted=wanted, size=size), addresses):
            for unit in units:
                advance(unit.items or 0)
                yield unit


def _line_units(address: str, form: Form, size: int, advance: Advance) -> Iterator[LineUnit]:
    stream, found = open_stream(address)
    cutter = Cutter(address, found, size)
    with stream:
        for line, length in lines_of(stream):
            unit = cutter.add(length, counts=counts(line, form))
            if unit is not None:
                advance(size)
                yield unit
    last = cutter.rest()
    if last is not None:
        advance(last.items or 0)
        yield last


def _freeze(
    source: Source, header: Header, folder: Path, advance: Advance
) -> tuple[Header, list[Unit]]:
    """Writes the listing of a folder or the standard input."""
    content: Iterator[bytes]
    if header.kind == "folder":
        base = absolute(source.address)
        form: Form = "paths" if "image" in header.wanted.towers else "text files"
        names = files_with_texts(base, PICTURES if form == "paths" else TEXTS)
        pictures = form == "paths"
        content = (quoted(name, with_text=pictures and with_text) for name, with_text in names)
    else:
        base = local_address(Path.cwd())
        form, content = from_stdin(source.kind, header.wanted.towers)
    cutter = Cutter(LISTING, "", header.shard_size)
    units: list[LineUnit] = []
    digest = hashlib.sha256()
    length = told = items = 0
    with _becoming(folder / LISTING) as file:
        for line in content:
            file.write(line)
            digest.update(line)
            length += len(line)
            is_item = line != b"\n"
            items += is_item
            unit = cutter.add(len(line), counts=is_item)
            if unit is not None:
                units.append(unit)
            if items - told >= _TOLD:
                advance(items - told)
                told = items
        last = cutter.rest()
        if last is not None:
            units.append(last)
        if not units:
            suffixes = ", ".join(sorted(PICTURES if form == "paths" else TEXTS))
            raise InvalidInput(
                "nothing to embed: the standard input is empty"
                if header.kind == "stdin"
                else f"nothing to embed: the folder {shown(base)} holds no file with one of the "
                f"suffixes {suffixes}"
            )
    advance(items - told)
    header = msgspec.structs.replace(
        header,
        form=form,
        base=base,
        listing_bytes=length,
        listing_sha256=digest.hexdigest(),
    )
    stamped = listing_stamp(length)
    return header, [msgspec.structs.replace(unit, stamp=stamped) for unit in units]


@contextmanager
def _becoming(path: Path) -> Iterator[IO[bytes]]:
    """A file that appears whole, and on the disk, or not at all."""
    # Always the same name: a run that was killed leaves one at most.
    temporary = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise DeploymentError(f"{path} cannot be written: {reason(error)}") from None
    finally:
        with suppress(OSError):
            temporary.unlink()
