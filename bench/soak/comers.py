"""Who comes and goes: clients that are opened, asked once and closed, or killed."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ways import EnsembleOverGrpc, OpenAi

from cliprt import AsyncClient, Bundle, Client, Connection, Decoding
from cliprt_engines import LocalClip
from soak.books import KILLED, LOST, RIGHT, Books, Rows
from soak.callers import TIMEOUT_S, in_turns
from soak.known import Known
from soak.serving import Served

# So often somebody comes. Each start of a process takes a core for a second.
_PAUSE_S = 0.25

_VICTIM = Path(__file__).with_name("victim.py")
_VICTIM_S = 60.0
_REGIONS = Path("/dev/shm")


class Comers:
    """One client after the other, of every kind."""

    def __init__(
        self, served: Served, known: Known, books: Books, bundle: Bundle, seed: int
    ) -> None:
        self._served, self._known, self._books = served, known, books
        self._bundle, self._drawn = bundle, random.Random(seed)
        kinds: list[tuple[str, Callable[[], object]]] = [
            ("Client", lambda: self._client(self._plain(), None)),
            ("shared memory", lambda: self._client(self._shared(), None)),
            ("decoding processes", lambda: self._client(self._plain(), Decoding(2, "processes"))),
            ("AsyncClient", lambda: asyncio.run(self._awaited())),
            ("LocalClip", self._local),
            ("raw gRPC", lambda: self._way(EnsembleOverGrpc(served.grpc))),
            ("OpenAI", lambda: self._way(OpenAi(served.openai))),
        ]  # fmt: skip
        self._kinds = in_turns(kinds, self._drawn)

    def once(self) -> None:
        """Opens one, asks for pictures and closes it."""
        name, call = next(self._kinds)
        self._items, rows = self._known.files.some(self._drawn, 4)
        self._books.ask(f"opened and closed: {name}", call, Rows(rows), deadline_s=3 * TIMEOUT_S)
        time.sleep(_PAUSE_S)

    def close(self) -> None:
        """Nothing stays open."""

    def _plain(self) -> Connection:
        return Connection(self._served.grpc)

    def _shared(self) -> Connection:
        return Connection(self._served.grpc, shared_memory=True)

    def _client(self, connection: Connection, decoding: Decoding | None) -> object:
        with Client(connection, timeout_s=TIMEOUT_S, decoding=decoding) as client:
            # With its copies the request is large enough for shared memory.
            found = client.encode_image([*self._items, *self._items * 16])
        return found[: len(self._items)]

    async def _awaited(self) -> object:
        async with AsyncClient(self._served.grpc, timeout_s=TIMEOUT_S) as client:
            return await client.encode_image(self._items)

    def _local(self) -> object:
        with LocalClip(self._bundle) as clip:
            return clip.encode_image(self._items)

    def _way(self, way: EnsembleOverGrpc | OpenAi) -> object:
        try:
            return way.images(self._items)
        finally:
            way.close()


class Victims:
    """Clients in processes of their own, killed in the middle of their calls.

    The server must not mind, which the others see; and what they shared with it must go with them.
    """

    def __init__(self, served: Served, books: Books, over: threading.Event, seed: int) -> None:
        self._served, self._books, self._over = served, books, over
        self._drawn = random.Random(seed)

    def once(self) -> None:
        """Starts one and kills it."""
        victim = subprocess.Popen(
            [sys.executable, str(_VICTIM), self._served.grpc],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        try:
            assert victim.stdout is not None
            asked = victim.stdout.readline()
            time.sleep(self._drawn.uniform(0, 0.5))
        finally:
            victim.kill()
            victim.wait()
            victim.stdout.close()  # type: ignore[union-attr]
        if not asked:  # it found no server: not what is tried here
            time.sleep(1)
        elif self._left(victim.pid):
            self._books.note(KILLED, LOST, "regions of a killed client stayed")
        else:
            self._books.note(KILLED, RIGHT)
        self._over.wait(self._drawn.uniform(2, 6))

    def close(self) -> None:
        """Nothing stays."""

    def _left(self, pid: int) -> bool:
        """Whether regions stay; Python's resource tracker takes a moment."""
        ends = time.monotonic() + _VICTIM_S
        while any(name.startswith(f"cliprt-inputs-{pid}-") for name in os.listdir(_REGIONS)):  # noqa: PTH208
            if time.monotonic() > ends:
                return True
            time.sleep(0.05)
        return False
