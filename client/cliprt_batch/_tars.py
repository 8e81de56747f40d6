"""webdataset's tars: consecutive members with the same name up to its first dot are a sample."""

from __future__ import annotations

import contextlib
import gzip
import io
import re
import struct
import tarfile
import zlib
from collections.abc import Container, Iterator

from cliprt._errors import CliprtError
from cliprt._json import UnreadableJson, one_line, read_json
from cliprt_batch._addresses import scheme, shown, shown_name
from cliprt_batch._fields import Wanted, choose
from cliprt_batch._folder import PICTURES
from cliprt_batch._items import Item, Ref, Unit

MAX_MEMBER = 256 * 2**20
"""Bytes of a picture that is read in passing; one in a plain tar is left where it lies."""

MAX_TEXT = 16 * 2**20
"""Bytes of a text, or of a JSON object with one."""

_TEXTS = ("txt", "caption")
MAX_HEADER = 2**20
"""Bytes of what describes a member: long names, and the records of pax headers."""

# Headers that describe one member; bytes of those that describe all, which are gone through anew
# for each; and of a member, beyond which file systems refuse to seek.
_MAX_HEADERS, _MAX_SHARED, _MAX_SIZE = 16, 2**16, 2**43

_NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.DOTALL)
_META = re.compile(r"(?:^|/)__[^/]*__(?:$|/|\.)")
_DAMAGE = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile)
_GZIP = b"\x1f\x8b"
# Texts in a JSON object come after those in a file of their own.
_JSON_RANK = 3
_SHOWN = 20
# What tarfile takes for the end of a tar, and is.
_ENDS = (tarfile.EmptyHeaderError, tarfile.EOFHeaderError)  # type: ignore[attr-defined]
# What tarfile raises besides where a header holds what no writer puts there.
_NONSENSE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, struct.error)
# Long names and links, pax records of one member and of all.
_DESCRIPTIONS = (b"L", b"K", b"x", b"g", b"X")


class _Tar(tarfile.TarFile):
    """A tar whose headers may be made to do harm.

    Attributes:
        headers: how many headers that describe the next member have been read.
        described: bytes of them.
        shared: bytes of those that describe all members.
    """

    headers = described = shared = 0


class _Member(tarfile.TarInfo):
    """A member of a tar that does not end at a damaged header as if that were its end.

    tarfile believes sizes: it reads a name of as many bytes as its header says, goes back where a
    size is negative, and calls itself for each header that describes another.
    """

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> _Member:
        begin = tarfile_.offset
        try:
            with _parsing("header"):
                member = super().fromtarfile(tarfile_)
        except tarfile.HeaderError as error:
            if isinstance(error, _ENDS):
                raise
            raise tarfile.ReadError(str(error)) from None
        # A pax record may have given it another size.
        _check_size(member.size)
        if tarfile_.offset <= begin:
            raise tarfile.ReadError("a header leads back to what was read")
        return member

    def _proc_member(self, tarfile_: _Tar) -> _Member:
        """Where tarfile lets others read a member in their own way."""
        _check_size(self.size)
        if self.type in _DESCRIPTIONS:
            tarfile_.headers += 1
            tarfile_.described += self.size
            tarfile_.shared += self.size if self.type == b"g" else 0
            if (
                tarfile_.headers > _MAX_HEADERS
                or tarfile_.described > MAX_HEADER
                or tarfile_.shared > _MAX_SHARED
            ):
                raise tarfile.ReadError("more describes a member than any writer would put there")
        return super()._proc_member(tarfile_)  # type: ignore[misc,no-any-return]


@contextlib.contextmanager
def _parsing(what: str) -> Iterator[None]:
    """Whatever tarfile raises over nonsense is damage."""
    try:
        yield
    except CliprtError:
        raise
    except _NONSENSE as error:
        raise tarfile.ReadError(f"bad {what} ({one_line(error)})") from None


def _check_size(size: int) -> None:
    if not 0 <= size <= _MAX_SIZE:
        raise tarfile.ReadError("a member has a size that no file has")


def read_tar(
    stream: io.BufferedReader, unit: Unit, name: str, wanted: Wanted, start: int
) -> Iterator[Item]:
    """The samples of a tar, from one of them on.

    A damaged tar gives the samples before the damage, and one item that says where it is. The last
    sample before it may lack members; that item stands for it.

    Args:
        stream: the tar, or the tar in a gzip.
        unit: whose it is.
        name: what it is called in keys.
        wanted: what is asked of each sample.
        start: the first sample that is given.
    """
    packed = stream.peek(2)[:2] == _GZIP
    source = gzip.GzipFile(fileobj=stream) if packed else stream
    place, number = 0, 0
    sample: _Sample | None = None
    try:
        tar = _Tar.open(fileobj=source, mode="r:", tarinfo=_Member)
        while member := tar.next():
            place = member.offset
            tar.headers = tar.described = 0
            # It keeps all that it has seen.
            tar.members.clear()  # type: ignore[attr-defined]
            match = _NAME.fullmatch(member.name)
            if not (member.isreg() and match) or _META.search(member.name):
                continue
            if sample is None or sample.name != match[1]:
                if sample is not None:
                    if number >= start:
                        yield sample.item()
                    number += 1
                sample = _Sample(f"{name}/{shown_name(match[1])}", match[1], unit, wanted)
            # What is packed is read whatever the start is, so that damage is met at the same place.
            if packed or number >= start:
                sample.add(tar, member, match[2].lower(), packed=packed)
            place = tar.offset
        if sample is not None and number >= start:
            yield sample.item()
    except _DAMAGE as error:
        if number < start:
            return
        # The sample that was under way is part of the damage.
        yield Item(
            name if sample is None else sample.key,
            fault=f"the tar {shown(unit.address)} is damaged or cut off at byte {place:,}"
            f"{' of its content' if packed else ''}; nothing from there on can be read: "
            f"{one_line(error)}",
        )


class _Sample:
    """Members that belong together; of each kind the best is kept."""

    def __init__(self, key: str, name: str, unit: Unit, wanted: Wanted) -> None:
        self.key, self.name = key, name
        self._address, self._wanted = unit.address, wanted
        # Where only pictures are embedded, a text is kept for the metadata, and no fault of it
        # counts.
        self._needs_text = "text" in wanted.towers
        self._image: Ref | bytes | None = None
        self._text: bytes | None = None
        # How well the suffix of what is kept fits: the lower the better.
        self._image_rank = self._text_rank = 9
        self._suffixes: list[str] = []
        self._fault: str | None = None

    def add(
        self, tar: tarfile.TarFile, member: tarfile.TarInfo, suffix: str, *, packed: bool
    ) -> None:
        """Takes a member, reading as much of it as is asked for."""
        if len(self._suffixes) < _SHOWN:
            self._suffixes.append(suffix)
        rank = _rank(suffix, PICTURES)
        if "image" in self._wanted.towers and rank < self._image_rank:
            self._image_rank = rank
            plain = not packed and not member.issparse() and not scheme(self._address)
            if plain:
                self._image = Ref(self._address, member.offset_data, member.size)
            else:
                self._image = self._read(tar, member, MAX_MEMBER)
        rank = min(_rank(suffix, _TEXTS), _JSON_RANK + _rank(suffix, ("json",)))
        if rank < self._text_rank and (self._needs_text or member.size <= MAX_TEXT):
            self._text_rank = rank
            self._text = self._read(tar, member, MAX_TEXT)

    def item(self) -> Item:
        """The sample as an item."""
        if self._fault is not None:
            return Item(self.key, fault=self._fault)
        caption = None
        if self._text is not None:
            try:
                caption = self._caption(self._text)
            except (UnreadableJson, UnicodeError) as error:
                if not self._needs_text:
                    return self._made(None)
                return Item(self.key, fault=f"its text cannot be read: {one_line(error)}")
        return self._made(caption)

    def _made(self, caption: str | None) -> Item:
        if self._image is None and (caption is None or not self._needs_text):
            what = " and no ".join(
                {"image": "picture", "text": "text"}[t] for t in self._wanted.towers
            )
            there = ", ".join(f".{one_line(shown_name(suffix), 50)}" for suffix in self._suffixes)
            return Item(self.key, fault=f"the sample has no {what}; its members are {there}")
        return Item(self.key, self._image, caption)

    def _caption(self, text: bytes) -> str | None:
        if self._text_rank < _JSON_RANK:
            return text.decode("utf-8-sig").rstrip("\r\n")
        found = read_json(text, object)
        if not isinstance(found, dict):
            return None
        name = choose(self._wanted, (), found, ()).text
        caption = None if name is None else found[name]
        return caption if isinstance(caption, str) else None

    def _read(self, tar: tarfile.TarFile, member: tarfile.TarInfo, limit: int) -> bytes | None:
        if member.size > limit:
            self._fault = (
                f"the member {shown_name(member.name)[:200]!r} has {member.size:,} bytes, "
                f"more than {limit:,} are not read"
            )
            return None
        with _parsing("map of a sparse member"):
            file = tar.extractfile(member)
            return None if file is None else file.read()


def _rank(suffix: str, known: Container[str]) -> int:
    """0 for a suffix that is known, 1 for one whose last part is, 9 for others."""
    if suffix in known:
        return 0
    return 1 if suffix.rpartition(".")[2] in known else 9
