"""Folders and files that appear whole or not at all."""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cliprt._errors import BundleError, DeploymentError

# From fcntl.h and linux/fs.h.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@contextmanager
def folder_that_becomes(
    target: Path, *, replace: bool = False, error: type[DeploymentError] = BundleError
) -> Iterator[Path]:
    """A temporary folder beside the target that takes its name if the block succeeds.

    If the block fails, nothing is left behind and what was at the target stays. The same holds for
    an interrupt from the keyboard.

    A process that is killed cannot clean up. It leaves the target as it was or as it was to become,
    and beside it a folder ``.<name of the target>.<8 random characters>`` that nothing reads and
    anyone may delete. Only on file systems that cannot exchange two names in one step (some network
    ones) is there an instant without a target; killed then, the process leaves the former one
    complete under such a name ending in ``.old``, to be renamed back.

    Args:
        target: the folder to make.
        replace: whether one that is there by the end of the block may go.
        error: what is raised; BundleError unless the folder is something else.

    Raises:
        DeploymentError: of that class: the target cannot be written, or is there and may not go.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as cause:
        raise error(f"{target} cannot be written: {cause.strerror or cause}") from None
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        # Another process may have made it meanwhile.
        if target.exists() and not replace:
            raise error(f"{target} appeared meanwhile; it is not overwritten")
        if target.exists() and not target.is_dir():
            raise error(f"{target} is a file; it is not overwritten by a folder")
        _take_the_place_of(temporary, target)
    except OSError as cause:
        raise error(f"{target} cannot be written: {cause.strerror or cause}") from None
    finally:
        discard(temporary)


def discard(path: Path) -> None:
    """Removes a folder, or a link that stood in the place of one, but nothing that it points to."""
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def _take_the_place_of(temporary: Path, target: Path) -> None:
    """Renames a complete folder to its name; what was there comes back if that fails."""
    if not target.exists():
        temporary.rename(target)
        return
    if _exchange(temporary, target):
        return
    replaced = temporary.with_name(f"{temporary.name}.old")
    target.rename(replaced)
    try:
        temporary.rename(target)
    except BaseException:
        # Another process may have put its own there meanwhile; then it is that one which stays.
        if target.exists():
            discard(replaced)
        else:
            replaced.rename(target)
        raise
    discard(replaced)


def _exchange(one: Path, other: Path) -> bool:
    """Exchanges two names in one step; whether the system can.

    ``renameat2`` of Linux, which Python does not offer (rename(2), RENAME_EXCHANGE).
    """
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    here = ctypes.c_int(_AT_FDCWD)
    names = [ctypes.c_char_p(os.fsencode(path)) for path in (one, other)]
    return bool(renameat2(here, names[0], here, names[1], ctypes.c_uint(_RENAME_EXCHANGE)) == 0)


def write_whole(path: Path, content: bytes, *, private: bool = False) -> None:
    """Writes a file so that other processes see all of it or nothing; its folder is made.

    Args:
        path: the file.
        content: what it will hold.
        private: whether only this user may read it; otherwise it gets what the umask leaves, as
            other new files do.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name[:100]}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        if not private:
            Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    """This process's umask, read and not set: threads that make files meanwhile must not notice."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    return 0o077
