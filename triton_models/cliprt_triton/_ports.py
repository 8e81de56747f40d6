"""Ports that servers listen on: those that were asked for, and free ones."""

from __future__ import annotations

import errno
import secrets
import socket
from contextlib import ExitStack
from pathlib import Path

from cliprt._errors import ServerStartError

_LENT_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_ports(host: str, *ports: int) -> list[int]:
    """The ports themselves if they are free, and free ones for 0; each another one."""
    with ExitStack() as stack:
        # All are held until the last is found, so that none is found twice.
        probes = [
            stack.enter_context(_bound(host, port) if port else _bound_anywhere(host))
            for port in ports
        ]
        return [int(probe.getsockname()[1]) for probe in probes]


def _bound_anywhere(host: str) -> socket.socket:
    """On a port that the system gives to nobody by itself, if there is one.

    Triton listens only when its models are loaded, and one that crashed again after a while. The
    system would give a port of its own range to any connection or server meanwhile.
    """
    for port in _unlent_ports():
        probe = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            probe.bind((host, port))
        except OSError as error:
            probe.close()
            if error.errno != errno.EADDRINUSE:
                break
        else:
            return probe
    return _bound(host, 0)


def _unlent_ports() -> list[int]:
    """Some ports below those that the system gives to who asks for none; none if it has no such."""
    try:
        lent = int(_LENT_PORTS.read_text(encoding="ascii").split()[0])
    except OSError:
        return []
    ports = range(20_000, min(lent, 30_000))  # Kubernetes serves on those from 30000 on
    return [secrets.choice(ports) for _ in range(100)] if ports else []


def _bound(host: str, port: int) -> socket.socket:
    probe = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if port:
        # As servers do: connections of a predecessor that still wait do not block the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind((host, port))
    except (OSError, OverflowError) as error:
        probe.close()
        reason = error.strerror if isinstance(error, OSError) else error
        raise ServerStartError(
            f"cannot listen on {host}:{port} ({reason}); choose another address or port"
        ) from None
    return probe
