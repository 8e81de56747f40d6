"""The files of a folder, in an order that is the same on every machine.

Memory holds the names of one directory, and of those above it, at a time. Directory links are not
followed: a loop of them would have no end. Hidden files and folders are passed over, and so are
folders that ``cliprt embed`` wrote. No file is looked at, only its name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial

from cliprt._errors import InvalidInput
from cliprt_batch._addresses import filesystem, local_path, patiently, reason, scheme, shown
from cliprt_batch._run_config import FOLDER

PICTURES = frozenset(
    [
        # What can be decoded: JPEG, PNG, WebP, GIF and BMP by their names.
        *("jpg", "jpeg", "jpe", "jif", "jfif", "pjpeg", "png", "apng", "webp", "gif", "bmp", "dib"),
        # Often one of those under another name; where they are not, they are reported as failed,
        # which is better than to pass over them in silence.
        *("tif", "tiff", "avif", "heic", "heif"),
    ]
)
"""Suffixes of pictures."""

TEXTS = frozenset(["txt"])
"""Suffixes of texts."""


def files(root: str, suffixes: frozenset[str]) -> Iterator[str]:
    """The names of the files below a folder, relative to it, sorted by their bytes.

    Args:
        root: address of the folder.
        suffixes: which files, by lower-case ends of their names (``jpg``, ``tar.gz``).

    Yields:
        Names with ``/`` between their parts. Bytes that are not UTF-8 are surrogates in them.

    Raises:
        InvalidInput: a folder cannot be listed.
    """
    return (name for name, _ in files_with_texts(root, suffixes))


def files_with_texts(root: str, suffixes: frozenset[str]) -> Iterator[tuple[str, bool]]:
    """As ``files``, with whether a ``.txt`` lies beside each; that costs no look at any file."""
    encoded = tuple(f".{suffix}".encode() for suffix in suffixes)
    scan = _stored_scan(root) if scheme(root) else _local_scan(root)
    # Of the folders on the way down to the present one: prefix, and names yet to come.
    stack = [(b"", _sorted(scan(b""), encoded, at_top=True))]
    while stack:
        prefix, names = stack[-1]
        if not names:
            stack.pop()
            continue
        last, with_text = names.pop()
        name = prefix + last
        if name.endswith(b"/"):
            stack.append((name, _sorted(scan(name), encoded, at_top=False)))
        else:
            yield name.decode("utf-8", "surrogateescape"), with_text


def is_folder(address: str) -> bool:
    """Whether there is a folder at an address.

    Raises:
        InvalidInput: the store does not say.
    """
    if scheme(address):
        store, path = filesystem(address)
        try:
            return bool(patiently(lambda: store.isdir(path)))
        except Exception as error:  # noqa: BLE001 - every store has its own
            raise InvalidInput(f"{shown(address)} cannot be read: {reason(error)}") from None
    try:
        return os.path.isdir(local_path(address))  # noqa: PTH112 - of bytes
    except ValueError:
        return False


def top(root: str) -> Iterator[str]:
    """The names of the files that lie directly in a folder, without the hidden ones."""
    scan = _stored_scan(root) if scheme(root) else _local_scan(root)
    for name in scan(b""):
        if not name.startswith(b".") and not name.endswith(b"/"):
            yield name.decode("utf-8", "surrogateescape")


def _sorted(
    names: Iterator[bytes], suffixes: tuple[bytes, ...], *, at_top: bool
) -> list[tuple[bytes, bool]]:
    """Names to take from the end, and whether each has a text beside it.

    With / behind folders, all come in the order of whole paths.
    """
    kept, texts = [], set()
    for name in names:
        if name == FOLDER.encode() + b"/":
            if not at_top:
                return []
            continue
        if name.endswith(b".txt"):
            texts.add(name[:-4])
        if not name.startswith(b".") and (name.endswith(b"/") or name.lower().endswith(suffixes)):
            kept.append(name)
    kept.sort(reverse=True)
    return [(name, name.rpartition(b".")[0] in texts) for name in kept]


def _local_scan(root: str) -> Callable[[bytes], Iterator[bytes]]:
    top_folder = local_path(root)

    def scan(prefix: bytes) -> Iterator[bytes]:
        folder = os.path.join(top_folder, prefix)  # noqa: PTH118 - of bytes
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    # The kind is in the listing on all usual file systems; nothing is asked for.
                    is_folder = entry.is_dir(follow_symlinks=False)
                    yield entry.name + b"/" if is_folder else entry.name
        except OSError as error:
            raise _unlisted(folder.decode("utf-8", "surrogateescape"), error) from None

    return scan


def _stored_scan(root: str) -> Callable[[bytes], Iterator[bytes]]:
    """Of a store all that lies directly in one folder is in memory at a time.

    fsspec lists a folder as a whole: ten million keys under one prefix without folders are some
    gigabytes while they are sorted. A list in a file is read in a stream.
    """
    store, path = filesystem(root)

    def scan(prefix: bytes) -> Iterator[bytes]:
        folder = f"{path.rstrip('/')}/{prefix.decode()}".rstrip("/")
        try:
            entries = patiently(partial(store.ls, folder, detail=True))
        except Exception as error:  # noqa: BLE001 - every store has its own
            raise _unlisted(f"{scheme(root)}://{folder.lstrip('/')}", error) from None
        for entry in entries:
            name = entry["name"].rstrip("/")
            # Some stores keep an empty object in the place of a folder, and list it within.
            if name == folder:
                continue
            is_folder = entry["type"] == "directory"
            yield name.rpartition("/")[2].encode() + (b"/" if is_folder else b"")
        # What it remembers of each folder would grow without a bound.
        store.invalidate_cache()

    return scan


def _unlisted(folder: str, error: Exception) -> InvalidInput:
    return InvalidInput(f"the folder {shown(folder)} cannot be listed: {reason(error)}")
