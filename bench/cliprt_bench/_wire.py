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
        with suppress(OSError):  # no socket, none of TCP, or closed meanwhile
            with socket.socket(fileno=os.dup(int(name))) as one:
                if one.family not in (socket.AF_INET, socket.AF_INET6):
                    continue
                info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
            if len(info) >= _LENGTH:
                sent += struct.unpack_from("=Q", info, _ACKED)[0]
                received += struct.unpack_from("=Q", info, _RECEIVED)[0]
    return sent, received


def _descriptors() -> list[str]:
    try:
        return [path.name for path in Path("/proc/self/fd").iterdir()]
    except OSError:
        return []
