"""The options of a command that say how a server is reached."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from cliprt._connection import Connection, Tls

_FILE = click.Path(path_type=Path)


@dataclass(frozen=True)
class ConnectionOptions:
    """What was asked for on the command line.

    Attributes:
        tls: None means plain text.
        token: a bearer token; None sends none.
    """

    tls: Tls | None
    token: str | None

    def to(self, endpoint: str | Sequence[str]) -> Connection:
        """How this endpoint is reached.

        Args:
            endpoint: ``host:port`` or ``dns:///name:port``, or a list of ``host:port``.

        Raises:
            click.UsageError: it is malformed, or the token would travel there in plain text.
        """
        try:
            plain = Connection(endpoint, tls=self.tls)
            if self.token is not None and self.tls is None and not plain.local:
                raise click.UsageError(
                    f"the token would travel to {plain.address} in plain text; use --tls, or "
                    "--tls-ca with the authority that signed its certificate"
                )
            return Connection(endpoint, tls=self.tls, auth=self.token)
        except ValueError as error:
            raise click.UsageError(str(error)) from None


def connection_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options to a command, which gets them as ``ConnectionOptions`` named ``via``."""

    @click.option(
        "--tls",
        "wanted",
        is_flag=True,
        help="Use TLS, with the public authorities unless --tls-ca names others. The other --tls "
        "options mean it, too.",
    )
    @click.option(
        "--tls-ca", type=_FILE, help="Certificates (PEM) that may have signed the server's."
    )
    @click.option(
        "--tls-certificate", type=_FILE, help="A certificate (PEM) for servers that want one."
    )
    @click.option("--tls-key", type=_FILE, help="The private key of --tls-certificate.")
    @click.option(
        "--tls-server-name",
        help="Name that the server's certificate must be for [default: the host].",
    )
    @click.option(
        "--token-file",
        type=_FILE,
        help="File with a bearer token, sent over TLS or to this machine alone.",
    )
    @functools.wraps(command)
    def with_connection(
        *args: Any,
        wanted: bool,
        tls_ca: Path | None,
        tls_certificate: Path | None,
        tls_key: Path | None,
        tls_server_name: str | None,
        token_file: Path | None,
        **others: Any,
    ) -> Any:
        named = {
            "ca": tls_ca,
            "certificate": tls_certificate,
            "key": tls_key,
            "server_name": tls_server_name,
        }
        given = {name: value for name, value in named.items() if value is not None}
        token = None if token_file is None else _token(token_file)
        via = ConnectionOptions(_tls(given) if wanted or given else None, token)
        return command(*args, via=via, **others)

    return with_connection


def _tls(given: dict[str, Any]) -> Tls:
    if ("certificate" in given) != ("key" in given):
        raise click.UsageError("--tls-certificate and --tls-key belong together")
    try:
        return Tls(**given)
    except ValueError as error:
        raise click.UsageError(f"TLS: {error}") from None


def _token(file: Path) -> str:
    """The token in a file, without the line's end."""
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise click.UsageError(f"--token-file {file} cannot be read: {reason}") from None
    if not token:
        raise click.UsageError(f"--token-file {file} is empty")
    return token
