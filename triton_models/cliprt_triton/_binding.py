"""Where servers listen: on this machine alone, unless it was said that others may come."""

from __future__ import annotations

import logging
import socket

from cliprt._errors import ServerStartError
from cliprt._loopback import is_loopback
from cliprt_triton._server_flags import ServerTls

_log = logging.getLogger("cliprt")


def is_remote(host: str) -> bool:
    """Whether other machines can reach what listens on an address.

    Args:
        host: an address, or a name, which is looked up; one that is not found is no address at all.
    """
    if is_loopback(host):
        return False
    try:
        found = socket.getaddrinfo(host or "0.0.0.0", None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False  # nothing can listen there, and whoever tries is told so
    return not all(is_loopback(str(address[0])) for *_, address in found)


def check_host(host: str, *, allow_remote: bool) -> None:
    """Lets a server listen on an address that others reach only if that was said.

    Raises:
        ServerStartError: other machines can reach it, and that was not said.
    """
    if not allow_remote and is_remote(host):
        raise ServerStartError(
            f"{host or 'no address'} can be reached from other machines, and whoever reaches a "
            "server may use it; listen on 127.0.0.1, or say that this is meant with "
            "--allow-remote (in Python: allow_remote=True), and see SECURITY.md before"
        )


def warn_of_what_is_open(
    grpc: str, metrics: str, http: str | None, *, host: str, tls: ServerTls | None
) -> None:
    """Logs a line for each door of a Triton that stands open to other machines.

    Args:
        grpc: address of gRPC.
        metrics: URL of the metrics.
        http: URL of HTTP, or None.
        host: that all of them listen on.
        tls: of gRPC.
    """
    if not is_remote(host):
        return
    if tls is None:
        _log.warning(
            "gRPC on %s is open to other machines, in plain text and to whoever comes; "
            "--tls-certificate and --tls-key hide it, --tls-client-ca closes it", grpc,
        )  # fmt: skip
    elif tls.client_ca is None:
        _log.warning(
            "gRPC on %s is open to whoever comes from other machines; --tls-client-ca closes it",
            grpc,
        )
    if http is not None:
        _log.warning(
            "HTTP on %s is open to other machines, in plain text and to whoever comes, whatever "
            "gRPC has; put a proxy before it that has TLS and knows its callers", http,
        )  # fmt: skip
    _log.warning("the metrics on %s can be read from other machines, in plain text", metrics)


def warn_of_open_front(url: str, *, host: str, keys: bool) -> None:
    """Logs a line for an HTTP front that stands open to other machines.

    Args:
        url: where it is served.
        host: that it listens on.
        keys: whether it wants API keys.
    """
    if is_remote(host):
        whom = "" if keys else " and to whoever comes; --api-key-file closes it"
        _log.warning("HTTP on %s is open to other machines, in plain text%s", url, whom)
