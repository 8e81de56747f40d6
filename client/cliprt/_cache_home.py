"""Where cliprt keeps what it can make or fetch again, and who else may put something there."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path


def cache_home() -> Path:
    """The folder of all caches: ``$CLIPRT_HOME`` or ~/.cache/cliprt.

    A user without a home, as in many containers, gets a folder of their own beside other temporary
    files.
    """
    if home := os.environ.get("CLIPRT_HOME"):
        return Path(home)
    try:
        return Path.home() / ".cache" / "cliprt"
    except RuntimeError:
        return _without_home()


def cache_folder(name: str) -> Path:
    """One folder of it, which is this user's alone; made where it is not there.

    What lies in caches decides how towers are computed, is loaded as code (TensorRT-RTX) or written
    over (logs). So a folder in which another user could have put it is not used.

    Args:
        name: of the folder, a plain one.

    Raises:
        OSError: it cannot be made, or others than this user and root may write to it, or own the
            folder that it lies in.
    """
    home = cache_home()
    folder = home / name
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    # The home itself may be a link, made by its owner.
    if home.stat().st_uid not in (0, os.geteuid()):
        raise PermissionError(errno.EACCES, "it belongs to another user", str(home))
    _make_private(folder)
    return folder


def _make_private(folder: Path) -> None:
    """Closes a folder of this user to others.

    Raises:
        OSError: it is no folder, or others than this user and root may write to it.
    """
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (0, os.geteuid()):
        raise PermissionError(errno.EACCES, "it is not a folder of this user", str(folder))
    if found.st_uid == os.geteuid() and found.st_mode & 0o077:
        # On a file system that is read-only nobody can write either.
        with suppress(OSError):
            folder.chmod(0o700)
            found = folder.lstat()
    if found.st_mode & 0o022:
        raise PermissionError(errno.EACCES, "others may write to it", str(folder))


def _without_home() -> Path:
    folder = Path(tempfile.gettempdir()) / f"cliprt-{os.geteuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        _make_private(folder)
    except OSError:
        # Anybody could have taken the name first.
        return Path(_drawn().name)
    return folder


@cache
def _drawn() -> tempfile.TemporaryDirectory[str]:
    """A folder for this process alone, which goes when it ends."""
    return tempfile.TemporaryDirectory(prefix="cliprt-")
