"""What a source gives: items, and the units that its items are counted and shared out in."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

Stage: TypeAlias = Literal["source", "read", "decode", "text", "encode"]
"""Where an item failed: it was no item, its bytes could not be had, they are no picture, the
caption is no text that can be embedded, or the tower refused it."""


class Ref(msgspec.Struct, frozen=True):
    """Where bytes lie.

    Attributes:
        address: absolute path of a file, or its fsspec address (``s3://bucket/key``).
        offset: of the first byte.
        length: bytes; None means up to the end of the file.
    """

    address: str
    offset: int = 0
    length: int | None = None


class Item(msgspec.Struct, frozen=True):
    """One thing to embed.

    Attributes:
        key: its name in the source, unique where the source's keys are.
        image: the encoded picture, or where it lies; None where there is none.
        caption: its text; None where there is none.
        path: what the metadata name as the picture's place; None where it has no place of its own.
        fault: why the source cannot give this item; the rest of it does not count then.
    """

    key: str
    image: Ref | bytes | None = None
    caption: str | None = None
    path: str | None = None
    fault: str | None = None


class Unit(msgspec.Struct, frozen=True):
    """A piece of a source that is read in one go, and becomes one shard of the output.

    Attributes:
        number: from 0 on; the shards are numbered alike.
        address: the file that it lies in.
        stamp: what that file was like when the plan was made, to see that it has not changed.
        items: how many it holds; None where only reading tells.
        start: where it begins, in the source's own terms (a byte, a row).
        end: where it ends, likewise.
    """

    number: int
    address: str
    stamp: str
    items: int | None
    start: int = 0
    end: int = 0
