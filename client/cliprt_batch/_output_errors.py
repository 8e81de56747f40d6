"""What is raised about the folder that a run writes."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cliprt._errors import DeploymentError

_FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}


class OutputError(DeploymentError):
    """The folder of a run cannot be written or read, or is none."""


class OutputMismatch(OutputError):
    """The folder holds another run than the one that is asked for.

    Attributes:
        differences: one sentence for each setting that differs.
    """

    def __init__(self, reason: str, *, differences: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.differences = differences


class OutputBusy(OutputError):
    """Another process is writing the folder."""


class OutputUnfinished(OutputError):
    """The run in the folder has not been carried to its end."""


@contextmanager
def writing(path: Path, kept: str = "") -> Iterator[None]:
    """Says what could not be written, why, what is kept, and what to do.

    Args:
        path: what the block writes; the error names it where the system names nothing.
        kept: a sentence on what is not lost.

    Raises:
        OutputError: the block met an ``OSError``.
    """
    try:
        yield
    except OSError as cause:
        named = cause.filename if isinstance(cause.filename, str) else path
        reason = f"{named} cannot be written: {cause.strerror or cause}."
        raise OutputError(" ".join(filter(None, (reason, kept, _way_out(cause))))) from None


def _way_out(cause: OSError) -> str:
    if cause.errno in _FULL:
        return "Free space and run the same command again."
    if cause.errno in _REFUSED:
        return "Let this user write there and run the same command again, or choose another --out."
    return "Run the same command again once the disk is well, or choose another --out."
