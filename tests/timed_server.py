"""A gRPC server in a process of its own that answers after a time that the request names.

Its workers are computed, not threads: when a request comes, the moment at which a queue with so
many workers would finish it is known, and the answer is sent then. So a request that is answered a
little late does not delay those behind it, and nothing but the wire is between theory and what a
caller sees.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from queueing import Fifo, Stall, Times

SERVICE = "Timed"
THREADS = 64
NANO = 1e9
WATCH_S = 0.005
_REQUEST = struct.Struct("<qd")


class _Handlers:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._set = {"workers": 1, "stall": None}
        self._begin()
        threading.Thread(target=self._watch, daemon=True).start()

    def _begin(self) -> None:
        self._queue: Fifo | None = None
        self._record: list[tuple[int, int, int, int]] = []
        self._held_up = 0

    def _watch(self) -> None:
        """Looks how long this process stands still at most."""
        while True:
            before = time.monotonic_ns()
            time.sleep(WATCH_S)
            late = time.monotonic_ns() - before - int(WATCH_S * NANO)
            with self._lock:
                self._held_up = max(self._held_up, late)

    def set(self, request: bytes, context: object) -> bytes:
        with self._lock:
            self._set = json.loads(request)
            self._begin()
        return b""

    def serve(self, request: bytes, context: object) -> bytes:
        number, service = _REQUEST.unpack(request)
        with self._lock:
            came = time.monotonic_ns()
            if self._queue is None:
                self._queue = self._made(came)
            end = int(self._queue.finish(came, service * NANO))
        while (left := end - time.monotonic_ns()) > 0:
            time.sleep(left / NANO)
        self._record.append((number, came, end, time.monotonic_ns()))
        return b""

    def _made(self, came: int) -> Fifo:
        stall = self._set["stall"]
        span = None if stall is None else (came + stall[0] * NANO, came + stall[1] * NANO)
        return Fifo(self._set["workers"], span)

    def record(self, request: bytes, context: object) -> bytes:
        with self._lock:
            rows = [(self._held_up, 0, 0, 0), *self._record]
        return np.array(rows, dtype=np.int64).tobytes()


@dataclass(frozen=True)
class Record:
    """What the server did, int64 [requests] in nanoseconds of the monotonic clock, by number.

    Attributes:
        held_up_ms: how long it stood still at most, as a thread of it saw that only sleeps.
    """

    held_up_ms: float
    number: NDArray[np.int64]
    came: NDArray[np.int64]
    finished: NDArray[np.int64]
    answered: NDArray[np.int64]

    @property
    def oversleep_ms(self) -> float:
        """How late nine of ten answers were sent at most: how busy the machine is."""
        return float(np.percentile(self.answered - self.finished, 90)) / 1e6


class TimedServer:
    """A running one, and the way to it."""

    def __init__(self, channel: grpc.Channel, pid: int) -> None:
        self.pid = pid
        self._set = channel.unary_unary(f"/{SERVICE}/Set")
        self._serve = channel.unary_unary(f"/{SERVICE}/Serve")
        self._record = channel.unary_unary(f"/{SERVICE}/Record")

    def begin(self, workers: int, *, stall: Stall | None = None) -> None:
        """An empty queue; a stall is told in seconds since the first request comes."""
        self._set(json.dumps({"workers": workers, "stall": stall}).encode(), timeout=60)

    def sender(self, services: Times) -> Any:
        """What a load generator is given: the n-th request takes the n-th time, in seconds."""

        def send(number: int) -> None:
            self._serve(_REQUEST.pack(number, services[number]), timeout=60)

        return send

    def record(self) -> Record:
        told = np.frombuffer(self._record(b"", timeout=60), np.int64).reshape(-1, 4)
        rows = told[1:]
        return Record(float(told[0, 0]) / 1e6, *rows[np.argsort(rows[:, 0])].T)


@contextmanager
def timed_server() -> Iterator[TimedServer]:
    """Starts the server and ends it."""
    with subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            port = int(process.stdout.readline())
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                grpc.channel_ready_future(channel).result(timeout=60)
                yield TimedServer(channel, process.pid)
        finally:
            process.terminate()


def main() -> None:
    handlers = _Handlers()
    server = grpc.server(ThreadPoolExecutor(THREADS))
    methods = {"Set": handlers.set, "Serve": handlers.serve, "Record": handlers.record}
    handlers_of = {
        name: grpc.unary_unary_rpc_method_handler(method) for name, method in methods.items()
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers_of)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
