"""What a process does that reads and decodes pictures, and what it is told and tells."""

from __future__ import annotations

import contextlib
import hashlib
import math
import mmap
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection

import msgspec
import numpy as np
from numpy.typing import NDArray

from cliprt._card import ImageSpec
from cliprt._errors import CliprtError, InvalidInput
from cliprt._images import preprocess_with_size
from cliprt._limits import Limits
from cliprt_batch._addresses import read_bytes
from cliprt_batch._items import Ref, Stage

# Pictures that a process reads ahead of the one it decodes: disks and stores take their time.
_AHEAD = 8


class Order(msgspec.Struct, frozen=True):
    """What a process is told at its start.

    Attributes:
        spec: how the tower is fed.
        limits: bounds on the pictures.
        fast_jpeg: whether large JPEG files are decoded at a part of their size.
        slots: how many windows the shared memory holds.
        window: pictures of each.
    """

    spec: ImageSpec
    limits: Limits
    fast_jpeg: bool
    slots: int
    window: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the shared memory, in bytes: slots, window, height, width, 3."""
        return (self.slots, self.window, self.spec.height, self.spec.width, 3)


class Job(msgspec.Struct, frozen=True):
    """Pictures to decode.

    Attributes:
        slot: of the shared memory.
        row: of that slot, for the first picture.
        images: where they lie, or their encoded bytes.
    """

    slot: int
    row: int
    images: list[Ref | bytes]


class Seen(msgspec.Struct, frozen=True, array_like=True):
    """What became of a picture.

    Attributes:
        width: of the picture itself; None where it is not known.
        height: likewise.
        sha256: of its encoded bytes, in hexadecimal; None if they could not be read.
        stage: where it failed, ``read`` or ``decode``; None if it did not.
        reason: why.
        fatal: whether that is no fault of the picture, and would happen to others, too.
    """

    width: int | None = None
    height: int | None = None
    sha256: str | None = None
    stage: Stage | None = None
    reason: str | None = None
    fatal: bool = False


def mapped(descriptor: int, order: Order) -> NDArray[np.uint8]:
    """The shared memory, uint8 [slots, window, height, width, 3]; it goes with the last array."""
    memory = mmap.mmap(descriptor, math.prod(order.shape))
    return np.frombuffer(memory, np.uint8).reshape(order.shape)


def serve(connection: int, memory: int) -> None:
    """Does one job after the other, until the socket ends: the program of a process.

    Args:
        connection: descriptor of the socket.
        memory: descriptor of the shared memory.
    """
    import warnings

    from PIL import Image

    # What is larger than the limits is refused; what they allow needs no warning.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    encoder = msgspec.msgpack.Encoder()
    jobs = msgspec.msgpack.Decoder(Job)
    with (
        Connection(connection) as parent,
        ThreadPoolExecutor(_AHEAD) as readers,
        contextlib.suppress(EOFError, OSError),
    ):
        order = msgspec.msgpack.decode(parent.recv_bytes(), type=Order)
        slots = mapped(memory, order)
        parent.send_bytes(b"ready")
        while True:
            job = jobs.decode(parent.recv_bytes())
            rows = slots[job.slot, job.row :]
            for row, data in zip(rows, _each(job.images, order.limits, readers), strict=False):
                parent.send_bytes(encoder.encode(_decode(data, row, order)))


def _each(
    images: Sequence[Ref | bytes], limits: Limits, readers: ThreadPoolExecutor
) -> Iterator[bytes | CliprtError]:
    """The encoded pictures one after the other; the next ones are read meanwhile."""
    waiting: list[Future[bytes | CliprtError]] = []
    for image in images:
        waiting.append(readers.submit(_read, image, limits))
        if len(waiting) == _AHEAD:
            yield waiting.pop(0).result()
    while waiting:
        yield waiting.pop(0).result()


def _read(image: Ref | bytes, limits: Limits) -> bytes | CliprtError:
    if isinstance(image, bytes):
        return image
    try:
        return read_bytes(image, limits.max_image_bytes)
    except CliprtError as error:
        return error
    except Exception as error:  # noqa: BLE001 - stores raise types of their own
        return InvalidInput(f"{image.address!r} cannot be read: {type(error).__name__}: {error}")


def _decode(data: bytes | CliprtError, row: NDArray[np.uint8], order: Order) -> Seen:
    if isinstance(data, InvalidInput):
        return Seen(stage="read", reason=data.reason)
    if isinstance(data, CliprtError):
        return Seen(stage="read", reason=str(data), fatal=True)
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        pixels, (width, height) = preprocess_with_size(
            data, order.spec, order.limits, fast_jpeg=order.fast_jpeg
        )
    except InvalidInput as error:
        return Seen(sha256=sha256, stage="decode", reason=error.reason)
    except Exception as error:  # noqa: BLE001 - whatever one picture does, the others go on
        reason = f"the image cannot be decoded: {type(error).__name__}: {error}"
        return Seen(sha256=sha256, stage="decode", reason=reason)
    row[:] = pixels
    return Seen(width, height, sha256)
