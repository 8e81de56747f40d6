"""Bytes that this process has sent and received over TCP, as the kernel counted them."""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress
from pathlib import Path

# Fields of Linux's ``struct tcp_info`` (include/uapi/linux/tcp.h): tcpi_bytes_acked and
# tcpi_bytes_received, 64 bits each.
_ACKED, _RECEIVED = 120, 128
_LENGTH = 136


def tcp_bytes() -> tuple[int, int] | None:
    """Bytes sent (and acknowledged) and received by the open connections of this process.

    Connections that were closed meanwhile no longer count, so a difference between two moments is
    only right if none was. None where the system does not tell.
    """
    if not hasattr(socket, "TCP_INFO"):
        return None
    sent = received = 0
    for name in _descriptors():
        info = _tcp_info(int(name))
        if info is not None:
            sent += struct.unpack_from("=Q", info, _ACKED)[0]
            received += struct.unpack_from("=Q", info, _RECEIVED)[0]
    return sent, received


def _tcp_info(descriptor: int) -> bytes | None:
    """What the kernel knows of a connection; None of what is no connection of TCP."""
    try:
        copy = os.dup(descriptor)
    except OSError:  # closed meanwhile
        return None
    try:
        one = socket.socket(fileno=copy)
    except OSError:  # no socket
        os.close(copy)
        return None
    with one, suppress(OSError):
        if one.family in (socket.AF_INET, socket.AF_INET6):
            info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
            return info if len(info) >= _LENGTH else None
    return None


def _descriptors() -> list[str]:
    try:
        return [path.name for path in Path("/proc/self/fd").iterdir()]
    except OSError:
        return []
