"""What kind of source an address is, and the files that it consists of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from cliprt._errors import InvalidInput
from cliprt_batch._addresses import absolute, joined, parent, scheme, shown, shown_name, stamp
from cliprt_batch._folder import PICTURES, files, is_folder, top
from cliprt_batch._patterns import braces, is_pattern, matching

Kind: TypeAlias = Literal["auto", "folder", "list", "jsonl", "tar", "parquet", "stdin"]

STDIN = "-"

SUFFIXES: dict[Kind, frozenset[str]] = {
    "list": frozenset(["txt", "lst", "list"]),
    "jsonl": frozenset(["jsonl", "ndjson"]),
    "tar": frozenset(["tar", "tar.gz", "tgz"]),
    "parquet": frozenset(["parquet", "pq"]),
}
"""Suffixes of the files of each kind."""

_WITH_COLUMNS = ("jsonl", "parquet", "stdin")


@dataclass(frozen=True)
class Source:
    """What is to be embedded.

    Attributes:
        address: a folder, a file, several by ``{00..99}`` or wildcards, or ``-`` for the standard
            input; paths, or addresses of the stores in ``_stores.STORES``.
        kind: what it is; ``auto`` tells by the suffix. A folder is one of pictures, unless tars or
            Parquet files and no pictures lie directly in it; then it is the tars, or else the
            Parquet files, of the whole tree. The standard input has JSON objects if its first line
            begins with a brace, and paths (or texts) if not; ``list`` and ``jsonl`` decide that.
        image_column: name of the picture in JSON lines and Parquet; found where it is None.
        text_column: likewise of the text.
        key_column: likewise of the key. Without one the key is the path of the picture, or the
            place in the source.
    """

    address: str
    kind: Kind = "auto"
    image_column: str | None = None
    text_column: str | None = None
    key_column: str | None = None

    def describe(self) -> dict[str, str]:
        """What identifies the source: kind, absolute address, and the columns that were named.

        Raises:
            InvalidInput: there is no such source, or its options do not go together.
        """
        kind = resolved(self)
        address = self.address if self.address == STDIN else shown_name(absolute(self.address))
        columns = {
            "image_column": self.image_column,
            "text_column": self.text_column,
            "key_column": self.key_column,
        }
        given = {name: shown_name(value) for name, value in columns.items() if value is not None}
        return {"kind": kind, "address": address, **given}


def resolved(source: Source) -> Kind:
    """The kind of a source, by looking at it if need be.

    Raises:
        InvalidInput: there is no such source, or its options do not go together.
    """
    kind = _found(source)
    columns = (source.image_column, source.text_column, source.key_column)
    if any(column is not None for column in columns) and kind not in _WITH_COLUMNS:
        raise InvalidInput(
            "columns can be named in JSON lines and Parquet, the source "
            f"{shown(source.address)} is of the kind {kind!r}"
        )
    return kind


def files_of(source: Source, kind: Kind) -> tuple[list[str], str]:
    """The files of a source that consists of files, and the folder that holds all of them.

    Raises:
        InvalidInput: there is none.
    """
    if is_pattern(source.address):
        found = matching(source.address)
    else:
        address = absolute(source.address)
        if not is_folder(address):
            return [address], parent(address)
        found = [joined(address, name) for name in files(address, SUFFIXES[kind])]
        if found:
            return found, address
        raise InvalidInput(
            f"nothing to embed: the folder {shown(address)} holds no file named "
            f"{_named(SUFFIXES[kind])}"
        )
    return found, _common(found)


def _found(source: Source) -> Kind:
    kind, address = source.kind, source.address
    if kind not in get_args(Kind):
        raise InvalidInput(
            f"no such kind of source: {kind!r}; there are {', '.join(get_args(Kind))}"
        )
    if not address:
        raise InvalidInput("the source is empty; give a folder, a file, or - for standard input")
    if address == STDIN:
        if kind not in ("auto", "stdin", "list", "jsonl"):
            raise InvalidInput(f"the standard input cannot be a source of the kind {kind!r}")
        return "stdin"
    if kind == "stdin":
        raise InvalidInput(f"the standard input is given as {STDIN!r}, not as {shown(address)}")
    if is_pattern(address):
        # The first is as good as any; it need not be there.
        address = braces(address)[0]
    elif is_folder(absolute(address)):
        return _folder_kind(absolute(address)) if kind == "auto" else kind
    if kind == "folder":
        stamp(absolute(address))
        raise InvalidInput(f"{shown(address)} is a file, the kind {kind!r} needs a folder")
    if kind != "auto":
        return kind
    by_name = _by_name(address)
    if by_name is not None:
        return by_name
    # There may be nothing at all, which is said first.
    stamp(absolute(address))
    every = frozenset().union(*SUFFIXES.values())
    raise InvalidInput(
        f"{shown(address)} is of no known kind: a source is a folder of pictures, or a file named "
        f"{_named(every)}; name the kind if it has another suffix"
    )


def _folder_kind(address: str) -> Kind:
    kinds = set()
    for name in top(address):
        if name.lower().rpartition(".")[2] in PICTURES:
            return "folder"
        kinds.add(_by_name(name))
    return "tar" if "tar" in kinds else "parquet" if "parquet" in kinds else "folder"


def _by_name(name: str) -> Kind | None:
    for kind, suffixes in SUFFIXES.items():
        if name.lower().endswith(tuple(f".{suffix}" for suffix in suffixes)):
            return kind
    return None


def _common(addresses: list[str]) -> str:
    """The deepest folder that all files lie in."""
    first = parent(addresses[0]).split("/")
    length = len(first)
    for address in addresses[1:]:
        parts = parent(address).split("/")
        same = (one == other for one, other in zip(first, parts, strict=False))
        length = min(
            length, next((at for at, is_same in enumerate(same) if not is_same), len(parts))
        )
    return "/".join(first[:length]) or ("" if scheme(addresses[0]) else "/")


def _named(suffixes: frozenset[str]) -> str:
    return ", ".join(f"*.{suffix}" for suffix in sorted(suffixes))
