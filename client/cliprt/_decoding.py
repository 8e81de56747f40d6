"""Who prepares the pictures of a batch: threads, or processes of their own."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cliprt._card import ImageSpec
from cliprt._cores import usable_cores
from cliprt._decode_workers import DecodeWorkers
from cliprt._errors import InvalidInput, closed
from cliprt._images import ImageInput, encoded, preprocess
from cliprt._limits import Limits

# Beyond these the interpreter's lock, the memory's speed or the server is what callers wait for.
_MOST_WORKERS = 8

_KINDS = ("threads", "processes")


@dataclass(frozen=True)
class Decoding:
    """How pictures are decoded and preprocessed.

    Attributes:
        workers: how many pictures are prepared at once; None means one for each core that this
            process may use, at most 8.
        kind: ``threads`` share the process; Pillow computes without the interpreter's lock.
            ``processes`` decode files (paths and bytes) in processes of their own: what crashes a
            decoder or is killed for its memory costs that picture and not the program, and no other
            Python code holds them up. Pillow images and arrays need no decoding, and are resized
            by threads either way. The processes are started anew and never forked, need no ``if
            __name__ == "__main__"``, and end with the client or the program.
        fast_jpeg: decode JPEG files that are much larger than the tower's input at a half, a
            quarter or an eighth of their sides, and resize from there. Off by default: the pixels
            are no longer those of the checkpoint's own processor. Measured cosine between the
            embeddings with and without it: 0.9998 or more with the small trained model of the
            demo, 0.9999 or more with a ViT-B/32 of drawn weights; 1.7 to 3.6 times as fast on
            pictures that it concerns. ``client/PICTURES.md`` has the figures by size.
    """

    workers: int | None = None
    kind: Literal["threads", "processes"] = "threads"
    fast_jpeg: bool = False

    def __post_init__(self) -> None:
        whole = isinstance(self.workers, int) and not isinstance(self.workers, bool)
        if self.workers is not None and not (whole and self.workers >= 1):
            raise ValueError(f"workers must be a whole number from 1 on, got {self.workers!r}")
        if self.kind not in _KINDS:
            raise ValueError(f"kind must be one of {', '.join(_KINDS)}, got {self.kind!r}")
        if not isinstance(self.fast_jpeg, bool):
            raise ValueError(f"fast_jpeg must be True or False, got {self.fast_jpeg!r}")

    @property
    def worker_count(self) -> int:
        """How many pictures are prepared at once."""
        return self.workers or min(usable_cores(), _MOST_WORKERS)


class Decoder:
    """Prepares batches of pictures; safe to use from many threads, and behind ``os.fork``."""

    def __init__(self, spec: ImageSpec, limits: Limits, decoding: Decoding) -> None:
        """Starts nothing yet: threads and processes come with the first batch that needs them.

        Args:
            spec: how the tower is fed.
            limits: bounds on the pictures.
            decoding: who prepares them.
        """
        self._spec = spec
        self._limits = limits
        self._decoding = decoding
        self._lock = threading.Lock()
        self._closed = False
        self._owner = os.getpid()
        self._threads: ThreadPoolExecutor | None = None
        self._processes: DecodeWorkers | None = None

    def prepare(
        self, first: int, images: Sequence[ImageInput]
    ) -> list[NDArray[np.uint8] | InvalidInput]:
        """Prepares a batch and waits for it.

        Args:
            first: index of the first picture in the caller's list, for the errors.
            images: the pictures.

        Returns:
            for each picture, in order, uint8 [height, width, 3] or, if it cannot be used, the error
            that says why and at which index.

        Raises:
            ClosedError: the decoder was closed, before or meanwhile.
            DeploymentError: no process can be started.
        """
        one = partial(_outcome, self._preparer())
        jobs = list(enumerate(images, start=first))
        # One thread, or one picture, gains nothing from a pool.
        if len(jobs) <= 1 or self._decoding.worker_count == 1:
            return [one(job) for job in jobs]
        futures: list[Future[NDArray[np.uint8] | InvalidInput]] = []
        try:
            with self._lock:
                futures.extend(self._pool().submit(one, job) for job in jobs)
            return [future.result() for future in futures]
        except CancelledError:
            raise closed() from None
        finally:
            # After an error or Ctrl-C nobody waits for the others.
            while futures:
                futures.pop().cancel()

    def close(self) -> None:
        """Ends threads and processes; calls under way raise ClosedError. Twice does no harm."""
        with self._lock:
            self._closed = True
            threads, self._threads = self._threads, None
            processes, self._processes = self._processes, None
            if self._owner != os.getpid():  # they belong to the process that was forked
                return
        if threads is not None:
            threads.shutdown(wait=False, cancel_futures=True)
        if processes is not None:
            processes.close()

    def _preparer(self) -> Callable[[ImageInput], NDArray[np.uint8]]:
        """What prepares one picture."""
        here = partial(
            preprocess, spec=self._spec, limits=self._limits, fast_jpeg=self._decoding.fast_jpeg
        )
        with self._lock:
            if self._closed:
                raise closed()
            self._mind_forks()
            if self._decoding.kind == "threads":
                return here
            if self._processes is None:
                self._processes = DecodeWorkers(
                    self._spec,
                    self._limits,
                    workers=self._decoding.worker_count,
                    fast_jpeg=self._decoding.fast_jpeg,
                )
            return partial(_elsewhere, self._processes, here, self._limits)

    def _pool(self) -> ThreadPoolExecutor:
        """The threads; the lock is held."""
        if self._closed:
            raise closed()
        if self._threads is None:
            self._threads = ThreadPoolExecutor(
                self._decoding.worker_count, thread_name_prefix="cliprt-pictures"
            )
        return self._threads

    def _mind_forks(self) -> None:
        """Leaves threads and processes of the parent alone; the lock is held."""
        if self._owner != os.getpid():
            self._owner, self._threads, self._processes = os.getpid(), None, None


def _elsewhere(
    processes: DecodeWorkers,
    here: Callable[[ImageInput], NDArray[np.uint8]],
    limits: Limits,
    image: ImageInput,
) -> NDArray[np.uint8]:
    """Prepares files in another process, and what is decoded already in this one."""
    if isinstance(image, (Image.Image, np.ndarray)):
        return here(image)
    return processes.prepare(encoded(image, limits))


def _outcome(
    prepare: Callable[[ImageInput], NDArray[np.uint8]], job: tuple[int, ImageInput]
) -> NDArray[np.uint8] | InvalidInput:
    index, image = job
    try:
        return prepare(image)
    except InvalidInput as error:
        # A new one: the error caught holds this frame, and so the picture.
        return type(error)(error.reason, index=index)
