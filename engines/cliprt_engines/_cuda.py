"""The CUDA runtime: results that are not success become errors, and what was taken is given back.

Everything here is a thin layer over ``cuda.bindings.runtime``, in which each call returns a status
and then its results. Whatever holds something of the GPU has a ``close`` that may be called twice.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cliprt._errors import DeploymentError
from cliprt._extras import require

T = TypeVar("T", bound=np.generic)

_WITHOUT = "without one, ONNX Runtime runs a bundle's towers on the processor"


class Cuda:
    """The CUDA runtime on one GPU.

    Attributes:
        device: which GPU, as CUDA counts them.
    """

    def __init__(self, device: int = 0, *, runtime: Any = None) -> None:
        """Finds the GPU.

        Args:
            device: which GPU, as CUDA counts them.
            runtime: the module whose functions are called; None takes ``cuda.bindings.runtime``.

        Raises:
            MissingExtra: cuda-bindings is not installed.
            DeploymentError: there is no driver, one that is too old, or no such GPU.
        """
        self.device = device
        self._api = require("cuda.bindings.runtime", extra="gpu") if runtime is None else runtime
        status, count = self._api.cudaGetDeviceCount()
        if problem := self._problem(status, count, device):
            raise DeploymentError(problem)
        self.select()

    def _problem(self, status: Any, count: int | None, device: int) -> str | None:
        """Why the GPU cannot be used, with the way out; None if it can."""
        error = self._api.cudaError_t
        if status == error.cudaErrorInsufficientDriver:
            driver, runtime = self.driver_version, self.runtime_version
            if driver == (0, 0):
                return f"no NVIDIA driver was found; a GPU needs one, and {_WITHOUT}"
            return (
                f"the NVIDIA driver is too old: it supports CUDA {_dotted(driver)}, and the "
                f"installed cuda-bindings needs CUDA {runtime[0]}; update the driver or install "
                f"bindings for it: pip install 'cuda-bindings=={driver[0]}.*'"
            )
        if status == error.cudaErrorNoDevice or (status == error.cudaSuccess and not count):
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            hidden = "" if visible is None else f" (CUDA_VISIBLE_DEVICES is {visible!r})"
            return f"the NVIDIA driver sees no GPU{hidden}; {_WITHOUT}"
        if status != error.cudaSuccess:
            return f"CUDA could not be started: {self._words(status)}"
        if count is None or not 0 <= device < count:
            plural = "GPU" if count == 1 else "GPUs"
            return f"there is no GPU {device}: CUDA sees {count} {plural}, counted from 0"
        # Minor versions are compatible, majors are not.
        driver, runtime = self.driver_version, self.runtime_version
        if driver[0] < runtime[0]:
            return (
                f"the NVIDIA driver supports CUDA {_dotted(driver)} and cuda-bindings is for CUDA "
                f"{_dotted(runtime)}; update the driver or install bindings for it: "
                f"pip install 'cuda-bindings=={driver[0]}.*'"
            )
        return None

    @property
    def driver_version(self) -> tuple[int, int]:
        """Newest CUDA that the driver supports, (0, 0) without a driver."""
        return _version(self.call("cudaDriverGetVersion"))

    @property
    def runtime_version(self) -> tuple[int, int]:
        """CUDA that the bindings are made for."""
        return _version(self.call("cudaRuntimeGetVersion"))

    def select(self) -> None:
        """Makes the GPU the one that this thread's calls go to."""
        self.call("cudaSetDevice", self.device)

    def call(self, function: str, *arguments: Any) -> Any:
        """Calls a function of the runtime.

        Returns:
            None, its result, or a tuple of them.

        Raises:
            DeploymentError: the status is not success.
        """
        status, *results = getattr(self._api, function)(*arguments)
        if status != self._api.cudaError_t.cudaSuccess:
            hint = ""
            if status == self._api.cudaError_t.cudaErrorMemoryAllocation:
                hint = "; use fewer contexts, an engine with a smaller batch, or free the GPU"
            raise DeploymentError(
                f"{function} failed on GPU {self.device}: {self._words(status)}{hint}"
            )
        return results[0] if len(results) == 1 else tuple(results) or None

    def give_back(self, function: str, handle: Any) -> None:
        """Calls a function that frees something, whatever it answers.

        After an error of a kernel every call on that GPU fails until the process ends; freeing must
        not hide what happened first.
        """
        getattr(self._api, function)(handle)

    def forget_error(self) -> None:
        """Clears what the last failed call left behind for others to find."""
        self._api.cudaGetLastError()

    def device_of(self, pointer: int) -> int | None:
        """Which GPU an address belongs to; None if it is not one of a GPU's memory."""
        found = self.call("cudaPointerGetAttributes", pointer)
        kinds = self._api.cudaMemoryType
        on_a_gpu = (kinds.cudaMemoryTypeDevice, kinds.cudaMemoryTypeManaged)
        return int(found.device) if found.type in on_a_gpu else None

    @property
    def host_to_device(self) -> Any:
        """A kind of copy."""
        return self._api.cudaMemcpyKind.cudaMemcpyHostToDevice

    @property
    def device_to_host(self) -> Any:
        """A kind of copy."""
        return self._api.cudaMemcpyKind.cudaMemcpyDeviceToHost

    @property
    def device_to_device(self) -> Any:
        """A kind of copy."""
        return self._api.cudaMemcpyKind.cudaMemcpyDeviceToDevice

    @property
    def capture_of_this_thread(self) -> Any:
        """The way to capture that leaves other threads free to allocate meanwhile."""
        return self._api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal

    @property
    def not_blocking(self) -> int:
        """Of a stream that does not wait for the default stream."""
        return int(self._api.cudaStreamNonBlocking)

    @property
    def without_timing(self) -> int:
        """Of an event that only orders work."""
        return int(self._api.cudaEventDisableTiming)

    @property
    def pinned(self) -> int:
        """Of page-locked memory."""
        return int(self._api.cudaHostAllocDefault)

    def _words(self, status: Any) -> str:
        _, name = self._api.cudaGetErrorName(status)
        _, text = self._api.cudaGetErrorString(status)
        return f"{name.decode()}, {text.decode()}"


class DeviceBuffer:
    """Memory of the GPU.

    Attributes:
        pointer: its address, or 0 for no bytes.
        size: in bytes.
    """

    def __init__(self, cuda: Cuda, size: int) -> None:
        self._cuda, self.size = cuda, size
        self.pointer = int(cuda.call("cudaMalloc", size)) if size else 0

    def close(self) -> None:
        """Frees it."""
        if self.pointer:
            self._cuda.give_back("cudaFree", self.pointer)
        self.pointer = 0


class PinnedBuffer:
    """Page-locked memory of the host, which the GPU copies from and to by itself.

    Attributes:
        pointer: its address.
        size: in bytes.
    """

    def __init__(self, cuda: Cuda, size: int) -> None:
        self._cuda, self.size = cuda, size
        self.pointer = int(cuda.call("cudaHostAlloc", size, cuda.pinned))

    def array(self, shape: tuple[int, ...], dtype: np.dtype[T]) -> NDArray[T]:
        """The first bytes as an array; not to be used after ``close``.

        Raises:
            ValueError: the buffer is smaller.
        """
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if not 0 <= size <= self.size or not self.pointer:
            raise ValueError(f"{size} bytes were asked for of a buffer of {self.size}")
        content = memoryview((ctypes.c_uint8 * size).from_address(self.pointer))
        return np.frombuffer(content, dtype=dtype).reshape(shape)

    def close(self) -> None:
        """Frees it."""
        if self.pointer:
            self._cuda.give_back("cudaFreeHost", self.pointer)
        self.pointer = 0


class Event:
    """A point in the work of a stream that others can wait for."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self.handle = cuda.call("cudaEventCreateWithFlags", cuda.without_timing)

    def synchronise(self) -> None:
        """Waits until the GPU has come to where it was last recorded."""
        self._cuda.call("cudaEventSynchronize", self.handle)

    def close(self) -> None:
        """Destroys it."""
        if self.handle is not None:
            self._cuda.give_back("cudaEventDestroy", self.handle)
        self.handle = None


class Stream:
    """Work of the GPU in order."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self.handle = cuda.call("cudaStreamCreateWithFlags", cuda.not_blocking)

    def upload(self, target: int, source: int, size: int) -> None:
        """Begins a copy from page-locked memory to the GPU."""
        self._copy(target, source, size, self._cuda.host_to_device)

    def download(self, target: int, source: int, size: int) -> None:
        """Begins a copy from the GPU to page-locked memory."""
        self._copy(target, source, size, self._cuda.device_to_host)

    def copy(self, target: int, source: int, size: int) -> None:
        """Begins a copy on the GPU."""
        self._copy(target, source, size, self._cuda.device_to_device)

    def _copy(self, target: int, source: int, size: int, kind: Any) -> None:
        self._cuda.call("cudaMemcpyAsync", target, source, size, kind, self.handle)

    def record(self, event: Event) -> None:
        """Marks the end of what was begun so far."""
        self._cuda.call("cudaEventRecord", event.handle, self.handle)

    def wait(self, event: Event) -> None:
        """What is begun from now on starts after the event; the host does not wait."""
        self._cuda.call("cudaStreamWaitEvent", self.handle, event.handle, 0)

    def synchronise(self) -> None:
        """Waits until all work is done."""
        self._cuda.call("cudaStreamSynchronize", self.handle)

    def begin_capture(self) -> None:
        """What follows is written down instead of done."""
        self._cuda.call("cudaStreamBeginCapture", self.handle, self._cuda.capture_of_this_thread)

    def end_capture(self) -> Graph:
        """Ends a capture and makes what was written down ready to launch.

        Raises:
            DeploymentError: something cannot be captured. The stream is usable again.
        """
        try:
            graph = self._cuda.call("cudaStreamEndCapture", self.handle)
        except DeploymentError:
            self._cuda.forget_error()
            raise
        try:
            return Graph(self._cuda, self._cuda.call("cudaGraphInstantiate", graph, 0))
        finally:
            self._cuda.give_back("cudaGraphDestroy", graph)

    def close(self) -> None:
        """Destroys it."""
        if self.handle is not None:
            self._cuda.give_back("cudaStreamDestroy", self.handle)
        self.handle = None


class ForeignStream:
    """A stream of somebody else, by its number, which this one may have to wait for."""

    def __init__(self, cuda: Cuda, number: int) -> None:
        self._cuda, self.number = cuda, number

    def record(self, event: Event) -> None:
        """Marks the end of what its owner has begun so far."""
        self._cuda.call("cudaEventRecord", event.handle, self.number)


class Graph:
    """Captured work that is launched as a whole."""

    def __init__(self, cuda: Cuda, handle: Any) -> None:
        self._cuda, self._handle = cuda, handle

    def launch(self, stream: Stream) -> None:
        """Begins all of it on a stream."""
        self._cuda.call("cudaGraphLaunch", self._handle, stream.handle)

    def close(self) -> None:
        """Destroys it."""
        if self._handle is not None:
            self._cuda.give_back("cudaGraphExecDestroy", self._handle)
        self._handle = None


def _version(number: Any) -> tuple[int, int]:
    """13050 is 13.5."""
    return int(number) // 1000, int(number) % 1000 // 10


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
