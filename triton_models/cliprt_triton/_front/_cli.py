"""The options of ``cliprt serve`` that concern the HTTP front."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from cliprt._limits import Limits
from cliprt_triton._front._app import DEFAULT_MAX_BODY_BYTES, openai_app
from cliprt_triton._front._keys import read_api_keys
from cliprt_triton._front._process import log_accesses

if TYPE_CHECKING:
    from starlette.types import ASGIApp

_MIB = 2**20


@dataclass(frozen=True)
class FrontOptions:
    """What was asked for on the command line.

    Attributes:
        wanted: whether there is a front.
        port: where it listens; 0 picks a port.
        api_keys: keys that open it.
        max_body_bytes: longest body.
        access_log: whether each request is logged.
    """

    wanted: bool
    port: int
    api_keys: tuple[str, ...]
    max_body_bytes: int
    access_log: bool

    def app(self, address: str, *, model: str, limits: Limits) -> ASGIApp:
        """The application for a Triton server.

        Raises:
            MissingExtra: the extra ``http`` is not installed.
        """
        if self.access_log:
            log_accesses()
        return openai_app(
            address,
            model=model,
            limits=limits,
            api_keys=self.api_keys,
            max_body_bytes=self.max_body_bytes,
            access_log=self.access_log,
        )


def front_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options to a command, which gets them as one ``FrontOptions`` named ``front``."""

    @click.option(
        "--http", "wanted", is_flag=True, help="Serve OpenAI's embeddings protocol over HTTP too."
    )
    @click.option(
        "--openai-port",
        default=8080,
        show_default=True,
        type=click.IntRange(0, 65535),
        help="Port of --http; 0 picks one.",
    )
    @click.option(
        "--api-key-file",
        type=click.Path(path_type=Path),
        help="File with the API keys that --http accepts, one on each line [default: open].",
    )
    @click.option(
        "--max-body-mib",
        default=DEFAULT_MAX_BODY_BYTES // _MIB,
        show_default=True,
        type=click.IntRange(1, 1024),
        help="Longest body that --http takes, in MiB.",
    )
    @click.option("--access-log", is_flag=True, help="Log each request of --http as JSON.")
    @functools.wraps(command)
    def with_front(
        wanted: bool,
        openai_port: int,
        api_key_file: Path | None,
        max_body_mib: int,
        access_log: bool,
        **others: Any,
    ) -> Any:
        if not wanted:
            _refuse_without_front()
        keys = read_api_keys(api_key_file) if api_key_file else ()
        front = FrontOptions(wanted, openai_port, keys, max_body_mib * _MIB, access_log)
        return command(front=front, **others)

    return with_front


def _refuse_without_front() -> None:
    """Refuses options that would change nothing: a key file above all, which looks like a lock."""
    context = click.get_current_context()
    for name in ("openai_port", "api_key_file", "max_body_mib", "access_log"):
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name.replace('_', '-')} needs --http")
