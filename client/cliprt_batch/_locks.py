"""Which shares of a run are being run: locks of the kernel, which end with their process."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from cliprt._extras import require
from cliprt_batch._output_errors import OutputBusy, OutputError

Share: TypeAlias = tuple[int, int]
"""The I-th of N, counted from 1; unit k belongs to share ``k % N + 1``."""

# Seconds. The guard is held while a share opens, plans or writes the manifest: hours, it may be.
_SILENT_S = 2.0
_POLL_S = 0.25

_held = threading.local()
_NAME = re.compile(r"lock-(\d+)-of-(\d+)")


def named(share: Share) -> str:
    """A share in the names of files."""
    return f"{share[0]}-of-{share[1]}"


def owned(unit: int, share: Share) -> bool:
    """Whether a unit is of a share."""
    return unit % share[1] == share[0] - 1


class Locks:
    """The locks of one share of a run."""

    def __init__(self, folder: Path, share: Share) -> None:
        """Takes none yet.

        Args:
            folder: where the lock files lie; shared by all shares.
            share: which one this process runs.
        """
        self._folder, self._share = folder, share
        self._own = self._lock(f"lock-{named(share)}")

    def _lock(self, name: str) -> Any:
        filelock: Any = require("filelock", extra="batch")
        # The run may be closed by another thread than the one that opened it.
        return filelock.FileLock(self._folder / name, thread_local=False)

    def _take(self, lock: Any, timeout: float) -> bool:
        """Whether a lock was got in so many seconds; less than 0 are any number."""
        filelock: Any = require("filelock", extra="batch")
        try:
            lock.acquire(timeout=timeout, poll_interval=_POLL_S)
        except filelock.Timeout:
            return False
        except NotImplementedError:
            raise OutputError(
                f"{self._folder} is on a file system without locks; choose another --out"
            ) from None
        return True

    @contextmanager
    def guard(self, told: Callable[[], None] | None = None) -> Iterator[None]:
        """What only one share may do at a time; waits for it as long as the holder lives.

        Args:
            told: called once, when the wait is longer than two seconds.

        Raises:
            OutputBusy: this thread holds it, and would wait for itself.
            OutputError: the file system has no locks.
        """
        held: set[Path] = _held.__dict__.setdefault("folders", set())
        folder = self._folder.absolute()
        if folder in held:
            raise OutputBusy(f"{folder.parent} is held by this thread, which would wait for itself")
        lock = self._lock("lock")
        if not self._take(lock, _SILENT_S):
            if told is not None:
                told()
            self._take(lock, -1)
        held.add(folder)
        try:
            yield
        finally:
            held.discard(folder)
            lock.release()

    def running(self) -> set[Share]:
        """The other shares that a process is running. To be asked under the guard."""
        found = set()
        for path in self._folder.glob("lock-*-of-*"):
            match = _NAME.fullmatch(path.name)
            share = (int(match[1]), int(match[2])) if match else self._share
            if share == self._share:
                continue
            lock = self._lock(path.name)
            if self._take(lock, 0):
                lock.release()
            else:
                found.add(share)
        return found

    def take(self) -> None:
        """Takes the lock of the share. To be called under the guard.

        Raises:
            OutputBusy: it is being run, or a share of another division is.
        """
        folder = self._folder.parent
        others = sorted(share for share in self.running() if share[1] != self._share[1])
        if others:
            shares = ", ".join(f"{i}/{n}" for i, n in others)
            asked = f"share {self._share[0]}/{self._share[1]}"
            raise OutputBusy(
                f"{folder} is being written by another run: share {shares} is under way, and "
                f"{asked} would do some of the same units; wait for it, or choose another --out"
            )
        if not self._take(self._own, 0):
            raise OutputBusy(
                f"{folder} is being written by another run of share {self._share[0]}/"
                f"{self._share[1]}; wait for it, or choose another --out"
            )

    def release(self) -> None:
        """Gives the lock of the share back."""
        self._own.release()
