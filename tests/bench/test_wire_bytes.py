"""The kernel's count of what went over the wire."""

from __future__ import annotations

import os
import subprocess
import sys

COUNTED = """
import socket, time
from cliprt_bench._wire import tcp_bytes

with socket.create_server(("127.0.0.1", 0)) as server:
    near = socket.create_connection(server.getsockname())
    far, _ = server.accept()
    with near, far:
        before = tcp_bytes()
        near.sendall(b"x" * 12_345)
        got = 0
        while got < 12_345:
            got += len(far.recv(65_536))
        expected = (before[0] + 12_345, before[1] + 12_345)
        until = time.monotonic() + 60  # the acknowledgement takes a moment
        while (after := tcp_bytes()) != expected and time.monotonic() < until:
            time.sleep(0.01)
        assert after == expected, (before, after)
"""

LEFT_OPEN = """
from pathlib import Path
from cliprt_bench._wire import tcp_bytes

def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))

before = descriptors()
for _ in range(20):
    tcp_bytes()
assert descriptors() == before
"""


def alone(program: str) -> None:
    """Runs a program in a process that has no connections and files but its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_is_sent_and_received_is_counted() -> None:
    alone(COUNTED)


def test_nothing_is_left_open() -> None:
    alone(LEFT_OPEN)
