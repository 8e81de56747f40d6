"""Who asks: every way in, each from a thread of its own, good and bad requests mixed."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import Any, Protocol, TypeVar

import grpc
import numpy as np
from ways import EnsembleOverGrpc, EnsembleOverHttp, OpenAi, Way, refuse
from wire import request_of, stub_of

from cliprt import AsyncClient, Client, Connection, Retry
from soak.books import Books, Hasty, Items, Refusal, Rows
from soak.known import Known, spoiled
from soak.serving import Served

TIMEOUT_S = 60.0
"""Deadline of a request: far beyond what it takes, so that a late one is one that hangs."""

_PATIENT_S = 240.0

Kind = TypeVar("Kind")


class Caller(Protocol):
    """Somebody who asks again and again."""

    def once(self) -> None:
        """Makes one request and writes down what became of it."""

    def close(self) -> None:
        """Ends it."""


class Blocking:
    """``Client`` with its defaults: texts, files and arrays, good, bad, mixed and hasty."""

    def __init__(self, served: Served, known: Known, books: Books, seed: int) -> None:
        self._client = Client(served.grpc, timeout_s=TIMEOUT_S)
        self._known, self._books, self._drawn = known, books, random.Random(seed)
        calls = [self._texts, self._texts, self._files, self._arrays]
        calls += [self._stream, self._mixed, self._bad_picture, self._bad_text, self._hasty]
        self._calls = in_turns(calls, self._drawn)

    def once(self) -> None:
        """One of the requests above."""
        next(self._calls)()

    def close(self) -> None:
        """Closes the client."""
        self._client.close()

    def _ask(self, kind: str, call: Callable[[], object], expected: Any) -> None:
        self._books.ask(f"Client: {kind}", call, expected, deadline_s=3 * TIMEOUT_S)

    def _texts(self) -> None:
        items, rows = self._known.texts.some(self._drawn, 80)
        self._ask("texts", lambda: self._client.encode_text(items), Rows(rows))

    def _files(self) -> None:
        items, rows = self._known.files.some(self._drawn, 16)
        self._ask("pictures", lambda: self._client.encode_image(items), Rows(rows))

    def _arrays(self) -> None:
        items, rows = self._known.arrays.some(self._drawn, 16)
        self._ask("pictures", lambda: self._client.encode_image(items), Rows(rows))

    def _stream(self) -> None:
        items, rows = self._known.files.some(self._drawn, 24)
        call = lambda: self._client.encode_image(iter(items), batch_size=5)  # noqa: E731
        self._ask("generators", call, Rows(rows))

    def _mixed(self) -> None:
        items, rows = self._known.arrays.some(self._drawn, 12)
        items, refusal = spoiled(items, self._known.bad_images, self._drawn)
        assert refusal.index is not None
        rows = np.insert(rows, refusal.index, 0, axis=0)
        call = lambda: self._client.encode_image(items, on_error="return")  # noqa: E731
        self._ask("good beside bad", call, Items(rows, frozenset((refusal.index,))))

    def _bad_picture(self) -> None:
        items, _ = self._known.arrays.some(self._drawn, 3)
        items, refusal = spoiled(items, self._known.bad_images, self._drawn)
        self._ask("bad pictures", lambda: self._client.encode_image(items), refusal)

    def _bad_text(self) -> None:
        items, _ = self._known.texts.some(self._drawn, 3)
        items, refusal = spoiled(items, self._known.bad_texts, self._drawn)
        self._ask("bad texts", lambda: self._client.encode_text(items), refusal)

    def _hasty(self) -> None:
        items, rows = self._known.texts.some(self._drawn, 4)
        timeout_s = self._drawn.uniform(1e-4, 8e-3)
        call = lambda: self._client.encode_text(items, timeout_s=timeout_s)  # noqa: E731
        self._ask("deadlines", call, Hasty(rows))


class Patient:
    """``Client`` that waits for its server, through shared memory.

    That the server is gone, full or late, or has lost the process of a model, never reaches it.
    """

    def __init__(self, served: Served, known: Known, books: Books, seed: int) -> None:
        retry = Retry(attempts=5, wait_for_server=True)
        connection = Connection(served.grpc, retry=retry, shared_memory=True)
        self._client = Client(connection, timeout_s=_PATIENT_S)
        self._known, self._books, self._drawn = known, books, random.Random(seed)

    def once(self) -> None:
        """Pictures or texts."""
        pool = self._drawn.choice([self._known.arrays, self._known.files, self._known.texts])
        items, rows = pool.some(self._drawn, 48)
        if pool is self._known.texts:
            call: Callable[[], object] = lambda: self._client.encode_text(items)  # noqa: E731
        else:
            call = lambda: self._client.encode_image(items)  # noqa: E731
        self._books.ask(
            "Client that waits, shared memory",
            lambda: never_gone(call),
            Rows(rows),
            deadline_s=2 * _PATIENT_S,
        )

    def close(self) -> None:
        """Closes the client."""
        self._client.close()


class NeverGone(Exception):
    """A request failed for a reason that this caller was promised to be spared."""


def never_gone(call: Callable[[], object]) -> object:
    """Makes a call whose failures nothing excuses."""
    try:
        return call()
    except Exception as error:  # noqa: BLE001 - it is told, under a name that nothing excuses
        raise NeverGone(f"{type(error).__name__}: {error}") from None


class Awaiting:
    """``AsyncClient``: eight coroutines at a time, some cancelled, some given too little time."""

    def __init__(self, served: Served, known: Known, books: Books, seed: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = AsyncClient(served.grpc, timeout_s=TIMEOUT_S)
        self._known, self._books, self._drawn = known, books, random.Random(seed)
        calls = [self._texts, self._pictures, self._cancelled, self._hasty, self._bad]
        self._calls = in_turns(calls, self._drawn)

    def once(self) -> None:
        """Eight requests at a time."""
        self._loop.run_until_complete(self._eight())

    def close(self) -> None:
        """Closes the client and its loop."""
        self._loop.run_until_complete(self._client.close())
        self._loop.close()

    async def _eight(self) -> None:
        await asyncio.gather(*(next(self._calls)() for _ in range(8)))

    async def _ask(self, kind: str, call: Any, expected: Any) -> None:
        await self._books.ask_async(
            f"AsyncClient: {kind}", call, expected, deadline_s=3 * TIMEOUT_S
        )

    async def _texts(self) -> None:
        items, rows = self._known.texts.some(self._drawn, 40)
        await self._ask("texts", self._client.encode_text(items), Rows(rows))

    async def _pictures(self) -> None:
        items, rows = self._known.files.some(self._drawn, 12)
        await self._ask("pictures", self._client.encode_image(items), Rows(rows))

    async def _cancelled(self) -> None:
        items, rows = self._known.arrays.some(self._drawn, 12)
        call = asyncio.ensure_future(self._client.encode_image(items))
        asyncio.get_running_loop().call_later(self._drawn.uniform(0, 0.03), call.cancel)
        await self._ask("cancelled", _outcome(call), Hasty(rows))

    async def _hasty(self) -> None:
        items, rows = self._known.texts.some(self._drawn, 40)
        timeout_s = self._drawn.uniform(1e-4, 8e-3)
        call = self._client.encode_text(items, timeout_s=timeout_s)
        await self._ask("deadlines", call, Hasty(rows))

    async def _bad(self) -> None:
        items, _ = self._known.files.some(self._drawn, 3)
        items, refusal = spoiled(items, self._known.bad_images, self._drawn)
        await self._ask("bad pictures", self._client.encode_image(items), refusal)


async def _outcome(call: asyncio.Future[Any]) -> object:
    return await call


class Wayfarer:
    """A way in without this package: models of files and strings by gRPC or HTTP, or the front."""

    def __init__(
        self, name: str, opened: Callable[[], Way], known: Known, books: Books, seed: int
    ) -> None:
        """Opens it.

        Args:
            name: of the way, for the books.
            opened: opens it, at the start and after each failure.
            known: what is asked.
            books: where the outcomes go.
            seed: of the draws.
        """
        self._name, self._opened = name, opened
        self._way = opened()
        self._known, self._books, self._drawn = known, books, random.Random(seed)
        calls = [self._texts, self._pictures, self._bad_picture, self._bad_text]
        self._calls = in_turns(calls, self._drawn)

    def once(self) -> None:
        """Texts or pictures, good or bad."""
        next(self._calls)()

    def close(self) -> None:
        """Closes it."""
        self._way.close()

    def _ask(self, kind: str, call: Callable[[], object], expected: Any) -> None:
        if not self._books.ask(f"{self._name}: {kind}", call, expected, deadline_s=TIMEOUT_S):
            # gRPC's own pause before it connects again grows to two minutes.
            self._way.close()
            self._way = self._opened()
            time.sleep(0.1)

    def _texts(self) -> None:
        items, rows = self._known.texts.some(self._drawn, 16)
        self._ask("texts", lambda: self._way.texts(items), Rows(rows))

    def _pictures(self) -> None:
        items, rows = self._known.files.some(self._drawn, 6)
        self._ask("pictures", lambda: self._way.images(items), Rows(rows))

    def _bad_picture(self) -> None:
        items, _ = self._known.files.some(self._drawn, 3)
        items, refusal = spoiled(items, self._known.bad_files, self._drawn)
        self._ask("bad pictures", lambda: self._way.images(items), refusal)

    def _bad_text(self) -> None:
        items, _ = self._known.texts.some(self._drawn, 3)
        # A lone surrogate is no string of other languages.
        items, refusal = spoiled(items, self._known.bad_texts[:1], self._drawn)
        self._ask("bad texts", lambda: self._way.texts(items), refusal)


class RawTensors:
    """Tensors that no client would send, straight to the towers."""

    def __init__(self, served: Served, books: Books, seed: int) -> None:
        self._address, self._books, self._drawn = served.grpc, books, random.Random(seed)
        self._open = ExitStack()
        self._stub = self._open.enter_context(stub_of(self._address))
        self._bad: Sequence[tuple[str, str, Any]] = (
            ("clip_image", "pixels", np.zeros((1, 3, 8, 8), np.uint8)),
            ("clip_image", "pixels", np.zeros((1, 8, 8, 3), np.float32)),
            ("clip_text", "tokens", np.full((1, 8), -1, np.int32)),
            ("clip_text", "tokens", np.full((1, 8), 2**31 - 1, np.int32)),
            ("clip_text", "tokens", np.zeros((1, 4000), np.int32)),
        )

    def once(self) -> None:
        """One of them."""
        model, name, tensor = self._drawn.choice(self._bad)

        def call() -> object:
            try:
                return self._stub.ModelInfer(request_of(model, {name: tensor}), timeout=TIMEOUT_S)
            except grpc.RpcError as error:
                return refuse(error.code() is grpc.StatusCode.INVALID_ARGUMENT, error.details())

        if not self._books.ask("raw tensors", call, Refusal(""), deadline_s=TIMEOUT_S):
            self._open.close()
            self._stub = self._open.enter_context(stub_of(self._address))
            time.sleep(0.1)
        time.sleep(0.02)  # they cost nothing, and would be most of the traffic

    def close(self) -> None:
        """Closes the channel."""
        self._open.close()


def callers(served: Served, known: Known, books: Books) -> list[tuple[str, Callable[[], Caller]]]:
    """Everybody who stays, by name: each is opened in its thread."""
    ways: list[tuple[str, Callable[[], Way]]] = [
        ("Triton, gRPC", lambda: EnsembleOverGrpc(served.grpc)),
        ("Triton, HTTP", lambda: EnsembleOverHttp(served.http)),
        ("OpenAI", lambda: OpenAi(served.openai)),
    ]
    return [
        ("Client 1", lambda: Blocking(served, known, books, 1)),
        ("Client 2", lambda: Blocking(served, known, books, 2)),
        ("patient", lambda: Patient(served, known, books, 3)),
        ("AsyncClient", lambda: Awaiting(served, known, books, 4)),
        *(
            (name, lambda name=name, way=way, seed=seed: Wayfarer(name, way, known, books, seed))
            for seed, (name, way) in enumerate(ways, start=5)
        ),
        ("raw tensors", lambda: RawTensors(served, books, 9)),
    ]


def in_turns(kinds: Sequence[Kind], drawn: random.Random) -> Iterator[Kind]:
    """All of them in an order that is drawn, again and again: none comes late."""
    while True:
        yield from drawn.sample(kinds, len(kinds))


def run_until(over: threading.Event, opened: Callable[[], Caller], pause_s: float) -> None:
    """Opens a caller and lets it ask, with pauses, until it is over."""
    caller = opened()
    try:
        while not over.wait(pause_s):
            caller.once()
    finally:
        with suppress(Exception):
            caller.close()
