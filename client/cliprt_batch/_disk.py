"""Files that appear whole and stay: written under a temporary name, synced, renamed.

What changes a disk in this package goes through ``os.fsync`` and methods of ``Path``, so that tests
can let a process die before each of them.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from pathlib import Path

import msgspec


class FileRecord(msgspec.Struct, frozen=True):
    """What a file holds.

    Attributes:
        sha256: of its bytes, hexadecimal.
        bytes: how many.
    """

    sha256: str
    bytes: int


class Sink:
    """A new file that is hashed while it is written. pyarrow and numpy can write to it."""

    def __init__(self, path: Path) -> None:
        """Opens the file.

        Raises:
            OSError: it cannot be opened.
        """
        self.path = path
        self._file = path.open("wb")
        self._digest = hashlib.sha256()
        self._bytes = 0
        self._failed = False

    @property
    def closed(self) -> bool:
        """Whether nothing more can be written."""
        return self._file.closed

    def write(self, data: bytes | memoryview) -> int:
        """Appends bytes.

        Raises:
            OSError: they cannot be written.
        """
        # A Parquet writer writes its footer even when it is given up; nothing is to fail again.
        if not self._failed:
            try:
                self._file.write(data)
            except BaseException:
                self._failed = True
                raise
            self._digest.update(data)
            self._bytes += len(data)
        return len(data)

    def tell(self) -> int:
        """Bytes written so far."""
        return self._bytes

    def flush(self) -> None:
        """Nothing: ``finish`` is what makes the bytes stay."""

    def finish(self) -> FileRecord:
        """Makes the bytes stay, and closes the file.

        Raises:
            OSError: they cannot be written.
        """
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return FileRecord(self._digest.hexdigest(), self._bytes)

    def discard(self) -> None:
        """Closes and removes the file, whatever state it is in."""
        self._failed = True
        try:
            self._file.close()
        except OSError:
            # What is in the buffer cannot be written either; closing again only closes.
            self._file.close()
        self.path.unlink(missing_ok=True)


class Scratch:
    """The temporary files of one share; those of a killed run go when it is opened again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def clear(self) -> None:
        """Removes what there is, and makes the folder.

        Raises:
            OSError: it cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.iterdir():
            path.unlink(missing_ok=True)

    def sink(self) -> Sink:
        """A new temporary file.

        Raises:
            OSError: it cannot be opened.
        """
        return Sink(self._new_name())

    def _new_name(self) -> Path:
        # Drawn: what an interrupted replacement of a shard still needs lies here too.
        return self.folder / secrets.token_hex(8)

    def taken(self, source: Path) -> Path:
        """A temporary file that holds what another does: a hard link, or a copy.

        Raises:
            OSError: it cannot be read or written.
        """
        path = self._new_name()
        try:
            path.hardlink_to(source)
        except OSError:
            # Another file system, or one without links.
            return self._copied(source)
        return path

    def _copied(self, source: Path) -> Path:
        sink = self.sink()
        try:
            with source.open("rb") as file:
                shutil.copyfileobj(file, sink, 1 << 20)
            sink.finish()
        except BaseException:
            sink.discard()
            raise
        return sink.path

    def put(self, path: Path, *pieces: bytes) -> None:
        """Writes a file whole or not at all. Its name is only safe once its folder is synced.

        Raises:
            OSError: it cannot be written; the temporary file is gone.
        """
        sink = self.sink()
        try:
            for piece in pieces:
                sink.write(piece)
            sink.finish()
            sink.path.replace(path)
        except BaseException:
            sink.discard()
            raise


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder stay after a power failure.

    Raises:
        OSError: the disk failed.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_flat(folder: Path) -> None:
    """Removes a folder of files; one that another process removes too is no error.

    Raises:
        OSError: it cannot be removed.
    """
    try:
        for path in folder.iterdir():
            path.unlink(missing_ok=True)
        folder.rmdir()
    except FileNotFoundError:
        return


def digest_of(path: Path) -> FileRecord:
    """What a file holds now.

    Raises:
        OSError: it cannot be read.
    """
    digest, count = hashlib.sha256(), 0
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
            count += len(piece)
    return FileRecord(digest.hexdigest(), count)
