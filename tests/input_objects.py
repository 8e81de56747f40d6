"""Pictures that are no bytes: what is handed to Python's callers, and what is promised for each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from bad_pictures import jpeg
from input_files import encoded
from PIL import Image

from pictures import in_mode, pixels, rgb

ARRAY = "uint8 \\[height, width, 3\\]"


@dataclass(frozen=True)
class Object:
    """A picture.

    Attributes:
        name: what it is.
        make: makes it, in a folder of its own.
        refused: what the refusal says, as a pattern; None where it is taken.
        like: makes a picture that is embedded the same; None where it is refused.
    """

    name: str
    make: Callable[[Path], Any]
    refused: str | None = None
    like: Callable[[], Any] | None = None


def _whole() -> bytes:
    return encoded(rgb(90, 70))


def _written(folder: Path) -> Path:
    path = folder / "picture.png"
    path.write_bytes(_whole())
    return path


def _pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.jpg")
    return folder / "pipe.jpg"


def _link(folder: Path, target: Path) -> Path:
    link = folder / "link.png"
    link.symlink_to(target)
    return link


def _closed(folder: Path) -> Image.Image:
    image = Image.open(BytesIO(jpeg(rgb(20, 20))))
    image.close()
    return image


def _consumed(folder: Path) -> Any:
    file = BytesIO(_whole())
    file.read()
    return file


def _strided() -> Any:
    doubled = np.repeat(np.repeat(pixels(90, 70), 2, axis=0), 2, axis=1)
    return doubled[::2, ::2]


def _objects() -> Iterator[tuple[int, Object]]:
    yield 28, Object("a folder", lambda folder: folder, "not a regular file")
    yield 28, Object("a missing file", lambda folder: folder / "no.jpg", "No such file")
    yield 28, Object("an endless device", lambda _: "/dev/zero", "not a regular file")
    yield 28, Object("a pipe", _pipe, "not a regular file")
    yield 28, Object("a link to a picture", lambda folder: _link(folder, _written(folder)),
                     like=_whole)  # fmt: skip
    yield 28, Object("a link to itself", lambda folder: _link(folder, folder / "link.png"),
                     "cannot be read")  # fmt: skip
    yield 28, Object("a name with NUL", lambda _: "a\0b", "cannot be read")
    yield 28, Object("a name of 5,000 letters", lambda _: "a" * 5000, "cannot be read")
    for scheme in ("http", "https", "file", "ftp"):
        address = f"{scheme}://localhost/cat.jpg"
        yield 29, Object(scheme, lambda _, address=address: address, "URLs are not fetched")
    uri = "data:image/png;base64,iVBORw0KGgo="
    yield 29, Object("a data URI", lambda _: uri, "cannot be read")
    array = pixels(90, 70)
    for name, bad in {
        "numbers from 0 to 1": array / 255,
        "int64": array.astype(np.int64),
        "channels first": np.moveaxis(array, 2, 0),
        "four channels": np.dstack([array, array[..., 0]]),
        "grey": array[..., 0],
        "five axes": array[None, None],
        "no rows": array[:0],
    }.items():
        # Pictures of one batch are one array of four axes.
        expected = "no pixels" if name == "no rows" else ARRAY
        yield 31, Object(name, lambda _, bad=bad: bad, expected)
    for name, value in {"NaN": np.nan, "infinite": np.inf, "1e38": 1e38}.items():
        bad = np.full((70, 90, 3), value, np.float32)
        yield 32, Object(name, lambda _, bad=bad: bad, ARRAY)
    yield 32, Object("objects", lambda _: np.array([[[object()] * 3]]), ARRAY)
    yield 32, Object("every second pixel", lambda _: _strided(), like=_whole)
    yield 32, Object("backwards", lambda _: array[::-1, ::-1],
                     like=lambda: np.ascontiguousarray(array[::-1, ::-1]))  # fmt: skip
    yield 33, Object("a closed picture", _closed, "truncated, damaged or closed")
    yield 33, Object("a file that was read", _consumed, "must be a path, bytes")
    yield 34, Object("a path", _written, like=_whole)
    yield 34, Object("its name", lambda folder: str(_written(folder)), like=_whole)
    yield 34, Object("a bytearray", lambda _: bytearray(_whole()), like=_whole)
    yield 34, Object("a memoryview", lambda _: memoryview(_whole()), like=_whole)
    yield 34, Object("an opened picture", lambda _: Image.open(BytesIO(_whole())), like=_whole)
    yield 34, Object("a decoded picture", lambda _: rgb(90, 70), like=_whole)
    yield 34, Object("an array", lambda _: array, like=_whole)
    yield 34, Object("a transparent picture", lambda _: in_mode("RGBA"),
                     like=lambda: encoded(in_mode("RGBA")))  # fmt: skip


OBJECTS: list[tuple[int, Object]] = list(_objects())
