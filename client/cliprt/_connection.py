"""How a client reaches its server: addresses, TLS, keepalive, headers, retries.

Everything here is checked when it is written down, before anything is sent. client/CONNECTION.md
says why the defaults are what they are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from cliprt._arguments import checked_address
from cliprt._loopback import is_loopback

Token: TypeAlias = "str | Callable[[], str]"
"""A bearer token, or what fetches the one of the moment."""

_DNS = "dns:///"
_HEADER = re.compile(r"[a-z0-9_.-]+")
_PRINTABLE = re.compile(r"[\x20-\x7e]*")

# gRPC itself makes no more than this many attempts.
_MOST_ATTEMPTS = 5


@dataclass(frozen=True)
class Tls:
    """Encryption, and proof of who the server and the client are.

    The server's certificate is always checked; there is no way to switch that off. Files are read
    when a connection is made: after a certificate was replaced, make a new client.

    Attributes:
        ca: certificates (PEM) that may have signed the server's: a file, or the bytes. None means
            the public authorities that gRPC carries with it.
        certificate: the client's own certificate (PEM), for servers that want one (mutual TLS).
        key: its private key (PEM).
        server_name: the name that the server's certificate must be for; None means the host name
            of the endpoint. For endpoints whose certificate is for another name than they are
            reached by, as behind a forwarded port or in a list of several hosts.

    Raises:
        ValueError: a file cannot be read or is no PEM, or certificate comes without key.
    """

    ca: str | os.PathLike[str] | bytes | None = None
    certificate: str | os.PathLike[str] | bytes | None = None
    key: str | os.PathLike[str] | bytes | None = field(default=None, repr=False)
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together; pass both for mutual TLS")
        if self.server_name == "":
            raise ValueError("server_name must not be empty; None means the endpoint's host name")
        self.read()

    def read(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """The authorities, the private key and the certificate, as PEM.

        Raises:
            ValueError: a file cannot be read or is no PEM.
        """
        return (
            _pem("ca", self.ca, "CERTIFICATE"),
            _pem("key", self.key, "PRIVATE KEY"),
            _pem("certificate", self.certificate, "CERTIFICATE"),
        )


@dataclass(frozen=True)
class Retry:
    """Trying again while a request's timeout lasts; the pauses between attempts grow and vary.

    Only UNAVAILABLE is tried again: Triton's word for a full queue and for a request that waited
    too long in it, and gRPC's for a broken connection. An embedding may be computed twice without
    harm.

    Attributes:
        attempts: how often one request is tried at most, 2 to 5 (gRPC's own bound).
        first_pause_s: before the second attempt, in seconds; each further pause is four times as
            long, and each varies by a fifth so that clients do not come back in step.
        greatest_pause_s: no pause is longer, in seconds.
        wait_for_server: once a server has answered, wait for it whenever it is gone, as long as
            the request's timeout allows; for streams that must survive a restart. NOT_FOUND is
            tried again, too, because a server that shuts down unloads its models first. Otherwise
            a request to a server that is gone fails after its attempts.

    Raises:
        ValueError: a number is out of its range.
    """

    attempts: int = 4
    first_pause_s: float = 0.1
    greatest_pause_s: float = 5.0
    wait_for_server: bool = False

    def __post_init__(self) -> None:
        if not 2 <= self.attempts <= _MOST_ATTEMPTS:
            raise ValueError(
                f"attempts must lie in 2 to {_MOST_ATTEMPTS}, which is gRPC's own bound, got "
                f"{self.attempts}; wait_for_server waits for a server that is gone, whatever that "
                "takes"
            )
        if not 0.001 <= self.first_pause_s <= self.greatest_pause_s <= 600:
            raise ValueError(
                "pauses must satisfy 0.001 <= first_pause_s <= greatest_pause_s <= 600, got "
                f"{self.first_pause_s} and {self.greatest_pause_s}"
            )


@dataclass(frozen=True)
class Connection:
    """Where the server is and how to talk to it.

    Attributes:
        endpoints: ``host:port``; or ``dns:///name:port``, whose addresses take turns and are
            looked up again when one is lost; or a list of ``host:port`` that take turns. Names in
            a list are looked up once, when the client is made. All endpoints must serve the same
            models.
        tls: None means plain text. There is no falling back from one to the other.
        keepalive_s: a server that does not answer a ping within 10 s is given up; it is pinged
            when nothing was heard for this long during a request, in seconds. None never pings.
            Servers that were not told to permit it hang up after three to four pings without an
            answer in between: where requests last longer than two minutes, pass 300 or more.
        metadata: headers of every request, as pairs; names in lower case.
        auth: a bearer token for the header ``authorization``, or a function that is called for
            every request, from the thread that makes it, and returns the token of the moment.
        auth_over_plaintext: send the token without TLS to other machines than this one; whoever
            sees the traffic can read it.
        retry: None makes one attempt.
        shared_memory: put inputs where a server on this machine reads them, instead of sending
            them. Where the server cannot or will not, they are sent as usual and the log says so.

    Raises:
        ValueError: an option is malformed, or two contradict each other.
    """

    endpoints: str | Sequence[str]
    tls: Tls | None = None
    keepalive_s: float | None = 30.0
    metadata: Sequence[tuple[str, str]] | Mapping[str, str] = field(default=(), repr=False)
    auth: Token | None = field(default=None, repr=False)
    auth_over_plaintext: bool = False
    retry: Retry | None = Retry()
    shared_memory: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "endpoints", _checked_endpoints(self.endpoints))
        object.__setattr__(self, "metadata", _checked_metadata(self.metadata))
        if self.keepalive_s is not None and not 1 <= self.keepalive_s <= 86_400:
            raise ValueError(f"keepalive_s must lie in 1 to 86,400, got {self.keepalive_s}")
        if self.shared_memory and self.several:
            raise ValueError(
                "shared_memory needs one server, on this machine; name it as host:port"
            )
        self._check_tls()
        self._check_auth()

    @property
    def address(self) -> str:
        """The endpoints as text, for messages."""
        return self.endpoints if isinstance(self.endpoints, str) else ", ".join(self.endpoints)

    @property
    def several(self) -> bool:
        """Whether addresses take turns."""
        return not isinstance(self.endpoints, str) or self.endpoints.startswith(_DNS)

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts of the endpoints, without brackets, each once."""
        endpoints = (self.endpoints,) if isinstance(self.endpoints, str) else self.endpoints
        plain = (each.removeprefix(_DNS).rpartition(":")[0].strip("[]") for each in endpoints)
        return tuple(dict.fromkeys(plain))

    @property
    def local(self) -> bool:
        """Whether every endpoint is this machine."""
        return all(is_loopback(host) for host in self.hosts)

    def _check_tls(self) -> None:
        listed = not isinstance(self.endpoints, str)
        if self.tls and not self.tls.server_name and listed and len(self.hosts) > 1:
            raise ValueError(
                "with TLS a list of several hosts needs Tls(server_name=...), one name that all "
                "their certificates are for; or use dns:///name:port"
            )

    def _check_auth(self) -> None:
        if self.auth is None:
            return
        if isinstance(self.auth, str):
            checked_token(self.auth)
        elif not callable(self.auth):
            raise ValueError(f"auth must be a token or a function, got {type(self.auth).__name__}")
        if self.tls is None and not self.local and not self.auth_over_plaintext:
            raise ValueError(
                f"auth would travel to {self.address} in plain text; pass tls=Tls(...), or "
                "auth_over_plaintext=True where the network itself is trusted"
            )
        if "authorization" in dict(self.metadata):
            raise ValueError("authorization stands in metadata and in auth; pass one of them")


def checked_token(token: str) -> str:
    """A bearer token, if it can be sent.

    Raises:
        ValueError: it is empty or holds what a header cannot.
    """
    if not token or not _PRINTABLE.fullmatch(token):
        # The token itself must not appear in a log.
        raise ValueError("the token of auth must be printable ASCII and not empty")
    return token


def _checked_endpoints(endpoints: str | Sequence[str]) -> str | tuple[str, ...]:
    if isinstance(endpoints, str):
        if endpoints.startswith(_DNS):
            return _DNS + checked_address(endpoints.removeprefix(_DNS))
        return checked_address(endpoints)
    checked = tuple(map(checked_address, endpoints))
    if not checked:
        raise ValueError("endpoints is empty; name at least one host:port")
    if len(set(checked)) < len(checked):
        raise ValueError(f"an endpoint stands twice in the list: {', '.join(checked)}")
    return checked


def _checked_metadata(
    metadata: Sequence[tuple[str, str]] | Mapping[str, str],
) -> tuple[tuple[str, str], ...]:
    pairs = metadata.items() if isinstance(metadata, Mapping) else metadata
    return tuple(_checked_header(name, value) for name, value in pairs)


def _checked_header(name: str, value: str) -> tuple[str, str]:
    if not _HEADER.fullmatch(name) or name.startswith("grpc-") or name.endswith("-bin"):
        raise ValueError(
            f"the header {name!r} cannot be sent; names hold lower-case letters, digits, '_', "
            "'.' and '-', do not start with grpc- (which is gRPC's own) nor end in -bin"
        )
    if not _PRINTABLE.fullmatch(value):
        raise ValueError(f"the value of the header {name!r} must be printable ASCII")
    return name, value


def _pem(what: str, source: str | os.PathLike[str] | bytes | None, kind: str) -> bytes | None:
    if source is None:
        return None
    origin = "the bytes given"
    if not isinstance(source, bytes):
        origin = str(source)
        try:
            source = Path(source).read_bytes()
        except OSError as error:
            raise ValueError(f"{what} cannot be read: {origin}: {error.strerror}") from None
    if not re.search(rb"-----BEGIN [A-Z ]*" + kind.encode() + rb"-----", source):
        raise ValueError(f"{what} must be PEM with a {kind}, {origin} is not")
    return source
