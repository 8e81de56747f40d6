"""A TCP proxy whose connections break, hang and dawdle when it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

_RESET = struct.pack("ii", 1, 0)
_READ = 65536


@dataclass
class _Way:
    """One direction, of all connections."""

    passing: asyncio.Event = field(default_factory=asyncio.Event)
    bytes_per_s: float | None = None
    cut_after: int | None = None


class FaultyProxy:
    """Passes bytes on to a server, well or badly. What it is told holds until ``heal``.

    Attributes:
        address: host and port, the same all its life.
        taken: connections that were taken.
        cuts: connections that were reset.
    """

    def __init__(self, server: str, *, host: str = "127.0.0.1", port: int = 0) -> None:
        server_host, _, server_port = server.rpartition(":")
        self._server = (server_host, int(server_port))
        self._up, self._down = _Way(), _Way()
        self._connections: set[asyncio.Task[Any]] = set()
        self._listener: asyncio.Server | None = None
        self._host, self._port = host, port
        self.taken = self.cuts = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.heal()
        self.address = f"{host}:{self._port}"

    def hold(self, *, questions: bool = True, answers: bool = True) -> None:
        """Nothing passes any more, and nobody is told: as with a cable that was pulled."""
        self._do(self._hold(questions, answers))

    def dawdle(self, bytes_per_s: float, *, answers: bool = False) -> None:
        """Questions pass at so many bytes a second, or answers do."""
        (self._down if answers else self._up).bytes_per_s = bytes_per_s

    def cut(self) -> int:
        """Resets all connections; says how many there were."""
        return self._do(self._cut())

    def cut_after(self, answered: int) -> None:
        """Resets one connection, inside an answer: when more bytes than so many have passed."""
        self._down.cut_after = answered

    def leave(self) -> None:
        """Resets all connections and listens no more: as a proxy that is started again."""
        self._do(self._leave())

    def heal(self) -> None:
        """Everything passes, those that are held as well."""
        self._do(self._heal())

    def close(self) -> None:
        self.leave()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self._loop.close()

    def __enter__(self) -> FaultyProxy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def _hold(self, questions: bool, answers: bool) -> None:
        for way, held in ((self._up, questions), (self._down, answers)):
            if held:
                way.passing.clear()

    async def _cut(self) -> int:
        ended = [*self._connections]
        self.cuts += len(ended)
        for each in ended:
            each.cancel()
        await asyncio.gather(*ended, return_exceptions=True)
        return len(ended)

    async def _leave(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        await self._cut()

    async def _heal(self) -> None:
        for way in (self._up, self._down):
            way.bytes_per_s = way.cut_after = None
            way.passing.set()
        if self._listener is None:
            self._listener = await asyncio.start_server(self._take, self._host, self._port)
            self._port = self._listener.sockets[0].getsockname()[1]

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        self.taken += 1
        writers = [writer]
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._server)
            writers.append(server_writer)
            ways = [
                asyncio.ensure_future(self._pass(reader, server_writer, self._up)),
                asyncio.ensure_future(self._pass(server_reader, writer, self._down)),
            ]
            try:
                # In HTTP/2 no connection is closed in one direction alone.
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except (OSError, asyncio.CancelledError):  # a server that is gone, or `cut`
            for each in writers:
                _reset(each)
        finally:
            self._connections.discard(task)
            for each in writers:
                each.close()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: _Way
    ) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := await reader.read(_READ):
                while data:
                    await way.passing.wait()
                    piece = data
                    if (speed := way.bytes_per_s) is not None:
                        piece = data[: max(1, int(speed / 10))]
                        await asyncio.sleep(len(piece) / speed)
                    writer.write(piece)
                    await writer.drain()
                    passed, data = passed + len(piece), data[len(piece) :]
                if way.cut_after is not None and passed > way.cut_after:
                    way.cut_after = None
                    self.cuts += 1
                    _reset(writer)
                    return


def _reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
