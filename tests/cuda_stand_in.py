"""A stand-in for the CUDA runtime and for TensorRT, to drive TensorRtTower where there is no GPU.

It shows that the control flow is right, not that a GPU works: tests/engines/test_on_gpu.py is its
twin with the real libraries. "Device" memory is memory of the host. What is asynchronous is done as
late as allowed, when somebody synchronises, so that a missing wait or a buffer filled again too
early gives wrong answers here as well. Order between streams is tracked by vector clocks: two
computations that share their memory without an order between them are an error. A computation is
that of the ONNX tower that the plan names; one replayed by a graph whose context has changed since
leaves the output as it was, which is the stale answer that graphs are known for.
"""

from __future__ import annotations

import ctypes
import enum
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureUnsupported = 900


class cudaMemcpyKind(enum.IntEnum):
    cudaMemcpyHostToHost = 0
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2
    cudaMemcpyDeviceToDevice = 3


class cudaMemoryType(enum.IntEnum):
    cudaMemoryTypeUnregistered = 0
    cudaMemoryTypeHost = 1
    cudaMemoryTypeDevice = 2
    cudaMemoryTypeManaged = 3


class cudaStreamCaptureMode(enum.IntEnum):
    cudaStreamCaptureModeGlobal = 0
    cudaStreamCaptureModeThreadLocal = 1


OK = cudaError_t.cudaSuccess
Clock = dict[int, int]


def merged(one: Clock, other: Clock) -> Clock:
    return {key: max(one.get(key, 0), other.get(key, 0)) for key in one.keys() | other.keys()}


class StandInStream:
    def __init__(self, number: int) -> None:
        self.number = number
        self.queue: deque[tuple[str, Any]] = deque()
        self.clock: Clock = {}
        self.captured: list[tuple[str, Any]] | None = None

    def __int__(self) -> int:
        return self.number


class StandInEvent:
    def __init__(self) -> None:
        self.mark: SimpleNamespace | None = None


class StandInCuda:
    """Has the functions of ``cuda.bindings.runtime`` that cliprt calls, with their signatures."""

    cudaError_t = cudaError_t
    cudaMemcpyKind = cudaMemcpyKind
    cudaMemoryType = cudaMemoryType
    cudaStreamCaptureMode = cudaStreamCaptureMode
    cudaStreamNonBlocking = 1
    cudaEventDisableTiming = 2
    cudaHostAllocDefault = 0

    def __init__(self, *, devices: int = 1, driver: int = 13050) -> None:
        self.devices, self.driver = devices, driver
        self.memory: dict[int, tuple[str, Any]] = {}
        self.streams: dict[int, StandInStream] = {}
        self.host: Clock = {}
        self.computed: dict[int, tuple[int, int]] = {}
        self.calls: list[str] = []
        self.capturable = True
        self.live_graphs = 0
        self.allocations_left: int | None = None
        # As after an illegal access by a kernel: from then on calls fail. What the process took is
        # counted as given back when that is asked for, though CUDA itself would refuse that too.
        self.broken = False

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("cuda") and name[4:5].isupper():
            object.__getattribute__(self, "calls").append(name)
        return object.__getattribute__(self, name)

    # Devices and errors.

    def cudaGetDeviceCount(self) -> tuple[Any, ...]:
        if self.driver < 13000:
            return cudaError_t.cudaErrorInsufficientDriver, None
        if not self.devices:
            return cudaError_t.cudaErrorNoDevice, None
        return OK, self.devices

    def cudaDriverGetVersion(self) -> tuple[Any, ...]:
        return OK, self.driver

    def cudaRuntimeGetVersion(self) -> tuple[Any, ...]:
        return OK, 13050

    def cudaSetDevice(self, device: int) -> tuple[Any, ...]:
        return (cudaError_t.cudaErrorIllegalAddress if self.broken else OK,)

    def cudaGetErrorName(self, error: Any) -> tuple[Any, ...]:
        return OK, cudaError_t(error).name.encode()

    def cudaGetErrorString(self, error: Any) -> tuple[Any, ...]:
        return OK, b"as the stand-in says"

    def cudaGetLastError(self) -> tuple[Any, ...]:
        return (OK,)

    # Memory.

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        if self.allocations_left is not None:
            self.allocations_left -= 1
            if self.allocations_left < 0:
                return cudaError_t.cudaErrorMemoryAllocation, None
        return OK, self._allocate("device", size)

    def cudaFree(self, pointer: int) -> tuple[Any, ...]:
        return self._free(pointer, "device")

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[Any, ...]:
        return OK, self._allocate("pinned", size)

    def cudaFreeHost(self, pointer: int) -> tuple[Any, ...]:
        return self._free(pointer, "pinned")

    def cudaPointerGetAttributes(self, pointer: int) -> tuple[Any, ...]:
        kind = cudaMemoryType.cudaMemoryTypeUnregistered
        if self._kind(pointer, 1) == "device":
            kind = cudaMemoryType.cudaMemoryTypeDevice
        return OK, SimpleNamespace(type=kind, device=0)

    def cudaMemcpy(self, dst: int, src: int, count: int, kind: Any) -> tuple[Any, ...]:
        ctypes.memmove(dst, src, count)
        return (OK,)

    def cudaMemcpyAsync(
        self, dst: int, src: int, count: int, kind: Any, stream: StandInStream
    ) -> tuple[Any, ...]:
        ends = {
            cudaMemcpyKind.cudaMemcpyHostToDevice: ("pinned", "device"),
            cudaMemcpyKind.cudaMemcpyDeviceToHost: ("device", "pinned"),
            cudaMemcpyKind.cudaMemcpyDeviceToDevice: ("device", "device"),
        }[kind]
        if (self._kind(src, count), self._kind(dst, count)) != ends:
            return (cudaError_t.cudaErrorIllegalAddress,)
        self._submit(stream, "do", lambda: ctypes.memmove(dst, src, count))
        return (OK,)

    # Streams and events.

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        stream = StandInStream(16 + len(self.streams))
        self.streams[stream.number] = stream
        return OK, stream

    def cudaStreamDestroy(self, stream: StandInStream) -> tuple[Any, ...]:
        self._run(stream)
        return (OK,)

    def cudaStreamSynchronize(self, stream: StandInStream) -> tuple[Any, ...]:
        if self.broken:
            return (cudaError_t.cudaErrorIllegalAddress,)
        if stream.captured is not None:
            return (cudaError_t.cudaErrorStreamCaptureUnsupported,)
        self._run(stream)
        self.host = merged(self.host, stream.clock)
        return (OK,)

    def cudaEventCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        return OK, StandInEvent()

    def cudaEventDestroy(self, event: StandInEvent) -> tuple[Any, ...]:
        return (OK,)

    def cudaEventRecord(self, event: StandInEvent, stream: StandInStream | int) -> tuple[Any, ...]:
        if isinstance(stream, int):
            stream = self.streams.setdefault(stream, StandInStream(stream))
        mark = SimpleNamespace(stream=stream, done=False, clock=dict(stream.clock))
        event.mark = mark
        self._submit(stream, "mark", mark)
        return (OK,)

    def cudaEventSynchronize(self, event: StandInEvent) -> tuple[Any, ...]:
        if event.mark is not None:
            self._run(event.mark.stream, event.mark)
            self.host = merged(self.host, event.mark.clock)
        return (OK,)

    def cudaStreamWaitEvent(
        self, stream: StandInStream, event: StandInEvent, flags: int
    ) -> tuple[Any, ...]:
        if event.mark is not None:
            stream.clock = merged(stream.clock, event.mark.clock)
            self._submit(stream, "wait", event.mark)
        return (OK,)

    # Graphs.

    def cudaStreamBeginCapture(self, stream: StandInStream, mode: Any) -> tuple[Any, ...]:
        stream.captured = []
        return (OK,)

    def cudaStreamEndCapture(self, stream: StandInStream) -> tuple[Any, ...]:
        captured, stream.captured = stream.captured, None
        if not self.capturable:
            return cudaError_t.cudaErrorStreamCaptureUnsupported, None
        return OK, captured

    def cudaGraphInstantiate(self, graph: Any, flags: int) -> tuple[Any, ...]:
        self.live_graphs += 1
        return OK, list(graph)

    def cudaGraphDestroy(self, graph: Any) -> tuple[Any, ...]:
        return (OK,)

    def cudaGraphLaunch(self, graphExec: Any, stream: StandInStream) -> tuple[Any, ...]:
        for what, work in graphExec:
            self._submit(stream, what, work)
        return (OK,)

    def cudaGraphExecDestroy(self, graphExec: Any) -> tuple[Any, ...]:
        if any(
            work in list(stream.queue) for stream in self.streams.values() for work in graphExec
        ):
            raise AssertionError("a graph was destroyed while it was under way")
        graphExec.clear()
        self.live_graphs -= 1
        return (OK,)

    # How it works.

    def array(self, pointer: int, shape: tuple[int, ...], dtype: Any) -> Any:
        """Device memory as an array; outside what is allocated it is an error."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        assert self._kind(pointer, size) == "device", "a kernel left the memory of the device"
        content = (ctypes.c_uint8 * size).from_address(pointer)
        return np.frombuffer(content, dtype=dtype).reshape(shape)

    def compute(self, stream: StandInStream, memory: int, work: Callable[[], None]) -> None:
        """Submits a computation that uses some memory for its intermediate values."""
        self._submit(stream, "compute", (memory, work))

    def _submit(self, stream: StandInStream, what: str, work: Any) -> None:
        if stream.captured is not None:
            stream.captured.append((what, work))
            return
        stream.clock = merged(stream.clock, self.host)
        if what == "compute":
            memory, _ = work
            if memory in self.computed:
                number, count = self.computed[memory]
                assert stream.clock.get(number, 0) >= count, "computations share memory unordered"
            stream.clock[stream.number] = stream.clock.get(stream.number, 0) + 1
            self.computed[memory] = (stream.number, stream.clock[stream.number])
        stream.queue.append((what, work))

    def _run(self, stream: StandInStream, until: Any = None) -> None:
        while stream.queue and not (until is not None and until.done):
            what, work = stream.queue.popleft()
            if what == "do":
                work()
            elif what == "compute":
                work[1]()
            elif what == "mark":
                work.done = True
            elif not work.done:
                self._run(work.stream, work)

    def _allocate(self, kind: str, size: int) -> int:
        content = (ctypes.c_uint8 * size)()
        ctypes.memset(content, 0xAB, size)
        pointer = ctypes.addressof(content)
        self.memory[pointer] = (kind, content)
        return pointer

    def _free(self, pointer: int, kind: str) -> tuple[Any, ...]:
        assert self.memory[pointer][0] == kind, "memory was freed as another kind"
        del self.memory[pointer]
        return (OK,)

    def _kind(self, pointer: int, size: int) -> str | None:
        for start, (kind, content) in self.memory.items():
            if start <= pointer and pointer + size <= start + len(content):
                return kind
        return None
