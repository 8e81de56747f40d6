"""What real Tritons leave on this machine: processes and shared memory."""

from __future__ import annotations

import os
import subprocess


def servers_at(address: str) -> list[str]:
    """Processes that were told to listen at an address."""
    lines = subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True, check=True)
    port = address.strip().rsplit(":", 1)[1]
    return [line for line in lines.stdout.splitlines() if f"--grpc-port={port} " in line]


def processes_with(text: str) -> set[int]:
    """Numbers of processes whose command line holds a text."""
    lines = subprocess.run(["ps", "axww", "-o", "pid,args"], capture_output=True, text=True)
    return {int(line.split()[0]) for line in lines.stdout.splitlines() if text in line}


def shared_memory() -> set[str]:
    """Regions of the servers that this process has started, by name."""
    ours = f"cliprt-{os.getpid()}-"
    return {name for name in os.listdir("/dev/shm") if name.startswith(ours)}  # noqa: PTH208
