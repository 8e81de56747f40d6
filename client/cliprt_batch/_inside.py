"""Paths that stay within an output: its records and its folders may come from anybody."""

from __future__ import annotations

import os
from pathlib import Path

from cliprt_batch._output_errors import OutputError


def check_inside(name: str) -> None:
    """That a path in a record lies in the output by its words alone; ``inside`` looks at the disk.

    Raises:
        ValueError: it leads out of it.
    """
    parts = name.split("/")
    if not all(parts) or {".", ".."} & set(parts) or not name.isprintable():
        raise ValueError(f"{name!r} is no path within the output")


def inside(out: Path, name: str) -> Path:
    """The path of a file of an output, before it is read, written or moved.

    The output itself may be a link: who names it on the command line has chosen it.

    Args:
        out: the output.
        name: of the file, relative to it, as ``check_inside`` lets through.

    Raises:
        OutputError: the file, or a folder on the way to it, is a symbolic link.
    """
    path = out
    for part in name.split("/"):
        path = path / part
        _refuse_link(path)
    return path


def refuse_links(folder: Path) -> None:
    """That nothing in a folder is a symbolic link, nor the folder itself.

    A run removes, overwrites and reads what lies in its own folder by name, without any record.

    Raises:
        OutputError: something is.
    """
    _refuse_link(folder)
    for where, folders, files in os.walk(folder):
        for name in (*folders, *files):
            _refuse_link(Path(where, name))


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        raise OutputError(
            f"{path} is a symbolic link; within an output none is followed, because it could lead "
            "to any file of this machine. Put what it leads to in its place, or delete it"
        )
