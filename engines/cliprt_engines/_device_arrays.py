"""Arrays that lie on the GPU already: those of CuPy, torch, pycuda, Numba and others.

They all describe themselves by ``__cuda_array_interface__``:
https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from cliprt._errors import InvalidInput

_DEFAULT_STREAM = 1
"""The number that the interface gives the legacy default stream."""


@runtime_checkable
class OnDevice(Protocol):
    """An array on the GPU."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Where it lies, and how."""


@dataclass(frozen=True)
class DeviceArray:
    """An array on the GPU whose rows lie one behind the other.

    Attributes:
        pointer: address of its first byte.
        shape: its sizes.
        dtype: of its elements.
        stream: number of the stream that its content is ready on; None if it is ready.
    """

    pointer: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    stream: int | None


def device_array(array: OnDevice) -> DeviceArray:
    """Reads how an array lies on the GPU.

    Arrays of interface version 2, torch's among them, do not name their stream; they are taken to
    be ready in the order of the default stream.

    Raises:
        InvalidInput: it is masked or not contiguous, or does not describe itself as it should.
    """
    try:
        found = array.__cuda_array_interface__
    except AttributeError:
        # Those of torch on the host have the property, and no value for it.
        raise InvalidInput("the array does not lie on a GPU; pass it as a NumPy array") from None
    try:
        shape = tuple(int(size) for size in found["shape"])
        dtype = np.dtype(found["typestr"])
        pointer, version = int(found["data"][0]), int(found["version"])
        strides, mask, stream = found.get("strides"), found.get("mask"), found.get("stream")
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InvalidInput(
            f"the array on the GPU does not describe itself by __cuda_array_interface__: {error!r}"
        ) from None
    if mask is not None:
        raise InvalidInput("the array on the GPU is masked; pass one without a mask")
    if strides is not None and not _contiguous(shape, tuple(strides), dtype.itemsize):
        raise InvalidInput(
            "the array on the GPU is not contiguous; pass a contiguous copy "
            "(cupy.ascontiguousarray, tensor.contiguous())"
        )
    if stream == 0:
        raise InvalidInput(
            "the array on the GPU names stream 0, which __cuda_array_interface__ rules out; "
            "1 is the default stream"
        )
    if version < 3:
        stream = _DEFAULT_STREAM
    return DeviceArray(pointer, shape, dtype, None if stream is None else int(stream))


def _contiguous(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> bool:
    """Whether elements follow each other; the stride of an axis of one element says nothing."""
    expected = itemsize
    if 0 in shape:
        return True
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size > 1 and stride != expected:
            return False
        expected *= size
    return True
