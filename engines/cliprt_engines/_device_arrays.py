"""Arrays that lie on the GPU already: those of CuPy, torch, pycuda, Numba and others.

They all describe themselves by ``__cuda_array_interface__``:
https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html
"""

from __future__ import annotations

import operator
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
        shape = _whole_numbers(found["shape"])
        # To NumPy no type at all is float64.
        dtype = np.dtype(str(found["typestr"]))
        pointer, version = int(found["data"][0]), int(found["version"])
        strides = None if found.get("strides") is None else _whole_numbers(found["strides"])
        # Before version 3 arrays did not name it, whatever stands there.
        stream = _DEFAULT_STREAM if version < 3 else found.get("stream")
        stream = None if stream is None else operator.index(stream)
        if min(shape, default=0) < 0:
            raise ValueError(f"the shape is {shape}")
        if strides is not None and len(strides) != len(shape):
            raise ValueError(f"{len(strides)} strides for {len(shape)} sizes")
        if stream is not None and stream < 0:
            raise ValueError(f"the stream is {stream}")
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise InvalidInput(
            f"the array on the GPU does not describe itself by __cuda_array_interface__: {error!r}"
        ) from None
    if found.get("mask") is not None:
        raise InvalidInput("the array on the GPU is masked; pass one without a mask")
    if strides is not None and not _contiguous(shape, strides, dtype.itemsize):
        raise InvalidInput(
            "the array on the GPU is not contiguous; pass a contiguous copy "
            "(cupy.ascontiguousarray, tensor.contiguous())"
        )
    if stream == 0:
        raise InvalidInput(
            "the array on the GPU names stream 0, which __cuda_array_interface__ rules out; "
            "1 is the default stream"
        )
    return DeviceArray(pointer, shape, dtype, stream)


def _whole_numbers(sizes: Any) -> tuple[int, ...]:
    """Sizes as integers; fractions and text are no sizes.

    Raises:
        TypeError: they are something else.
    """
    return tuple(operator.index(size) for size in sizes)


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
