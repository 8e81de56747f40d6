"""Processes that decode files, each at the other end of a socket.

A worker holds nothing but what it is sent, so one that dies is replaced, and its picture is tried
once more.
"""

from __future__ import annotations

import contextlib
import threading
from multiprocessing.connection import Connection

import msgspec
import numpy as np
from numpy.typing import NDArray

from cliprt._card import ImageSpec
from cliprt._errors import DeploymentError, ImageTooLarge, InvalidInput
from cliprt._images import preprocess
from cliprt._limits import Limits
from cliprt._worker_pool import WorkerPool

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
        self._free = threading.Semaphore(workers)
        self._pool = WorkerPool(
            "cliprt._decode_workers:serve",
            msgspec.json.encode(Order(spec, limits, fast_jpeg)),
            way_out="Decoding(kind='threads') needs none",
        )

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
                worker = self._pool.take()
                try:
                    answer = worker.ask(data)
                except (EOFError, OSError):
                    end = self._pool.bury(worker)
                    if last:
                        raise InvalidInput(
                            f"the image cannot be decoded: two processes ended over it, the second "
                            f"{end}; it is damaged, or memory is short"
                        ) from None
                except BaseException:
                    # Ctrl-C between question and answer: the next one would get this answer.
                    self._pool.bury(worker)
                    raise
                else:
                    self._pool.give_back(worker)
                    return self._opened(answer)
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Ends the processes, whatever they are at."""
        self._pool.close()

    def process_ids(self) -> list[int]:
        """Of the processes that run."""
        return self._pool.process_ids()

    def _opened(self, answer: bytes) -> NDArray[np.uint8]:
        kind, content = answer[:1], memoryview(answer)[1:]
        if kind == _PIXELS:
            return np.frombuffer(content, dtype=np.uint8).reshape(self._shape)
        text = str(content, "utf-8")
        if kind == _FAILED:
            raise DeploymentError(f"a process that decodes pictures failed: {text}")
        raise _REFUSALS[kind](text)


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
