"""What a tritonserver is told about security, keepalive and its response cache."""

from __future__ import annotations

import logging
import os
import re
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

from cliprt._errors import ServerStartError
from cliprt_triton._install import TritonInstall

# Clients may ping this often during a request; cliprt's own do every 30 s. Triton's default is five
# minutes, and to hang up on the third ping that comes sooner.
_PING_INTERVAL_MS = 5_000

# The server itself asks callers who are silent, and drops those who do not answer: their requests
# leave the queue. Triton's default is to ask after two hours.
_SILENCE_MS, _PATIENCE_MS = 20_000, 10_000

# What only the one who runs the server should do. Metadata, health, model-config, statistics and
# inference stay open, they are what clients need.
_ADMIN_PROTOCOLS = ("model-repository", "trace", "logging")

SECRET_HEADER = "cliprt-secret"

ADMIN_HEADER = f"triton-grpc-protocol-{SECRET_HEADER}"
"""Header of gRPC that carries the secret of who may administrate."""

# A lock without a key. A secret that is merely drawn would stand among the arguments, where every
# user of the machine can read it; no header can have a line break in it, nor gRPC capitals.
_FOR_NOBODY = "Cliprt-Nobody=no\nbody"

# As API keys, which are as easy to try over a network.
_LEAST = 16
_SENDABLE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")

_log = logging.getLogger("cliprt")


@dataclass(frozen=True)
class ServerTls:
    """TLS of a server: its certificate, and whether clients must show one of their own.

    Attributes:
        certificate: file with the server's certificate (PEM), and those between it and its root.
        key: file with its private key (PEM), without a passphrase.
        client_ca: file with the certificates (PEM) that may have signed the clients'; None asks
            clients for no certificate.

    Raises:
        ServerStartError: a file cannot be read, or certificate and key do not belong together.
    """

    certificate: str | os.PathLike[str]
    key: str | os.PathLike[str]
    client_ca: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        files = f"{self.certificate} and {self.key}"
        try:
            # A passphrase would be asked for on the terminal.
            context.load_cert_chain(self.certificate, self.key, password=_no_passphrase)
            if self.client_ca is not None:
                files = str(self.client_ca)
                context.load_verify_locations(self.client_ca)
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
            raise ServerStartError(
                f"no TLS with {files} ({reason}); pass readable PEM files, and a certificate with "
                "its own key"
            ) from None
        warn_of_readers(Path(self.key), "the private key")

    def arguments(self) -> list[str]:
        """Arguments of tritonserver."""
        arguments = [
            "--grpc-use-ssl=true",
            f"--grpc-server-cert={Path(self.certificate).resolve()}",
            f"--grpc-server-key={Path(self.key).resolve()}",
        ]
        if self.client_ca is not None:
            root = Path(self.client_ca).resolve()
            arguments += ["--grpc-use-ssl-mutual=true", f"--grpc-root-cert={root}"]
        return arguments


def access_arguments(
    install: TritonInstall,
    *,
    shared_memory: bool,
    admin_secret: str | None,
    load_at_start: bool,
    http: bool,
) -> list[str]:
    """Arguments that say which calls are for everybody.

    Args:
        install: the tritonserver.
        shared_memory: any client may register regions of this machine's shared memory.
        admin_secret: who sends it as the header ``triton-grpc-protocol-cliprt-secret`` may load
            models, trace and change logging; None lets nobody.
        load_at_start: all models are loaded at the start; without a secret they are in any case.
        http: HTTP is served, too.

    Raises:
        ServerStartError: the secret is short, or holds what no header can carry.
    """
    if admin_secret is not None and (
        len(admin_secret) < _LEAST or not _SENDABLE.fullmatch(admin_secret)
    ):
        # The secret itself stays out of the message, which may end up in a log.
        raise ServerStartError(
            f"the admin secret must have at least {_LEAST} characters of ASCII that can be "
            "printed, and no space at its ends; draw one, with 'openssl rand -hex 16' for instance"
        )
    key = _FOR_NOBODY if admin_secret is None else f"{SECRET_HEADER}={admin_secret}"
    closed = [*_ADMIN_PROTOCOLS] if shared_memory else [*_ADMIN_PROTOCOLS, "shared-memory"]
    rule = f"{','.join(closed)}:{key}"
    arguments = [f"--grpc-restricted-protocol={rule}"]
    if http:
        arguments.append(f"--http-restricted-api={rule}")
    if admin_secret is not None:
        # Otherwise Triton loads nothing on demand, whoever asks.
        arguments += ["--model-control-mode=explicit", *(["--load-model=*"] * load_at_start)]
    # Newer servers refuse shared memory of themselves; older ones do not know the word.
    if shared_memory and "--allow-client-shm" in _help(install):
        arguments.append("--allow-client-shm=true")
    return arguments


def keepalive_arguments() -> list[str]:
    """Arguments that let either side ask whether the other is still there."""
    return [
        f"--grpc-http2-min-recv-ping-interval-without-data={_PING_INTERVAL_MS}",
        f"--grpc-keepalive-time={_SILENCE_MS}",
        f"--grpc-keepalive-timeout={_PATIENCE_MS}",
        "--grpc-keepalive-permit-without-calls=1",
        # As often as that, however long nothing else is to be said.
        "--grpc-http2-max-pings-without-data=0",
    ]


def cache_arguments(install: TritonInstall, size_bytes: int | None) -> list[str]:
    """Arguments for a response cache of that many bytes, for models that ask for one."""
    if size_bytes is None:
        return []
    if size_bytes < 1:
        raise ServerStartError(f"the response cache must have bytes, got {size_bytes}")
    return [*install.cache_arguments, f"--cache-config=local,size={size_bytes}"]


def warn_of_readers(path: Path, what: str) -> None:
    """Logs a line where every user of the machine may read a secret."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    if mode & 0o004:
        _log.warning("every user of this machine can read %s in %s; chmod it to 600", what, path)


def _no_passphrase() -> str:
    raise ValueError("the key has a passphrase")


def _help(install: TritonInstall) -> str:
    try:
        run = subprocess.run(
            [str(install.binary), "--help"],
            env={**os.environ, **install.environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""  # it will not start either, and then it is told why
    return run.stdout + run.stderr
