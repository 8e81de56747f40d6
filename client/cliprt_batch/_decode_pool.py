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
from cliprt._worker_pool import WorkerPool
from cliprt._worker_process import WorkerProcess
from cliprt_batch._decode_process import Job, Order, Seen, mapped
from cliprt_batch._items import Ref


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
        self._workers = WorkerPool(
            "cliprt_batch._decode_process:serve",
            msgspec.msgpack.encode(order),
            self._descriptor,
        )
        self._worked = worked
        self._free = list(range(order.slots))
        self._freed = threading.Condition()
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="cliprt-decode")

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
        return self._workers.process_ids()

    def close(self) -> None:
        """Ends the processes, whatever they are at. Windows must no longer be read."""
        self._workers.close()
        self._threads.shutdown(cancel_futures=True)
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
            worker = self._workers.take()
            try:
                for answer in _answers(worker, job):
                    seen.append(answer)
            except (EOFError, OSError) as error:
                end = self._workers.bury(worker)
                if isinstance(error, TimeoutError):
                    end = f"{end} after two minutes without an answer"
                if suspect == len(seen):
                    seen.append(_killed(end))
                else:
                    suspect = len(seen)
            else:
                self._workers.give_back(worker)
        self._worked(time.monotonic() - begun)
        for one in seen:
            if one.fatal:
                raise DeploymentError(one.reason)
        return Window(self, slot, seen)


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
