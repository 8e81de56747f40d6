"""A plan as it lies in a folder, and how the items of its units are read."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cliprt._errors import DeploymentError, InvalidInput
from cliprt._json import UnreadableJson, read_json
from cliprt_batch._addresses import address_of, open_stream, parent, reason, scheme, shown
from cliprt_batch._fields import Wanted
from cliprt_batch._items import Item, Unit
from cliprt_batch._kinds import Kind
from cliprt_batch._lines import Form, Lines, LineUnit, read_lines
from cliprt_batch._parquet import read_parquet
from cliprt_batch._tars import read_tar

VERSION = 1

PLAN, LISTING = "plan.jsonl", "listing.jsonl"


class SourceChanged(DeploymentError):
    """A file of the source is not the one that was planned."""


class Header(msgspec.Struct, frozen=True):
    """What holds for all units of a plan.

    Attributes:
        cliprt_plan: version of the format.
        source: what identifies the source.
        kind: of the source.
        form: what a line is, in sources of lines.
        wanted: what is asked of each item.
        shard_size: items of a unit, where that can be chosen.
        base: the folder that keys, and the paths of a frozen listing, start from.
        files: how many files the units lie in.
        empty: stamps of files that no unit lies in, by their addresses.
        listing_bytes: length of the frozen listing; None where there is none.
        listing_sha256: of the frozen listing.
    """

    cliprt_plan: int
    source: dict[str, str]
    kind: Kind
    form: Form | None
    wanted: Wanted
    shard_size: int
    base: str
    files: int = 1
    empty: dict[str, str] = {}
    listing_bytes: int | None = None
    listing_sha256: str | None = None


@dataclass(frozen=True)
class Plan:
    """The units of a source, and how to read them.

    Attributes:
        units: in the order of their numbers.
        items: how many they hold together; None where only reading tells.
        sha256: of ``plan.jsonl``, which holds that of the listing: the same on every machine that
            sees the same files at the same place.
        header: what holds for all units.
    """

    units: list[Unit]
    items: int | None
    sha256: str
    header: Header
    _folder: Path

    def read(self, unit: Unit, start: int = 0) -> Iterator[Item]:
        """The items of a unit in their order, read as they are asked for.

        What cannot be an item is one with a fault. Where both towers are asked for and a source has
        only a picture or only a text for an item, the other is None.

        Args:
            unit: one of this plan.
            start: the first item that is given, counted from 0 in the unit.

        Raises:
            SourceChanged: its file is not the one that was planned.
            DeploymentError: its file cannot be read on.
        """
        unit = self.units[unit.number]
        stream = self._opened(unit)
        with stream:
            yield from self._items(stream, unit, start)
        # Pictures of a tar are read by others, from where they were found to lie.
        if self.header.listing_bytes is None and not scheme(unit.address):
            self._opened(unit).close()

    def _items(self, stream: io.BufferedReader, unit: Unit, start: int) -> Iterator[Item]:
        header = self.header
        name = unit.address.removeprefix(header.base).lstrip("/")
        if header.kind == "tar":
            return read_tar(stream, unit, name, header.wanted, start)
        if header.kind == "parquet":
            folder = parent(unit.address)
            return read_parquet(stream, unit, name, folder, header.wanted, start)
        assert isinstance(unit, LineUnit)
        assert header.form is not None
        frozen = header.listing_bytes is not None
        lines = Lines(
            header.form,
            header.wanted,
            base=header.base if frozen else parent(unit.address),
            quoted=frozen and header.form != "objects",
            # Numbers of lines alone would be the same in every file.
            prefix="" if header.files == 1 else f"{name}/",
        )
        return read_lines(stream, unit, lines, start)

    def _opened(self, unit: Unit) -> io.BufferedReader:
        """The file of a unit.

        Raises:
            SourceChanged: it is not the one that was planned.
        """
        if self.header.listing_bytes is not None:
            try:
                stream, _ = open_stream(local_address(self._folder / LISTING))
            except InvalidInput as error:
                raise SourceChanged(f"the listing of the source is lost: {error.reason}") from None
            now = listing_stamp(stream.seek(0, os.SEEK_END))
        else:
            try:
                stream, now = open_stream(unit.address)
            except InvalidInput as error:
                raise SourceChanged(
                    f"{error.reason}; it was there when the run was planned ({unit.stamp})"
                ) from None
        if now != unit.stamp:
            stream.close()
            raise SourceChanged(
                f"{shown(unit.address)} is not what was planned: it was {unit.stamp}, and is "
                f"{now}; bring it back, or begin anew in another folder"
            )
        stream.seek(0)
        return stream


def open_plan(folder: Path) -> Plan:
    """Reads a plan.

    Raises:
        DeploymentError: there is none, or it is damaged or of another version.
    """
    path = folder / PLAN
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DeploymentError(f"the plan {path} cannot be read: {reason(error)}") from None
    first, *rest = data.splitlines() or [b""]
    try:
        header = read_json(first, Header)
        kind: type[Unit] = Unit if header.form is None else LineUnit
        units = [read_json(line, kind) for line in rest]
    except UnreadableJson as error:
        raise DeploymentError(f"the plan {path} is damaged: {error}; begin anew") from None
    if header.cliprt_plan != VERSION:
        raise DeploymentError(
            f"the plan {path} is of version {header.cliprt_plan}, this cliprt has {VERSION}"
        )
    if [unit.number for unit in units] != list(range(len(units))):
        raise DeploymentError(f"the plan {path} is damaged: units are missing; begin anew")
    known = [unit.items for unit in units if unit.items is not None]
    items = sum(known) if len(known) == len(units) else None
    return Plan(units, items, hashlib.sha256(data).hexdigest(), header, folder)


def listing_stamp(length: int) -> str:
    """The stamp of a frozen listing."""
    return f"size={length}"


def local_address(path: Path) -> str:
    """The address of a path of this machine."""
    return address_of(os.fsencode(path.absolute()))
