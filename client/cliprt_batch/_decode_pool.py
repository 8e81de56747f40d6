"""Processes that read and decode pictures, and hand over the pixels in shared memory."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import msgspec
import numpy as np
from numpy.typing import NDArray

from cliprt._errors import DeploymentError
from cliprt._worker_process import WorkerProcess
from cliprt_batch._decode_process import Job, Order, Seen, mapped
from cliprt_batch._items import Ref

# Attempts to start a process, in a row.
_STARTS = 3


class Window:
    """Decoded pictures in shared memory; ``free`` gives the memory back.

    Attributes:
        seen: what became of each picture.
        pixels: uint8 [window, height, width, 3]; rows of pictures that failed hold anything.
    """

    def __init__(self, pool: DecodePool, slot: int, seen: list[Seen]) -> None:
        self.seen, self.pixels = seen, pool.pixels(slot)
        self._pool, self._slot = pool, slot

    def free(self) -> None:
        """Must be called once, when the pixels are no longer read."""
        self._pool.give_back(self._slot)


class DecodePool:
    """As many processes as may decode at once. They start with the first pictures."""

    def __init__(self, order: Order, *, workers: int, worked: Callable[[float], None]) -> None:
        """Reserves the memory.

        Args:
            order: how pictures are decoded, and how many windows there are.
            workers: processes.
            worked: is told of seconds in which a process was at work.
        """
        # Without a name in any file system: nothing is left of it when the processes end.
        self._descriptor = os.memfd_create("cliprt-windows")
        os.ftruncate(self._descriptor, math.prod(order.shape))
        self._slots = mapped(self._descriptor, order)
        self._order = msgspec.msgpack.encode(order)
        self._worked = worked
        self._free = list(range(order.slots))
        self._freed = threading.Condition()
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="cliprt-decode")
        self._lock = threading.Lock()
        self._idle: list[WorkerProcess] = []
        self._all: set[WorkerProcess] = set()
        self._closed = False

    def submit(self, images: Sequence[Ref | bytes]) -> Future[Window]:
        """Begins to decode the pictures of a window; waits while all slots are taken.

        Raises, from the future:
            DeploymentError: no process can be started, or one cannot read for a reason that is no
                picture's fault.
        """
        with self._freed:
            while not self._free:
                self._freed.wait()
            slot = self._free.pop()
        return self._threads.submit(self._decoded, slot, list(images))

    def pixels(self, slot: int) -> NDArray[np.uint8]:
        """A window of the shared memory, uint8 [window, height, width, 3]."""
        pixels: NDArray[np.uint8] = self._slots[slot]
        return pixels

    def give_back(self, slot: int) -> None:
        """Lets others have a window of the shared memory."""
        with self._freed:
            self._free.append(slot)
            self._freed.notify()

    def process_ids(self) -> list[int]:
        """Of the processes that run."""
        with self._lock:
            return [worker.process.pid for worker in self._all]

    def close(self) -> None:
        """Ends the processes, whatever they are at. Windows must no longer be read."""
        with self._lock:
            self._closed = True
            for worker in self._all:
                worker.stop()
        self._threads.shutdown(cancel_futures=True)
        for worker in self._all:
            worker.end()
        os.close(self._descriptor)

    def _decoded(self, slot: int, images: list[Ref | bytes]) -> Window:
        try:
            return self._decode(slot, images)
        except BaseException:
            self.give_back(slot)
            raise

    def _decode(self, slot: int, images: list[Ref | bytes]) -> Window:
        begun = time.monotonic()
        seen: list[Seen] = []
        suspect: int | None = None
        while len(seen) < len(images):
            row = len(seen)
            # One that a process died of goes alone the next time, away from its neighbours.
            job = Job(slot, row, images[row : row + 1] if suspect == row else images[row:])
            worker = self._take()
            try:
                for answer in _answers(worker, job):
                    seen.append(answer)
            except (EOFError, OSError) as error:
                end = self._bury(worker)
                if isinstance(error, TimeoutError):
                    end = f"{end} after two minutes without an answer"
                if suspect == len(seen):
                    seen.append(_killed(end))
                else:
                    suspect = len(seen)
            else:
                with self._lock:
                    self._idle.append(worker)
        self._worked(time.monotonic() - begun)
        for one in seen:
            if one.fatal:
                raise DeploymentError(one.reason)
        return Window(self, slot, seen)

    def _take(self) -> WorkerProcess:
        """A process that nobody uses."""
        while True:
            with self._lock:
                if self._closed:
                    raise DeploymentError("the processes that decode pictures were ended")
                worker = self._idle.pop() if self._idle else None
            if worker is None:
                return self._started()
            if worker.process.poll() is None:
                return worker
            self._bury(worker)  # killed while it was idle: no picture's fault

    def _started(self) -> WorkerProcess:
        end = ""
        # One may be killed at any time; what keeps all of them from starting is told.
        for _ in range(_STARTS):
            worker = WorkerProcess("cliprt_batch._decode_process:serve", self._descriptor)
            with self._lock:
                self._all.add(worker)
            try:
                worker.ask(self._order)
            except (EOFError, OSError):
                end = self._bury(worker)
                if self._closed:
                    break
            else:
                return worker
        raise DeploymentError(
            f"a process that decodes pictures ended at its start, {end}; its "
            "reason is on standard error"
        )

    def _bury(self, worker: WorkerProcess) -> str:
        """Ends a process and says how it had ended."""
        with self._lock:
            self._all.discard(worker)
        return worker.end()


def _answers(worker: WorkerProcess, job: Job) -> Iterator[Seen]:
    worker.tell(msgspec.msgpack.encode(job))
    for _ in job.images:
        yield msgspec.msgpack.decode(worker.answer(), type=Seen)


def _killed(end: str) -> Seen:
    return Seen(
        stage="decode",
        reason=f"the image cannot be decoded: two processes ended over it, the second {end}; it is "
        "damaged, or memory is short",
    )
