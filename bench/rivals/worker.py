"""A rival's process: loads an adapter and answers requests on a Unix socket.

It runs in the rival's own environment, with the standard library, NumPy and the rival. On standard
output it writes one line of JSON once it can be asked, ``{"versions": {...}, "threads": true}``, or
``{"failed": "..."}`` if the adapter cannot be loaded. It ends when its standard input ends, so that
it never outlives whoever started it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import sys
import threading
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from rivals.adapters import Adapter, load_adapter
from rivals.protocol import (
    ProtocolError,
    pack_embeddings,
    pack_error,
    receive_frame,
    send_frame,
    unpack_request,
)
from rivals.reasons import reason_of


class Server:
    """Answers connections, each in a thread of its own.

    Requests go to the adapter one at a time, unless it says that threads may call it at once: what
    a user of that library has to do as well.
    """

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter
        self._gate: Any = contextlib.nullcontext() if adapter.threads else threading.Lock()

    def serve(self, listener: socket.socket) -> None:
        """Accepts connections until the listener is shut down."""
        while True:
            try:
                stream, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self.answer_all, args=(stream,), daemon=True).start()

    def answer_all(self, stream: socket.socket) -> None:
        """Answers the requests of a connection until it ends."""
        with stream, contextlib.suppress(ProtocolError, OSError):
            while (payload := receive_frame(stream)) is not None:
                send_frame(stream, self._answer(payload))

    def _answer(self, payload: bytes) -> bytes:
        try:
            kind, items = unpack_request(payload)
            with self._gate:
                rows = self._adapter.embed(kind, items)
            return pack_embeddings(checked(rows, len(items)))
        # Whatever a rival raises is its answer to this request, not the end of the process.
        except Exception as error:  # noqa: BLE001
            return pack_error(reason_of(error))


def checked(rows: NDArray[Any], count: int) -> NDArray[np.float32]:
    """Embeddings as float32 [n, dim] of length 1.

    Raises:
        ValueError: they are not so many rows, or not finite.
    """
    rows = np.asarray(rows, np.float32)
    if rows.ndim != 2 or len(rows) != count:
        raise ValueError(f"{count} items were asked, the answer has the shape {list(rows.shape)}")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or not lengths.all():
        raise ValueError("the answer has rows that are zero or not finite")
    return np.asarray(rows / lengths, np.float32)


def main() -> None:
    """Loads, reports, serves."""
    parser = argparse.ArgumentParser()
    parser.add_argument("adapter")
    parser.add_argument("socket")
    parser.add_argument("settings", help="keyword arguments of the adapter, as JSON")
    arguments = parser.parse_args()
    # Libraries print; standard output is the report's alone.
    report = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        adapter = load_adapter(arguments.adapter, json.loads(arguments.settings))
    except Exception as error:  # noqa: BLE001
        _tell(report, failed=reason_of(error))
        sys.exit(1)
    try:
        _serve(adapter, arguments.socket, report)
    finally:
        adapter.close()


def _serve(adapter: Adapter, path: str, report: TextIO) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen(128)

        def end() -> None:
            sys.stdin.buffer.read()
            # This wakes the thread that accepts.
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)

        threading.Thread(target=end, daemon=True).start()
        _tell(report, versions=adapter.versions(), threads=adapter.threads)
        Server(adapter).serve(listener)


def _tell(report: TextIO, **line: Any) -> None:
    report.write(json.dumps(line) + "\n")
    report.flush()


if __name__ == "__main__":
    main()
