"""Folders that appear whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cliprt._errors import BundleError


@contextmanager
def folder_that_becomes(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """A temporary folder beside the target that takes its name if the block succeeds.

    If the block fails, nothing is left behind and what was at the target stays. The same holds for
    an interrupt from the keyboard.

    A process that is killed cannot clean up. It leaves the target as it was, and beside it a folder
    ``.<name of the target>.<8 random characters>`` that nothing reads and anyone may delete. Killed
    between the two renames that replace a target, it leaves the former one complete under such a
    name ending in ``.old``, to be renamed back.

    Args:
        target: the folder to make.
        replace: whether one that is there by the end of the block may go.

    Raises:
        BundleError: the target cannot be written, or is there and may not go.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise BundleError(f"{target} cannot be written: {error.strerror or error}") from None
    try:
        yield temporary
        temporary.chmod(0o755)
        # Another process may have made it meanwhile.
        if target.exists() and not replace:
            raise BundleError(f"{target} appeared meanwhile; it is not overwritten")
        _take_the_place_of(temporary, target)
    except OSError as error:
        raise BundleError(f"{target} cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _take_the_place_of(temporary: Path, target: Path) -> None:
    """Renames a complete folder to its name; what was there comes back if that fails."""
    if not target.exists():
        temporary.rename(target)
        return
    replaced = temporary.with_name(f"{temporary.name}.old")
    target.rename(replaced)
    try:
        temporary.rename(target)
    except BaseException:
        # Another process may have put its own there meanwhile; then it is that one which stays.
        if target.exists():
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            replaced.rename(target)
        raise
    shutil.rmtree(replaced, ignore_errors=True)
