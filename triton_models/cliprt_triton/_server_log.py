"""The file that a tritonserver prints into, which may quote what callers sent: not for others."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import BinaryIO

from cliprt._cache_home import cache_folder

_KEPT = 10


def default_log(port: int) -> Path:
    """A file under the cache for a server's output; the oldest ones go."""
    try:
        folder = cache_folder("logs")
        logs = sorted(folder.glob("tritonserver-*.log"), key=lambda path: path.stat().st_mtime)
        for path in logs[: 1 - _KEPT]:
            path.unlink(missing_ok=True)
        log = folder / f"tritonserver-{port}.log"
        # Made anew: one of an earlier version could be read by others.
        log.unlink(missing_ok=True)
        log.touch(mode=0o600)
    except OSError:
        # Nowhere to keep it, which must not keep anybody from serving. The name is drawn, because
        # others may put links where they know that something will be written.
        handle, name = tempfile.mkstemp(prefix=f"tritonserver-{port}-", suffix=".log")
        os.close(handle)
        log = Path(name)
    return log


def opened_log(path: Path, *, anew: bool) -> BinaryIO:
    """A file to print into; where it is made now, only this user may read it.

    Args:
        path: the file, or a device.
        anew: whether what it held goes.

    Raises:
        OSError: it cannot be opened.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | (os.O_TRUNC if anew else 0)
    return os.fdopen(os.open(path, flags, 0o600), "wb")
