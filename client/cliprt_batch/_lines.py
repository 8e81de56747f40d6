"""Sources of one item a line: lists of paths or texts, JSON lines, and the frozen listing.

Blank lines are passed over in all of them. In a list of pictures so are lines that begin with
``#``; in a list of texts such a line is a text. Lines keep the numbers that they have in their
file.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from itertools import islice
from typing import IO, Literal, TypeAlias

import msgspec

from cliprt._errors import DeploymentError, InvalidInput
from cliprt._json import UnreadableJson, read_json
from cliprt_batch._addresses import NoSuchFile, joined, outside, read_text, scheme, shown_name
from cliprt_batch._fields import Chosen, Wanted, choose
from cliprt_batch._items import Item, Ref, Unit

Form: TypeAlias = Literal["paths", "texts", "text files", "objects"]
"""What a line is: the path of a picture, a text, the path of a text, or a JSON object."""

MAX_LINE = 8 * 2**20
"""Bytes of a line; a longer one is no item, and is never held in memory."""

MAX_TEXT_FILE = 2**20
"""Bytes of a text that has a file of its own."""

_BOM = b"\xef\xbb\xbf"

# Names of an object, and letters of them, up to which it is remembered what they mean.
_MOST_NAMES, _MOST_LETTERS = 200, 4000

# Texts that lie in a store: asked for together, as each takes the way to it and back.
_TOGETHER, _THREADS = 256, 16


class LineUnit(Unit, frozen=True):
    """Lines of a file, from byte ``start`` to byte ``end``.

    Attributes:
        line: number of the first one in its file, from 1 on.
    """

    line: int = 1


class Lines(msgspec.Struct, frozen=True):
    """How the lines of a source are to be understood.

    Attributes:
        form: what a line is.
        wanted: what is asked of each.
        base: the folder that relative paths start from.
        quoted: whether lines are JSON strings, as in a frozen listing.
        prefix: what comes before the number of a line where that is the key.
    """

    form: Form
    wanted: Wanted
    base: str
    quoted: bool = False
    prefix: str = ""


class Cutter:
    """Makes units of a file whose lines it is told of one after the other."""

    def __init__(self, address: str, stamp: str, size: int) -> None:
        """Starts at the beginning of a file.

        Args:
            address: the file.
            stamp: what it is like.
            size: items of a unit.
        """
        self._address, self._stamp, self._size, self._number = address, stamp, size, 0
        self._start = self._end = self._items = self._line = 0
        self._first_line = 1

    def add(self, length: int, *, counts: bool) -> LineUnit | None:
        """Takes a line of some bytes, which is an item or not; the unit that it completes."""
        self._line += 1
        self._end += length
        self._items += counts
        return self._cut() if self._items == self._size else None

    def rest(self) -> LineUnit | None:
        """The unit of the lines at the end, if there are any."""
        return self._cut() if self._items else None

    def _cut(self) -> LineUnit:
        unit = LineUnit(
            number=self._number,
            address=self._address,
            stamp=self._stamp,
            items=self._items,
            start=self._start,
            end=self._end,
            line=self._first_line,
        )
        self._number += 1
        self._start, self._items, self._first_line = self._end, 0, self._line + 1
        return unit


def lines_of(stream: IO[bytes], *, at_start: bool = True) -> Iterator[tuple[bytes, int]]:
    """Lines without their ends, and how long they are with them.

    Of a line that is too long MAX_LINE + 1 bytes are given. At the start of a file a byte order
    mark is left out.
    """
    while line := stream.readline(MAX_LINE + 1):
        length = len(line)
        if length > MAX_LINE:
            while not line.endswith(b"\n") and (more := stream.readline(MAX_LINE)):
                length += len(more)
                line = line[:MAX_LINE] + more[-1:]
        else:
            line = line.rstrip(b"\r\n")
        if at_start:
            line, at_start = line.removeprefix(_BOM), False
        yield line, length


def counts(line: bytes, form: Form) -> bool:
    """Whether a line is an item."""
    return not (line.isspace() or not line or (form == "paths" and line.startswith(b"#")))


def list_form(towers: tuple[str, ...]) -> Form:
    """What the lines of a list are."""
    return "paths" if "image" in towers else "texts"


def read_lines(
    stream: io.BufferedReader, unit: LineUnit, lines: Lines, start: int
) -> Iterator[Item]:
    """The items of a unit, from one of them on."""
    make = partial(_item, lines=lines)
    found = _counting(stream, unit, lines.form, start)
    if scheme(lines.base) and lines.form in ("paths", "text files"):
        return _together(make, found)
    return map(make, found)


def _counting(
    stream: io.BufferedReader, unit: LineUnit, form: Form, start: int
) -> Iterator[tuple[bytes, int]]:
    """The lines of a unit that are items, from one of them on, with their numbers."""
    stream.seek(unit.start)
    position, number, index = unit.start, unit.line - 1, 0
    for line, length in lines_of(stream, at_start=unit.start == 0):
        position += length
        number += 1
        if counts(line, form):
            if index >= start:
                yield line, number
            index += 1
        if position >= unit.end:
            return


def _together(
    make: Callable[[tuple[bytes, int]], Item], found: Iterator[tuple[bytes, int]]
) -> Iterator[Item]:
    with ThreadPoolExecutor(_THREADS) as pool:
        while some := list(islice(found, _TOGETHER)):
            yield from pool.map(make, some)


def _item(found: tuple[bytes, int], lines: Lines) -> Item:
    line, number = found
    place = f"{lines.prefix}{number}"
    if len(line) > MAX_LINE:
        return Item(place, fault=f"line {number} has more than {MAX_LINE:,} bytes")
    return _makers[lines.form](line, place, lines)


def quoted(name: str, *, with_text: bool = False) -> bytes:
    """A line of a listing: the name in JSON, in an array if a text is known to lie beside it.

    Bytes that are not UTF-8 are lone surrogates in it.
    """
    return json.dumps([name] if with_text else name).encode("ascii") + b"\n"


def _path(line: bytes, lines: Lines) -> tuple[str, bool]:
    """The path or text of a line, and whether a text is known to lie beside it.

    Bytes that are not UTF-8 are surrogates in it.
    """
    if not lines.quoted:
        return line.decode("utf-8", "surrogateescape"), False
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    with_text = isinstance(found, list) and len(found) == 1
    name = found[0] if with_text else found
    if not isinstance(name, str):
        raise DeploymentError(
            "the frozen listing of the source is damaged; begin anew in another folder"
        )
    return name, with_text


def _picture(line: bytes, place: str, lines: Lines) -> Item:
    name, with_text = _path(line, lines)
    address = joined(lines.base, name)
    refused = outside(address, lines.base)
    if refused is not None:
        return Item(shown_name(name), fault=refused)
    item = Item(shown_name(name), Ref(address), path=address)
    needed = "text" in lines.wanted.towers
    return _with_caption(item, address, needed=needed) if needed or with_text else item


def _text(line: bytes, place: str, lines: Lines) -> Item:
    text, _ = _path(line, lines)
    if shown_name(text) is not text:
        return Item(place, fault="the line is not UTF-8")
    return Item(place, caption=text)


def _text_file(line: bytes, place: str, lines: Lines) -> Item:
    name, _ = _path(line, lines)
    try:
        return Item(shown_name(name), caption=read_text(joined(lines.base, name), MAX_TEXT_FILE))
    except InvalidInput as error:
        return Item(shown_name(name), fault=error.reason)


def _object(line: bytes, place: str, lines: Lines) -> Item:
    try:
        found = read_json(line, object)
    except UnreadableJson as error:
        return Item(place, fault=f"the line is not JSON: {error}")
    if not isinstance(found, dict):
        return Item(place, fault=f"the line is no JSON object but {_kind(found)}")
    names = tuple(found)
    # What is remembered must not be as long as a line may be.
    short = len(names) <= _MOST_NAMES and sum(map(len, names)) <= _MOST_LETTERS
    chosen = _chosen(lines.wanted, names) if short else choose(lines.wanted, names, names, names)
    picture, text, key = (None if name is None else found.get(name) for name in chosen)
    if key is None or key == "":
        key = picture if isinstance(picture, str) and picture else place
    elif isinstance(key, (dict, list)):
        return Item(
            place, fault=f"{chosen.key!r} is {_kind(key)}, a key must be a text or a number"
        )
    key = shown_name(str(key))
    if picture is not None and not isinstance(picture, str):
        return Item(key, fault=f"{chosen.image!r} is {_kind(picture)}, it must be a path")
    needed = "text" in lines.wanted.towers
    if text is not None and not isinstance(text, str):
        if needed:
            return Item(key, fault=f"{chosen.text!r} is {_kind(text)}, it must be a text")
        # A picture does not fail for a text that is only kept beside it.
        text = None
    # Empty paths are none; an empty text is a text.
    if not picture:
        if text is None or not needed:
            return Item(key, fault=_missing(lines.wanted, found))
        return Item(key, caption=text)
    address = joined(lines.base, picture)
    refused = outside(address, lines.base)
    return Item(key, Ref(address), text, address) if refused is None else Item(key, fault=refused)


_makers: dict[Form, Callable[[bytes, str, Lines], Item]] = {
    "paths": _picture,
    "texts": _text,
    "text files": _text_file,
    "objects": _object,
}


@lru_cache(maxsize=256)
def _chosen(wanted: Wanted, names: tuple[str, ...]) -> Chosen:
    """Objects of one source mostly have the same names."""
    return choose(wanted, names, names, names)


def _missing(wanted: Wanted, found: dict[str, object]) -> str:
    what = " and no ".join({"image": "picture", "text": "text"}[one] for one in wanted.towers)
    named = f" under {', '.join(map(repr, wanted.names))}" if wanted.names else ""
    return f"the object has no {what}{named}; its names are {', '.join(map(repr, found))[:300]}"


def _kind(value: object) -> str:
    kinds: dict[type, str] = {
        dict: "an object",
        list: "an array",
        str: "a text",
        bool: "true or false",
        type(None): "null",
    }
    return kinds.get(type(value), "a number")


def _with_caption(item: Item, address: str, *, needed: bool) -> Item:
    """A picture with the text that lies beside it."""
    folder, slash, name = address.rpartition("/")
    stem, dot, _ = name.rpartition(".")
    try:
        text = read_text(f"{folder}{slash}{stem if dot else name}.txt", MAX_TEXT_FILE)
    except NoSuchFile:
        return item
    except InvalidInput as error:
        # A picture does not fail for a text that is only kept beside it.
        return Item(item.key, fault=f"its text: {error.reason}") if needed else item
    return msgspec.structs.replace(item, caption=text)
