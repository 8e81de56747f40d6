"""The kernel's count of what went over the wire."""

from __future__ import annotations

import socket
import time
from pathlib import Path

from cliprt_bench._wire import tcp_bytes


def test_what_is_sent_and_received_is_counted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
        with near, far:
            before = tcp_bytes()
            near.sendall(b"x" * 12_345)
            got = 0
            while got < 12_345:
                got += len(far.recv(65_536))
            assert before is not None
            expected = (before[0] + 12_345, before[1] + 12_345)
            until = time.monotonic() + 10  # the acknowledgement takes a moment
            while (after := tcp_bytes()) != expected and time.monotonic() < until:
                time.sleep(0.01)
            assert after == expected


def test_nothing_is_left_open() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        tcp_bytes()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
