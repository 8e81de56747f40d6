"""Inputs in memory that client and server share, instead of on the wire.

A few regions are made and made known to the server once, and used again and again. Whatever goes
wrong, requests go over the wire as they would without.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from cliprt._errors import CliprtError, RetryableError
from cliprt._pending import Payload

_log = logging.getLogger("cliprt")

# Below this the detour costs more than it saves: texts always travel.
_WORTH_BYTES = 64 * 2**10

# Requests that may have their inputs here at once; further ones go over the wire.
_MOST_SLOTS = 8
_LEAST_BYTES = 2**20

# Triton hands backends the address as it is; vector instructions like round ones.
_ALIGNMENT = 64

_UNREGISTER_TIMEOUT_S = 1.0

# Between two looks for regions whose clients are gone.
_TIDY_S = 60.0

_REGIONS = Path("/dev/shm")
_PREFIX = "cliprt-inputs-"

# method of the stub, request, timeout_s -> answer
Call = Callable[[str, Any, float], Any]


class _Slot:
    """A region of shared memory.

    Attributes:
        size: its bytes.
        known_since: generation of the server to which it was made known; 0 is none.
        name: under which the server knows it; drawn, so that no two processes meet.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.known_since = 0
        self.name = f"{_PREFIX}{os.getpid()}-{secrets.token_hex(8)}"
        self._memory = SharedMemory(name=self.name, create=True, size=size)
        try:
            # A region has no memory until it is written to, and a write that finds none left
            # ends the process. So it is demanded now, where that is an error.
            descriptor = os.open(_REGIONS / self.name, os.O_RDWR)
            try:
                os.posix_fallocate(descriptor, 0, size)
            finally:
                os.close(descriptor)
        except BaseException:
            self.remove()
            raise

    def write(self, array: NDArray[Any], offset: int) -> None:
        """Copies an array into the region."""
        place = np.frombuffer(self._buffer(), dtype=array.dtype, count=array.size, offset=offset)
        np.copyto(place.reshape(array.shape), array)

    def read(self, offset: int, size: int) -> bytes:
        """The bytes at an offset."""
        return bytes(self._buffer()[offset : offset + size])

    def remove(self) -> None:
        """Frees the region as soon as nobody has it in use: no thread here, and not the server."""
        self._memory.unlink()

    def _buffer(self) -> memoryview:
        buffer = self._memory.buf
        assert buffer is not None  # as long as it is not closed, which nobody does
        return buffer


class SharedInputs:
    """The regions of one channel. Safe to use from many threads."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._lock = threading.Lock()
        self._off = False
        # Counts up when the server turns out to have forgotten the regions.
        self._generation = 1
        self._free: list[_Slot] = []
        self._all: list[_Slot] = []
        self._looked = time.monotonic()
        self._ownerless: set[str] = set()
        self._finalizer = weakref.finalize(self, _remove_all, self._all, os.getpid())

    def place(
        self, request: Any, inputs: Mapping[str, NDArray[Any]], timeout_s: float
    ) -> Payload | None:
        """Puts the inputs of a request in place, and says so in the request.

        Returns:
            The request; None if its inputs should go over the wire.
        """
        offsets, size = _layout(inputs)
        if self._off or size < _WORTH_BYTES:
            return None
        self._tidy_up()
        try:
            slot = self._take(size, timeout_s)
        except OSError as error:
            self._give_up(f"no shared memory of {size:,} bytes ({error.strerror})")
            return None
        if slot is None:
            return None
        if slot.known_since != self._generation and not self._make_known(slot, timeout_s):
            self.give_back(slot)
            return None
        return _Placed(self, slot, request, inputs, offsets)

    def give_back(self, slot: _Slot) -> None:
        """Lets the next request have a region.

        A server may still read the region of a request that was given up; what it computes from
        it, nobody gets.
        """
        with self._lock:
            self._free.append(slot)

    def forgotten(self, generation: int) -> None:
        """The server does not know the regions of a generation: it was started anew."""
        with self._lock:
            self._generation = max(self._generation, generation + 1)

    def close(self) -> None:
        """Takes regions back from the server and frees them.

        Those of requests under way are freed without a word to the server, which might be reading.
        """
        with self._lock:
            self._off = True
            free = list(self._free)
        for slot in free:
            if not self._unregister(slot):
                break  # a server that is silent would be so eight times
        self._finalizer()

    def _take(self, size: int, timeout_s: float) -> _Slot | None:
        """A region that is large enough, made or grown if need be; None if all are in use."""
        with self._lock:
            fitting = [slot for slot in self._free if slot.size >= size]
            if fitting:
                slot = min(fitting, key=lambda slot: slot.size)
                self._free.remove(slot)
                return slot
            outgrown = None
            if len(self._all) >= _MOST_SLOTS:
                if not self._free:
                    return None
                outgrown = self._free.pop(0)
                self._all.remove(outgrown)
        if outgrown is not None:
            self._unregister(outgrown)
            outgrown.remove()
        slot = _Slot(max(_LEAST_BYTES, 1 << (size - 1).bit_length()))
        with self._lock:
            if not self._off:
                self._all.append(slot)
                return slot
        slot.remove()
        return None

    def _make_known(self, slot: _Slot, timeout_s: float) -> bool:
        """Registers a region with the server; False if the server will not have it now."""
        generation = self._generation
        request = service_pb2.SystemSharedMemoryRegisterRequest(
            name=slot.name, key=f"/{slot.name}", offset=0, byte_size=slot.size
        )
        try:
            self._call("SystemSharedMemoryRegister", request, timeout_s)
        except RetryableError:
            return False
        except CliprtError as error:
            if "already" not in str(error):
                self._give_up(str(error))
                return False
        slot.known_since = generation
        return True

    def _tidy_up(self) -> None:
        """Has the server forget regions that have no owner any more, once in a while.

        Who is killed takes nothing back from the server. The system removes the names of his
        regions, and the server would keep their memory for ever. His requests may still be under
        way when that is seen, so a region goes when it is seen for the second time.
        """
        now = time.monotonic()
        with self._lock:
            # Whoever has a region at the server sees the same names as the server.
            known = any(slot.known_since == self._generation for slot in self._all)
            if not known or now < self._looked + _TIDY_S:
                return
            self._looked = now
            before = self._ownerless
        request = service_pb2.SystemSharedMemoryStatusRequest()
        try:
            found = self._call("SystemSharedMemoryStatus", request, _UNREGISTER_TIMEOUT_S).regions
        except CliprtError:
            return
        ownerless = {
            name for name in found if name.startswith(_PREFIX) and not (_REGIONS / name).exists()
        }
        for name in ownerless & before:
            self._forget(name)
        with self._lock:
            self._ownerless = ownerless - before

    def _unregister(self, slot: _Slot) -> bool:
        """Takes a region back from the server; False if the server is gone, and knows none."""
        return not slot.known_since or self._forget(slot.name)

    def _forget(self, name: str) -> bool:
        request = service_pb2.SystemSharedMemoryUnregisterRequest(name=name)
        try:
            self._call("SystemSharedMemoryUnregister", request, _UNREGISTER_TIMEOUT_S)
        except CliprtError:
            return False
        return True

    def _give_up(self, why: str) -> None:
        with self._lock:
            first, self._off = not self._off, True
        if first:
            _log.warning("inputs go over the wire instead of shared memory: %s", why)


class _Placed(Payload):
    """A request whose inputs lie in a region."""

    def __init__(
        self,
        shared: SharedInputs,
        slot: _Slot,
        request: Any,
        inputs: Mapping[str, NDArray[Any]],
        offsets: list[int],
    ) -> None:
        self.request = request
        self._shared = shared
        self._slot: _Slot | None = slot
        self._generation = slot.known_since
        self._pieces: list[tuple[int, int]] = []
        for entry, array, offset in zip(request.inputs, inputs.values(), offsets, strict=True):
            slot.write(array, offset)
            entry.parameters["shared_memory_region"].string_param = slot.name
            entry.parameters["shared_memory_byte_size"].int64_param = array.nbytes
            entry.parameters["shared_memory_offset"].int64_param = offset
            self._pieces.append((offset, array.nbytes))

    def on_wire(self, error: Any) -> Any | None:
        """The same request with its inputs inside, if the server does not know the region."""
        if "shared memory region" not in (error.details() or "") or self._slot is None:
            return None
        self._shared.forgotten(self._generation)
        request = service_pb2.ModelInferRequest()
        request.CopyFrom(self.request)
        for entry in request.inputs:
            entry.parameters.clear()
        request.raw_input_contents.extend(self._slot.read(*piece) for piece in self._pieces)
        self.request = request
        # Once is enough: what is on the wire cannot be missed.
        self.release()
        return request

    def release(self) -> None:
        slot, self._slot = self._slot, None
        if slot is not None:
            self._shared.give_back(slot)


def _layout(inputs: Mapping[str, NDArray[Any]]) -> tuple[list[int], int]:
    """Where each input begins, and how many bytes all need."""
    offsets, end = [], 0
    for array in inputs.values():
        offsets.append(end)
        end += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
    return offsets, end


def _remove_all(slots: list[_Slot], process: int) -> None:
    """Frees regions, in the process that made them: a forked child has only borrowed them."""
    if os.getpid() == process:
        while slots:
            slots.pop().remove()
