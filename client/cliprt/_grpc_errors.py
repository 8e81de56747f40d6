"""What failed calls mean: gRPC's and Triton's words as cliprt's errors."""

from __future__ import annotations

import re
from typing import Any

import grpc

from cliprt._connection import Connection
from cliprt._errors import (
    CliprtError,
    DeadlineExceeded,
    DeploymentError,
    InvalidInput,
    ModelUnavailable,
    Overloaded,
    ServerError,
    ServerUnavailable,
)
from cliprt._names import OVERLOAD_TEXTS, UNHEALTHY_TEXT

_MODEL_TEXTS = ("unknown model", "no available versions", "is not ready", "requested model '")

_PORTS = "8001 by default, not the HTTP port 8000 or the metrics port 8002"

# A dead server and one that refuses have the same status. gRPC and proxies speak of the network.
_OF_THE_NETWORK = re.compile(
    r"connect|socket|transport|channel|address|resol|lookup|dns|goaway|keepalive|\bping|stream|"
    r"http|endpoint|network|\bhost|pipe|tcp|recvmsg|sendmsg|handshake|ipv[46]:|unix:|upstream"
)
_STOPPING_TEXTS = ("server is stopping", "has stopped accepting", "server not ready")

# The status is INTERNAL, as of a model that fails on a request.
_LOST_TEXT = "stub process '"

# What Triton puts before the words of a model: once for each ensemble, and the request's name.
_PREFIX = re.compile(r"^(in ensemble '[^']*', |\[request id: [^\]]*\] )+")
_ITEM = re.compile(r"^(item|label) (\d+): (.*)$", re.DOTALL)

# The handshake's failures, most telling first.
_TLS_TEXTS = (
    (
        "Hostname Verification Check failed",
        "its certificate is for another name; reach it by the name in its certificate, or name "
        "that with Tls(server_name=...)",
    ),
    (
        "certificate has expired",
        "its certificate has expired; renew it there (and check the clock here)",
    ),
    (
        "certificate is not yet valid",
        "its certificate is not valid yet; check the clocks on both sides",
    ),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "its certificate was signed by none of the authorities that are trusted here; pass the "
        "one that signed it with Tls(ca=...)",
    ),
    (
        "WRONG_VERSION_NUMBER",
        "it speaks plain text, not TLS; leave tls out, or turn TLS on at the server",
    ),
)


def translate(error: Any, connection: Connection, timeout_s: float, *, lost: bool) -> CliprtError:
    """The error of cliprt that a failed call stands for.

    Args:
        error: of gRPC, with ``code()`` and ``details()``.
        connection: over which the call went.
        timeout_s: the call's deadline, in seconds.
        lost: the call waited for a server that had gone.
    """
    code, details = error.code(), server_text(error)
    address, text = connection.address, details.lower()
    if code == grpc.StatusCode.DEADLINE_EXCEEDED and lost:
        return ServerUnavailable(
            f"{address} was lost and did not come back within {timeout_s:g} s; check that the "
            "server runs, or pass a longer timeout_s"
        )
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(
            f"{address} did not answer within {timeout_s:g} s; try again, pass a longer timeout_s, "
            "or send smaller batches"
        )
    if code == grpc.StatusCode.UNAVAILABLE and UNHEALTHY_TEXT in text:
        # First: it may quote any of what follows.
        return ServerError(f"the server at {address} says: {details}")
    if code == grpc.StatusCode.INVALID_ARGUMENT and (item := _ITEM.match(details)):
        return InvalidInput(item[3], index=int(item[2]), what=item[1])
    if any(sign in text for sign in OVERLOAD_TEXTS):
        return Overloaded(
            f"{address} has more requests than it can queue ({details}); "
            "wait before trying again, or send fewer at once"
        )
    if code == grpc.StatusCode.NOT_FOUND or any(sign in text for sign in _MODEL_TEXTS):
        return ModelUnavailable(
            f"{address} does not serve the model: {details}; "
            "check the model's name and the server's log, and whether the server is shutting down"
        )
    if lost_process(error):
        return ServerUnavailable(
            f"{address} has lost the process of a model ({details}); cliprt serve starts such a "
            "server again, others have to be restarted"
        )
    if code == grpc.StatusCode.CANCELLED:
        return ServerUnavailable(f"{address} cancelled the request, it is probably shutting down")
    if code == grpc.StatusCode.UNAVAILABLE and "protocol is restricted" in text:
        return _restricted(address, details)
    if code == grpc.StatusCode.UNAVAILABLE and any(sign in text for sign in _STOPPING_TEXTS):
        return ServerUnavailable(
            f"the server at {address} is about to stop or to start ({details}); wait before trying "
            "again"
        )
    if code == grpc.StatusCode.UNAVAILABLE and text and not _OF_THE_NETWORK.search(text):
        return ServerError(
            f"the server at {address} is there and refuses the request: {details}; see its log"
        )
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNIMPLEMENTED):
        return _unreachable(connection, details)
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return ServerError(
            f"{address} refuses this client ({details}); check auth and metadata of the connection"
        )
    return ServerError(f"{address} failed on the request ({code.name}): {details}")


def lost_process(error: Any) -> bool:
    """Whether the process of a model has died, which lasts until the server is started again."""
    return error.code() == grpc.StatusCode.INTERNAL and _LOST_TEXT in server_text(error).lower()


def server_text(error: Any) -> str:
    """The words of the model or of gRPC, without what Triton puts before them."""
    return _PREFIX.sub("", error.details() or "")


def _restricted(address: str, details: str) -> CliprtError:
    return ServerError(
        f"{address} keeps this call for those who know its header ({details}); pass it as "
        "metadata of the connection, under triton-grpc-protocol-NAME"
    )


def _unreachable(connection: Connection, details: str) -> CliprtError:
    address = connection.address
    if connection.tls is not None:
        for sign, meaning in _TLS_TEXTS:
            if sign in details:
                return _handshake(f"no TLS connection to {address}: {meaning}. Cause: {details}")
    if "failed" in details and "Socket closed" in details:
        return _hung_up(connection, details)
    if "lookup failed" in details or "errors resolving" in details:
        return ServerUnavailable(
            f"the name in {address} cannot be looked up; check its spelling and the name service. "
            f"Cause: {details}"
        )
    return ServerUnavailable(
        f"no Triton gRPC server answers at {address}; check that it runs and that this is its "
        f"gRPC port ({_PORTS}). Cause: {details}"
    )


def _hung_up(connection: Connection, details: str) -> CliprtError:
    """The connection was taken and closed before a word was said."""
    address, tls = connection.address, connection.tls
    if tls is None:
        why = (
            "it took the connection and hung up, as servers do that want TLS; pass tls=Tls(...), "
            f"or check that this is its gRPC port ({_PORTS})"
        )
        return ServerUnavailable(f"no connection to {address}: {why}. Cause: {details}")
    if tls.certificate is None:
        why = (
            "it hung up after the handshake, as servers do that want a certificate of the client; "
            "pass Tls(certificate=..., key=...)"
        )
    else:
        why = (
            "it hung up after the handshake, as servers do that do not accept the client's "
            "certificate; check that it has not expired and that the server trusts who signed it"
        )
    return _handshake(f"no TLS connection to {address}: {why}. Cause: {details}")


def _handshake(message: str) -> DeploymentError:
    return ServerError(message)
