"""Processes of one kind, started when they are needed and replaced when they die."""

from __future__ import annotations

import os
import threading
import weakref

from cliprt._errors import DeploymentError, closed
from cliprt._worker_process import WorkerProcess

# Attempts to start a process, in a row. One may be killed at any time; what keeps all of them from
# starting is told.
_STARTS = 3


class WorkerPool:
    """Processes that nobody uses at the moment, and all there are. Safe to use from many threads.

    How many there are at once is the caller's business.
    """

    def __init__(self, serve: str, order: bytes, *shared: int, way_out: str = "") -> None:
        """Starts nothing yet.

        Args:
            serve: as of ``WorkerProcess``.
            order: what each process is told at its start, and answers.
            shared: file descriptors that each gets.
            way_out: what to do where none can be started, for the error's text.
        """
        self._serve, self._order, self._shared = serve, order, shared
        self._way_out = f"; {way_out}" if way_out else ""
        self._lock = threading.Lock()
        self._idle: list[WorkerProcess] = []
        self._all: set[WorkerProcess] = set()
        self._closed = False
        # Also for a pool that is dropped, and at the end of the program.
        self._finalizer = weakref.finalize(self, _stop_all, self._all, os.getpid())

    def take(self) -> WorkerProcess:
        """A process that nobody uses; ``give_back`` or ``bury`` ends the use.

        Raises:
            ClosedError: the pool was closed.
            DeploymentError: no process can be started.
        """
        while True:
            with self._lock:
                if self._closed:
                    raise closed()
                worker = self._idle.pop() if self._idle else None
            if worker is None:
                return self._started()
            if worker.process.poll() is None:
                return worker
            self.bury(worker)  # killed while it was idle: no picture's fault

    def give_back(self, worker: WorkerProcess) -> None:
        """Lets others have a process; it has answered all that it was asked."""
        with self._lock:
            self._idle.append(worker)

    def bury(self, worker: WorkerProcess) -> str:
        """Ends a process and says how it had ended.

        Raises:
            ClosedError: the pool was closed, which may be what ended it.
        """
        with self._lock:
            was_closed = self._closed
            self._all.discard(worker)
        end = worker.end()
        if was_closed:
            raise closed()
        return end

    def process_ids(self) -> list[int]:
        """Of the processes that run."""
        with self._lock:
            return [worker.process.pid for worker in self._all]

    def close(self) -> None:
        """Ends the processes, whatever they are at; threads that wait for answers see the end."""
        with self._lock:
            self._closed = True
            self._idle.clear()
        self._finalizer()

    def _started(self) -> WorkerProcess:
        end = ""
        for _ in range(_STARTS):
            try:
                worker = WorkerProcess(self._serve, *self._shared)
            except OSError as error:
                raise DeploymentError(
                    f"no process that decodes pictures can be started: {error.strerror}"
                    f"{self._way_out}"
                ) from None
            with self._lock:
                if self._closed:
                    worker.end()
                    raise closed()
                self._all.add(worker)
            try:
                worker.ask(self._order)
            except (EOFError, OSError):
                end = self.bury(worker)
            except BaseException:
                self.bury(worker)
                raise
            else:
                return worker
        raise DeploymentError(
            f"a process that decodes pictures ended at its start, {end}; its reason is on "
            f"standard error{self._way_out}"
        )


def _stop_all(workers: set[WorkerProcess], owner: int) -> None:
    if owner != os.getpid():  # a fork: they are the parent's
        return
    for worker in list(workers):
        worker.stop()
