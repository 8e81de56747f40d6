"""Addresses of files: paths of this machine, and the object stores that fsspec knows.

An address is an absolute path, a ``file://`` URI (percent-encoded, as RFC 8089 has it), or that of
a store: ``s3://bucket/key``. Nothing is ever fetched from the web.
"""

from __future__ import annotations

import errno
import io
import os
import re
import stat as modes
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote_from_bytes, unquote_to_bytes

from cliprt._errors import CliprtError, DeploymentError, ImageTooLarge, InvalidInput, MissingExtra
from cliprt._extras import require
from cliprt_batch._items import Ref
from cliprt_batch._stores import OPEN_TO_ALL, STORES

Answer = TypeVar("Answer")

RETRY_WAITS = (0.5, 2.0)
"""Seconds before another attempt at a store that failed, after the attempts of its own package."""

# Chains such as simplecache::http://... would reach every file system that fsspec has.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)(?:://|::)")

# A FIFO without a writer would hang in open(2), a terminal would take over the process.
_OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

# The machine is at fault here, not the file: the item must not be written off.
_OF_THE_MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

_BUFFER = 2**20


class NoSuchFile(InvalidInput):
    """There is nothing at an address."""


def scheme(address: str) -> str:
    """The kind of an address in lower case; empty for a path of this machine."""
    if address.startswith("/"):
        return ""
    found = _SCHEME.match(address)
    name = found[1].lower() if found else ""
    return "" if name in ("file", "local") else name


def local_path(address: str) -> bytes:
    """The path that an address of this machine stands for, as the system has it."""
    found = None if address.startswith("/") else _SCHEME.match(address)
    if found is None:
        return address.encode("utf-8", "surrogateescape")
    return unquote_to_bytes(address[found.end() :].encode("utf-8", "surrogateescape"))


def address_of(path: bytes) -> str:
    """The address of a path; a ``file://`` URI where it is not UTF-8, which no JSON could hold."""
    try:
        return path.decode("utf-8")
    except UnicodeDecodeError:
        return f"file://{quote_from_bytes(path)}"


def shown_name(name: str) -> str:
    """A name for people and tables: bytes of it that are not UTF-8 are written ``%FF``."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return (
            "".join(
                f"%{ord(letter) - 0xDC00:02X}" if "\udc80" <= letter <= "\udcff" else letter
                for letter in name
            )
            .encode("utf-8", "replace")
            .decode()
        )
    return name


def absolute(address: str) -> str:
    """An address that holds in any working directory.

    Raises:
        InvalidInput: it is of a kind that is not read.
    """
    if scheme(address):
        _check_kind(address)
        return address.rstrip("/") or address
    # Not abspath of a string: the working directory may have a name that is not UTF-8.
    return address_of(os.path.abspath(local_path(address)))  # noqa: PTH100 - of bytes


def joined(base: str, name: str) -> str:
    """The address of a name in a folder; of the name itself where that is an absolute address.

    Kinds that are not read are not refused here but by ``read_bytes``.
    """
    if base.startswith("/") and not name.startswith("/") and name.isascii():
        if "://" not in name and "::" not in name:
            return f"{base}/{name}" if base != "/" else f"/{name}"
    elif scheme(base) and not name.startswith("/") and not _SCHEME.match(name):
        return f"{base}/{shown_name(name)}"
    if scheme(name):
        return shown_name(name)
    if _SCHEME.match(name):
        return absolute(name)
    folder = b"/" if scheme(base) else local_path(base)
    return address_of(os.path.join(folder, name.encode("utf-8", "surrogateescape")))  # noqa: PTH118


def outside(address: str, base: str) -> str | None:
    """Why a row of a source may not name an address of a store; None if it may.

    Stores are opened with the credentials of the user, and whoever wrote the rows must not choose
    the host that gets them. Kinds that nothing reads are not refused here but by ``read_bytes``.

    Args:
        address: as ``joined`` makes it.
        base: where the source lies.
    """
    kind, host = scheme(address), _host(address)
    if kind not in STORES:
        return None
    if kind in OPEN_TO_ALL:
        if not host or host == _host(base):
            return None
        return (
            f"{shown(address)} names the host of a store, and the source does not lie there; "
            "leave out @host, and name the account in the environment"
        )
    if kind == scheme(base) and host == _host(base):
        return None
    return (
        f"{shown(address)} is not read: rows may name files of this machine, addresses of "
        f"{', '.join(sorted(OPEN_TO_ALL))}, and the store that the source itself lies in; put the "
        f"list into a file of that {kind}:// store, and embed that"
    )


def _host(address: str) -> str:
    """What of an address says where its store is; empty where that is always the same place."""
    kind, place = scheme(address), address.partition("://")[2].partition("/")[0]
    if kind in ("adl", "hdfs"):
        return place
    return place.partition("@")[2] if kind in ("abfs", "abfss", "az") else ""


def parent(address: str) -> str:
    """The folder that a file lies in."""
    if scheme(address):
        return address.rpartition("/")[0]
    return address_of(os.path.dirname(local_path(address)))  # noqa: PTH120 - of bytes


def read_bytes(ref: Ref, limit: int) -> bytes:
    """The bytes of a picture.

    Args:
        ref: where they lie.
        limit: most bytes that are read; checked before they are.

    Raises:
        InvalidInput: they cannot be had: no such file, not allowed, no regular file, an address of
            a kind that is not read, a file that is too short, or a store that fails persistently.
        ImageTooLarge: there are more than the limit.
        DeploymentError: the machine is out of file handles or memory, or a package is missing.
    """
    if scheme(ref.address):
        return _read_stored(ref, limit)
    handle, size = _open_local(ref.address)
    try:
        length = _length(ref, size, limit)
        data = os.pread(handle, length, ref.offset)
        while len(data) < length:
            more = os.pread(handle, length - len(data), ref.offset + len(data))
            if not more:
                raise _too_short(ref, ref.offset + len(data))
            data += more
    except OSError as error:
        raise _unreadable(ref.address, error) from None
    finally:
        os.close(handle)
    return data


def read_text(address: str, limit: int) -> str:
    """A text file, without a byte order mark and the end of its last line.

    Raises:
        InvalidInput: as ``read_bytes``, or it is not UTF-8, or longer than the limit in bytes.
        NoSuchFile: there is none.
    """
    try:
        data = read_bytes(Ref(address), limit)
    except ImageTooLarge:
        raise InvalidInput(f"{shown(address)} has more than {limit:,} bytes") from None
    try:
        return data.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{shown(address)} is not UTF-8 at byte {error.start}") from None


def stamp(address: str) -> str:
    """What a file is like, to see later that it has not changed: size, and ETag or time.

    Raises:
        InvalidInput: it cannot be had, or is no file.
    """
    if scheme(address):
        store, path = filesystem(address)
        return _stored_stamp(_information(address, store, path))
    handle, _ = _open_local(address)
    try:
        return _local_stamp(handle)
    finally:
        os.close(handle)


def open_stream(address: str) -> tuple[io.BufferedReader, str]:
    """A file to read from, which can seek, and its stamp.

    Reading raises DeploymentError where the file cannot be read on, never OSError: what reads
    archives takes that for damage.

    Raises:
        InvalidInput: it cannot be opened, or is no regular file.
    """
    if not scheme(address):
        handle, size = _open_local(address)
        local = io.FileIO(handle, "rb")
        return io.BufferedReader(_Stream(address, local, size), _BUFFER), _local_stamp(handle)
    store, path = filesystem(address)
    found = _information(address, store, path)
    try:
        file = patiently(lambda: store.open(path, "rb"))
    except Exception as error:  # noqa: BLE001 - every store has its own
        raise _unreadable(address, error) from None
    size = int(found.get("size") or 0)
    return io.BufferedReader(_Stream(address, file, size), _BUFFER), _stored_stamp(found)


def filesystem(address: str) -> tuple[Any, str]:
    """The store of an address, and the path in it. fsspec keeps one of each kind in a process.

    Raises:
        InvalidInput: the address is of a kind that is not read.
        MissingExtra: the package for it is not installed.
        DeploymentError: the store cannot be set up.
    """
    _check_kind(address)
    core = require("fsspec.core", extra="batch")
    name = scheme(address)
    try:
        store, path = core.url_to_fs(address)
    except ImportError:
        raise MissingExtra(
            f"{name}:// addresses need the package {STORES[name]!r}, which is not installed; "
            f"install it with: pip install {STORES[name]}",
            name=STORES[name],
        ) from None
    except Exception as error:  # noqa: BLE001 - every store has its own
        raise DeploymentError(f"{shown(address)} cannot be opened: {reason(error)}") from None
    return store, path


def shown(address: str) -> str:
    """An address in a message."""
    return repr(shown_name(address)[:200])


def reason(error: Exception) -> str:
    """Why a file cannot be had, in the system's words where it is one of its reasons."""
    for kind, code in (
        (FileNotFoundError, errno.ENOENT),
        (PermissionError, errno.EACCES),
        (IsADirectoryError, errno.EISDIR),
    ):
        if isinstance(error, kind):
            return os.strerror(code)
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return text[:300] if text and " object at 0x" not in text else type(error).__name__


def _check_kind(address: str) -> None:
    name = scheme(address)
    # A second part (s3://...::http://...) would be a chain of file systems.
    if name not in STORES or "::" in address:
        raise InvalidInput(
            f"{shown(address)} is not read: URLs are not fetched, and chained addresses not "
            f"followed; give paths of files, or addresses of {', '.join(sorted(STORES))}"
        )


def _open_local(address: str) -> tuple[int, int]:
    """A handle of a regular file, and its size."""
    try:
        handle = os.open(local_path(address), _OPEN)
    # ValueError: a path with a NUL character.
    except (OSError, ValueError) as error:
        raise _unreadable(address, error) from None
    status = os.fstat(handle)
    if not modes.S_ISREG(status.st_mode):
        os.close(handle)
        raise InvalidInput(f"{shown(address)} is not a regular file")
    return handle, status.st_size


def _local_stamp(handle: int) -> str:
    status = os.fstat(handle)
    return f"size={status.st_size} mtime={status.st_mtime_ns}"


def _stored_stamp(found: dict[str, Any]) -> str:
    names = ["ETag", "etag", "generation", "md5Hash", "content_md5", "LastModified"]
    names += ["last_modified", "mtime", "updated", "created"]
    version = next((f" {name}={found[name]}" for name in names if found.get(name)), "")
    return f"size={found.get('size')}{version}"


def _information(address: str, store: Any, path: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = patiently(lambda: store.info(path))
    except Exception as error:  # noqa: BLE001 - every store has its own
        raise _unreadable(address, error) from None
    if found.get("type") != "file":
        raise InvalidInput(f"{shown(address)} is not a regular file")
    return found


def _read_stored(ref: Ref, limit: int) -> bytes:
    store, path = filesystem(ref.address)
    found = _information(ref.address, store, path)
    length = _length(ref, int(found.get("size") or 0), limit)
    if not length:
        # Stores refuse a range without bytes.
        return b""
    read = partial(store.cat_file, path, start=ref.offset, end=ref.offset + length)
    try:
        data: bytes = patiently(read)
    except Exception as error:  # noqa: BLE001 - every store has its own
        raise _unreadable(ref.address, error) from None
    if len(data) != length:
        raise _too_short(ref, ref.offset + len(data))
    return data


def _length(ref: Ref, size: int, limit: int) -> int:
    """How many bytes to read of a file of a size."""
    if ref.offset > size or (ref.length is not None and ref.offset + ref.length > size):
        raise _too_short(ref, size)
    length = size - ref.offset if ref.length is None else ref.length
    if length > limit:
        raise ImageTooLarge(
            f"the image has {length:,} bytes, the limit max_image_bytes is {limit:,}; "
            "scale it down or raise the limit"
        )
    return length


def _too_short(ref: Ref, size: int) -> InvalidInput:
    end = ref.offset + (ref.length or 0)
    return InvalidInput(
        f"{shown(ref.address)} ends after {size:,} bytes, the picture lies at {ref.offset:,} to "
        f"{end:,}; it changed while it was read"
    )


def _unreadable(address: str, error: Exception) -> CliprtError:
    if isinstance(error, CliprtError):
        return error
    text = f"{shown(address)} cannot be read: {reason(error)}"
    if isinstance(error, FileNotFoundError):
        return NoSuchFile(text)
    if isinstance(error, OSError) and error.errno == errno.ENXIO:
        return InvalidInput(f"{shown(address)} is not a regular file")
    if isinstance(error, MemoryError) or (
        isinstance(error, OSError) and error.errno in _OF_THE_MACHINE
    ):
        return DeploymentError(text)
    return InvalidInput(text)


def patiently(call: Callable[[], Answer]) -> Answer:
    """What a store answers, asked again where it may come to its senses."""
    for wait in RETRY_WAITS:
        try:
            return call()
        except (FileNotFoundError, PermissionError, IsADirectoryError, ValueError, MemoryError):
            raise
        except Exception:  # noqa: BLE001 - every store has its own
            time.sleep(wait)
    return call()


class _Stream(io.RawIOBase):
    """A file that is read at a place of its own: fsspec gives all readers of memory:// one file."""

    def __init__(self, address: str, file: Any, size: int) -> None:
        self._address, self._file, self._size = address, file, size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        try:
            count: int = patiently(partial(self._read, buffer))
        except Exception as error:  # noqa: BLE001 - every store has its own
            raise DeploymentError(
                f"{shown(self._address)} cannot be read on from byte {self._position:,}: "
                f"{reason(error)}"
            ) from None
        self._position += count
        return count

    def _read(self, buffer: Any) -> int:
        # Some stores fail on a place behind the end.
        if self._position >= self._size:
            return 0
        self._file.seek(self._position)
        return int(self._file.readinto(buffer))

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
