"""Where the pictures of a finished folder lie: in files of their own, or within the source."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from cliprt._errors import CliprtError
from cliprt._limits import Limits
from cliprt_batch._addresses import address_of, local_path, read_bytes, scheme
from cliprt_batch._collection import Entry
from cliprt_batch._items import Item, Ref
from cliprt_batch._plan import Plan, open_plan
from cliprt_batch._run_config import FOLDER


def find_pictures(folder: Path, entries: Sequence[Entry]) -> list[Ref | bytes | None]:
    """Where the pictures of some items lie, or what they are.

    Those without a place of their own, in tars and in columns of bytes, are looked for in the files
    that the folder's plan names, up to the last one that is wanted. Files of stores are not: to
    find one picture in a tar, all before it would be fetched.

    Args:
        folder: what ``cliprt embed`` made.
        entries: of it.

    Returns:
        For each; None where it cannot be had.
    """
    found: list[Ref | bytes | None] = [None] * len(entries)
    within: dict[int, list[int]] = {}
    for index, entry in enumerate(entries):
        if entry.image_path is None:
            within.setdefault(entry.shard, []).append(index)
        else:
            found[index] = place_of(entry.image_path)
    if not within:
        return found
    try:
        plan = open_plan(folder / FOLDER)
    except CliprtError:  # it was deleted, as it may be
        return found
    for shard, indexes in within.items():
        for index, picture in _within(plan, shard, {index: entries[index] for index in indexes}):
            found[index] = picture
    return found


def place_of(place: str | Path) -> Ref | None:
    """A picture in a file of its own.

    Metadata name places that whoever made the source has chosen.

    Args:
        place: an absolute path or an address; a Path is the user's own and may be relative.

    Returns:
        None if metadata name no place: a relative path (to nobody knows what), or no path at all.
    """
    if isinstance(place, Path):
        # Not abspath of a string: a path may have bytes that are not UTF-8.
        return Ref(address_of(os.path.abspath(os.fsencode(place))))  # noqa: PTH100 - of bytes
    try:
        known = bool(scheme(place)) or local_path(place).startswith(b"/")
    except ValueError:
        return None
    return Ref(place) if known else None


def _within(plan: Plan, shard: int, wanted: dict[int, Entry]) -> Iterator[tuple[int, Ref | bytes]]:
    """Pictures of one shard, by the numbers of their entries, as far as they can be had."""
    try:
        unit = plan.units[shard]
        if scheme(unit.address):
            return
        # An item stands in the source where its row is, or behind that by those that failed.
        for item in plan.read(unit, min(entry.row for entry in wanted.values())):
            for index, entry in list(wanted.items()):
                if entry.key == item.key and (picture := _same(item, entry)) is not None:
                    yield index, picture
                    del wanted[index]
            if not wanted:
                return
    # The source is another one by now, or cannot be read on.
    except (CliprtError, IndexError):
        return


def _same(item: Item, entry: Entry) -> Ref | bytes | None:
    """The picture of an item if it is the one that was embedded: keys may come twice."""
    if item.image is None or entry.sha256 is None:
        return item.image
    data = item.image
    if isinstance(data, Ref):
        data = read_bytes(data, Limits().max_image_bytes)
    return item.image if hashlib.sha256(data).hexdigest() == entry.sha256 else None
