"""Processes that decode files, each at the other end of a socket.

A worker holds nothing but what it is sent, so one that dies is replaced, and its picture is tried
once more.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from multiprocessing.connection import Connection

import msgspec
import numpy as np
from numpy.typing import NDArray

from cliprt._card import ImageSpec
from cliprt._errors import DeploymentError, ImageTooLarge, InvalidInput, closed
from cliprt._images import preprocess
from cliprt._limits import Limits
from cliprt._worker_process import WorkerProcess

_PIXELS, _INVALID, _TOO_LARGE, _FAILED = b"p", b"i", b"l", b"f"

_REFUSALS = {_INVALID: InvalidInput, _TOO_LARGE: ImageTooLarge}


class Order(msgspec.Struct, frozen=True):
    """What a worker is told at its start.

    Attributes:
        spec: how the tower is fed.
        limits: bounds on the pictures.
        fast_jpeg: whether large JPEG files are decoded at a part of their size.
    """

    spec: ImageSpec
    limits: Limits
    fast_jpeg: bool


class DecodeWorkers:
    """As many processes as may decode at once, started when they are needed."""

    def __init__(
        self, spec: ImageSpec, limits: Limits, *, workers: int, fast_jpeg: bool = False
    ) -> None:
        """Starts nothing yet.

        Args:
            spec: how the tower is fed.
            limits: bounds on the pictures.
            workers: most processes at once.
            fast_jpeg: whether large JPEG files are decoded at a part of their size.
        """
        self._shape = (spec.height, spec.width, 3)
        self._order = msgspec.json.encode(Order(spec, limits, fast_jpeg))
        self._free = threading.Semaphore(workers)
        self._lock = threading.Lock()
        self._idle: list[WorkerProcess] = []
        self._all: set[WorkerProcess] = set()
        self._closed = False
        # Also for a decoder that is dropped, and at the end of the program.
        self._finalizer = weakref.finalize(self, _end_all, self._all, os.getpid())

    def prepare(self, data: bytes) -> NDArray[np.uint8]:
        """Decodes and preprocesses an encoded file in one of the processes.

        Returns:
            uint8 [height, width, 3], as ``preprocess`` gives it.

        Raises:
            InvalidInput: it is no usable image, or two processes died of it.
            ClosedError: the workers were closed.
            DeploymentError: no process can be started, or one failed in a way of its own.
        """
        with self._free:
            for last in (False, True):
                worker = self._take()
                try:
                    answer = worker.ask(data)
                except (EOFError, OSError):
                    end = self._bury(worker)
                    if last:
                        raise InvalidInput(
                            f"the image cannot be decoded: two processes ended over it, the second "
                            f"{end}; it is damaged, or memory is short"
                        ) from None
                except BaseException:
                    # Ctrl-C between question and answer: the next one would get this answer.
                    self._bury(worker)
                    raise
                else:
                    with self._lock:
                        self._idle.append(worker)
                    return self._opened(answer)
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Ends the processes, whatever they are at."""
        with self._lock:
            self._closed = True
            self._idle.clear()
        self._finalizer()

    def process_ids(self) -> list[int]:
        """Of the processes that run."""
        with self._lock:
            return [worker.process.pid for worker in self._all]

    def _opened(self, answer: bytes) -> NDArray[np.uint8]:
        kind, content = answer[:1], memoryview(answer)[1:]
        if kind == _PIXELS:
            return np.frombuffer(content, dtype=np.uint8).reshape(self._shape)
        text = str(content, "utf-8")
        if kind == _FAILED:
            raise DeploymentError(f"a process that decodes pictures failed: {text}")
        raise _REFUSALS[kind](text)

    def _take(self) -> WorkerProcess:
        """A worker that nobody uses."""
        while True:
            with self._lock:
                if self._closed:
                    raise closed()
                worker = self._idle.pop() if self._idle else None
            if worker is None:
                return self._started()
            if worker.process.poll() is None:
                return worker
            # Killed while it was idle: no picture's fault.
            self._bury(worker)

    def _started(self) -> WorkerProcess:
        worker = WorkerProcess("cliprt._decode_workers:serve")
        with self._lock:
            if self._closed:
                worker.end()
                raise closed()
            self._all.add(worker)
        try:
            worker.ask(self._order)
        except (EOFError, OSError):
            end = self._bury(worker)
            raise DeploymentError(
                f"a process that decodes pictures ended at its start, {end}; its reason is on "
                "standard error. Decoding(kind='threads') needs none"
            ) from None
        except BaseException:
            self._bury(worker)
            raise
        return worker

    def _bury(self, worker: WorkerProcess) -> str:
        """Ends a worker and says how it had ended."""
        with self._lock:
            was_closed = self._closed
            self._all.discard(worker)
        end = worker.end()
        if was_closed:
            raise closed()
        return end


def _end_all(workers: set[WorkerProcess], owner: int) -> None:
    if owner != os.getpid():  # a fork: they are the parent's
        return
    for worker in list(workers):
        worker.stop()


def serve(descriptor: int) -> None:
    """Answers one question after the other, until the socket ends: the program of a worker."""
    import warnings

    from PIL import Image

    # What is larger than the limits is refused; what they allow needs no warning.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    with Connection(descriptor) as connection, contextlib.suppress(EOFError, OSError):
        order = msgspec.json.decode(connection.recv_bytes(), type=Order)
        connection.send_bytes(b"ready")
        while True:
            connection.send_bytes(_answer(connection.recv_bytes(), order))


def _answer(data: bytes, order: Order) -> bytes:
    try:
        pixels = preprocess(data, order.spec, order.limits, fast_jpeg=order.fast_jpeg)
    except ImageTooLarge as error:
        return _TOO_LARGE + error.reason.encode()
    except InvalidInput as error:
        return _INVALID + error.reason.encode()
    except Exception as error:  # noqa: BLE001 - it belongs to the caller, not on standard error
        return _FAILED + f"{type(error).__name__}: {error}".encode()
    return _PIXELS + pixels.tobytes()
