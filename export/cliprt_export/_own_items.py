"""A user's own folder: pictures, texts, classes, and which of them are for which side.

A folder holds pictures, at any depth, and texts, one per line of its ``.txt`` files. The SHA-256 of
an item's content alone decides its side: three quarters are there to calibrate on, one quarter is
held out for the certificate. So a copy under another name lies on the same side, and an item keeps
its side when others come or go.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

from cliprt._bundle import sha256_of
from cliprt._errors import InvalidInput

Side: TypeAlias = Literal["calibration", "certificate"]
T = TypeVar("T")

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")


@dataclass(frozen=True)
class Labelled:
    """A folder with a sub-folder of pictures for each class.

    Attributes:
        classes: their names, sorted; those of the sub-folders with spaces for underscores.
        files: pictures with the index of their class.
    """

    classes: tuple[str, ...]
    files: tuple[tuple[Path, int], ...]


def side_of(digest: str) -> Side:
    """Which side the content with that SHA-256 is for."""
    return "certificate" if int(digest[:8], 16) % 4 == 0 else "calibration"


def split_items(items: Iterable[T], digest_of: Callable[[T], str], side: Side) -> Iterator[T]:
    """Items of one side, by the SHA-256 of their content; of equal ones the first.

    Args:
        items: all there are; only as many are looked at as are taken from the result.
        digest_of: SHA-256 of an item's content.
        side: which side.
    """
    seen = set[str]()
    for item in items:
        digest = digest_of(item)
        if side_of(digest) == side and digest not in seen:
            seen.add(digest)
            yield item


def find_labelled(folder: Path) -> Labelled:
    """Finds the classes of an ``--evaluate`` folder.

    Raises:
        InvalidInput: it is no folder, or has no two sub-folders with pictures.
    """
    _check_folder(folder)
    found = {sub: list(find_pictures(sub)) for sub in sorted(folder.iterdir()) if sub.is_dir()}
    found = {sub: files for sub, files in found.items() if files}
    if len(found) < 2:
        raise InvalidInput(
            f"{folder} has {len(found)} sub-folders with pictures; an evaluation needs one for "
            f"each of at least two classes, with {', '.join(SUFFIXES)} files in it"
        )
    files = [(file, index) for index, sub in enumerate(found) for file in found[sub]]
    files.sort(key=lambda entry: _scattered(entry[0], folder))
    return Labelled(tuple(sub.name.replace("_", " ") for sub in found), tuple(files))


def check_folder_of_items(folder: Path) -> None:
    """Refuses a folder that has neither pictures nor texts.

    Raises:
        InvalidInput: it is no folder, or holds nothing to measure or calibrate on.
    """
    _check_folder(folder)
    if next(find_pictures(folder), None) is None and not _text_files(folder):
        raise InvalidInput(
            f"{folder} holds no pictures ({', '.join(SUFFIXES)}) and no .txt file with a "
            "text on each line"
        )


def find_pictures(folder: Path) -> Iterator[Path]:
    """Pictures of a folder at any depth, in an order that is not that of their names."""
    files = [path for path in _files(folder) if path.suffix.lower() in SUFFIXES]
    yield from sorted(files, key=lambda path: _scattered(path, folder))


def find_lines(folder: Path) -> tuple[list[str], int]:
    """Lines of all text files that are not blank, and how many files could not be read."""
    lines: list[str] = []
    unread = 0
    for path in _text_files(folder):
        try:
            content = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError):
            unread += 1
            continue
        lines += [line.strip() for line in content.splitlines() if line.strip()]
    return lines, unread


def _text_files(folder: Path) -> list[Path]:
    return sorted(path for path in _files(folder) if path.suffix.lower() == ".txt")


def _files(folder: Path) -> Iterator[Path]:
    """Regular files at any depth; links to folders are not followed, they may lead in circles."""
    for base, _, names in os.walk(folder):
        yield from (path for name in names if (path := Path(base, name)).is_file())


def _scattered(path: Path, folder: Path) -> str:
    """Sorts files so that the first of many come from everywhere, on every machine alike."""
    return text_digest(path.relative_to(folder).as_posix())


def text_digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def file_digest(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError:
        # It cannot be read later either, and is counted then.
        return text_digest(str(path))


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise InvalidInput(f"{folder} is no folder")
