"""The front's process: the same that started Triton; each ends when the other does."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

from cliprt._errors import ServerStartError
from cliprt._extras import require
from cliprt_triton._binding import check_host
from cliprt_triton._front._protocol import prompt_protocol

if TYPE_CHECKING:
    from starlette.types import ASGIApp

# Requests under way at a signal are answered within this time, then given up.
_GRACE_S = 30

# Longer than clients keep idle connections, so that they, not the server, close them.
_KEEP_ALIVE_S = 75


class FrontServer:
    """Serves an ASGI application in the main thread, beside something that runs by itself.

    Attributes:
        url: what clients of OpenAI's protocol take as their base.
    """

    def __init__(self, *, host: str, port: int, allow_remote: bool = False) -> None:
        """Takes the port; serves nothing yet.

        Args:
            host: IPv4 address to listen on.
            port: its port; 0 picks one.
            allow_remote: the host may be an address that other machines reach.

        Raises:
            MissingExtra: the extra ``http`` is not installed.
            ServerStartError: the port is taken, or the host is one that other machines reach and
                that is not allowed.
        """
        require("uvicorn", extra="http")
        check_host(host, allow_remote=allow_remote)
        self._socket = _listening(host, port)
        self.url = f"http://{host}:{self._socket.getsockname()[1]}/v1"

    def close(self) -> None:
        """Gives the port back, for those who never ran."""
        self._socket.close()

    def run(
        self,
        app: ASGIApp,
        beside: Callable[[], int],
        *,
        signals: tuple[signal.Signals, ...],
        on_ready: Callable[[], None],
    ) -> int | None:
        """Serves until a signal, or until what runs beside it ends; then answers what it has.

        Args:
            app: what to serve.
            beside: waits for what runs beside it and returns its status.
            signals: that end it; they are ignored from then on.
            on_ready: called once it listens.

        Returns:
            None after a signal, or what beside returned.

        Raises:
            ServerStartError: it ended by itself.
        """
        return asyncio.run(self._run(app, beside, signals, on_ready))

    async def _run(
        self,
        app: ASGIApp,
        beside: Callable[[], int],
        signals: tuple[signal.Signals, ...],
        on_ready: Callable[[], None],
    ) -> int | None:
        server = _server(app)
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[int | None] = loop.create_future()

        def end(status: int | None) -> None:
            if not ended.done():
                ended.set_result(status)

        def watch() -> None:
            status = beside()
            with contextlib.suppress(RuntimeError):  # the loop is gone: a signal came first
                loop.call_soon_threadsafe(end, status)

        threading.Thread(target=watch, name="cliprt-beside", daemon=True).start()
        with _handled(signals, lambda: loop.call_soon_threadsafe(end, None)):
            serving = asyncio.ensure_future(server.serve(sockets=[self._socket]))
            while not server.started and not serving.done():
                await asyncio.sleep(0.01)
            if not serving.done():
                on_ready()
            await asyncio.wait((serving, ended), return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                serving.result()
                raise ServerStartError("the HTTP front ended by itself")
            server.should_exit = True
            await serving
            return ended.result()


def _server(app: ASGIApp) -> Any:
    uvicorn = require("uvicorn", extra="http")
    config = uvicorn.Config(
        app,
        http=prompt_protocol(),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_GRACE_S,
    )
    server = uvicorn.Server(config)
    # Signals are handled here, because they also concern what runs beside it.
    server.capture_signals = contextlib.nullcontext
    return server


@contextlib.contextmanager
def _handled(signals: tuple[signal.Signals, ...], act: Callable[[], object]) -> Iterator[None]:
    """Acts on the first signal and ignores all that follow, also afterwards."""
    acted = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal acted
        acted = True
        for each in signals:
            signal.signal(each, signal.SIG_IGN)
        act()

    before = {each: signal.signal(each, handle) for each in signals}
    try:
        yield
    finally:
        if not acted:
            for each, handler in before.items():
                signal.signal(each, handler)


def log_accesses() -> None:
    """Prints the lines of the access log on standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("cliprt.access")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _listening(host: str, port: int) -> socket.socket:
    # Named, because asyncio switches Nagle's algorithm off only where it sees TCP: with it, an
    # answer waits 40 ms for the acknowledgement of its headers.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except (OSError, OverflowError) as error:
        listening.close()
        reason = error.strerror if isinstance(error, OSError) else error
        raise ServerStartError(
            f"cannot listen on {host}:{port} ({reason}); choose another address or port"
        ) from None
    return listening
