"""The client for asyncio: the methods of ``Client``, awaited."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from functools import partial
from types import TracebackType
from typing import Literal, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from cliprt._awaiting import OwnThreads, Source, run
from cliprt._batch import Item, OnError, Options, Result
from cliprt._card import Card
from cliprt._core import DEFAULT_TIMEOUT_S, Core, Priority, Server
from cliprt._decoding import Decoding
from cliprt._images import ImageInput
from cliprt._limits import Limits
from cliprt._profile import RequestTimes
from cliprt._space import Embeddings
from cliprt._steps import Steps

_T = TypeVar("_T")

# Threads that prepare inputs and read answers. None of them waits for the server, nor for items.
_THREADS = 8
_OWN_THREADS = OwnThreads()


class AsyncClient:
    """Embeds pictures and texts on a Triton server, from coroutines.

    It has the methods of ``Client``, with the same arguments, answers and errors; they share all
    but the way of waiting. While a call waits for the server it occupies no thread; one that is
    given a generator or an asynchronous iterable has a thread of its own while it waits for items.
    Decoding and tokenizing happen on threads, but for a few short texts, which take less time than
    changing threads. Cancelling a call cancels its requests.

    It connects when it is entered, or at the first call. After ``os.fork`` make a new one in the
    child.

    Example:
        >>> async with AsyncClient("localhost:8001") as client:
        ...     images, texts = await asyncio.gather(
        ...         client.encode_image(["cat.jpg"]),
        ...         client.encode_text(["a photo of a cat", "a photo of a dog"]),
        ...     )
    """

    def __init__(
        self,
        server: Server,
        *,
        model: str = "clip",
        timeout_s: float = DEFAULT_TIMEOUT_S,
        limits: Limits | None = None,
        decoding: Decoding | None = None,
        priority: Priority = "interactive",
    ) -> None:
        """Connects to nothing yet; for the arguments see ``Client``.

        Raises:
            ValueError: an argument is malformed.
        """
        self._core = Core(
            server,
            model=model,
            timeout_s=timeout_s,
            limits=limits,
            decoding=decoding,
            priority=priority,
        )
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="cliprt-async")
        self._connected = False

    @property
    def card(self) -> Card:
        """The card of the served bundle, once the client is connected.

        Raises:
            ClosedError: it is not.
        """
        return self._core.card

    async def connect(self) -> None:
        """Connects and reads the model's card, unless that was done.

        Raises:
            CliprtError: as for ``Client``.
        """
        if not self._connected:
            await self._in_thread(self._core.connect)
            self._connected = True

    async def server_version(self) -> str:
        """Triton's version, for instance ``2.51.0``."""
        await self.connect()
        return await self._in_thread(self._core.server_version)

    @overload
    async def encode_image(
        self,
        images: ImageInput | Iterable[ImageInput] | AsyncIterable[ImageInput],
        *,
        on_error: Literal["raise", "skip"] = "raise",
        batch_size: int | None = None,
        show_progress: bool = False,
        timeout_s: float | None = None,
    ) -> Embeddings: ...

    @overload
    async def encode_image(
        self,
        images: ImageInput | Iterable[ImageInput] | AsyncIterable[ImageInput],
        *,
        on_error: Literal["return"],
        batch_size: int | None = None,
        show_progress: bool = False,
        timeout_s: float | None = None,
    ) -> list[Item]: ...

    async def encode_image(
        self,
        images: ImageInput | Iterable[ImageInput] | AsyncIterable[ImageInput],
        *,
        on_error: OnError = "raise",
        batch_size: int | None = None,
        show_progress: bool = False,
        timeout_s: float | None = None,
    ) -> Result:
        """Embeds pictures, as ``Client.encode_image``; they may also come one by one, awaited."""
        options = Options(on_error, batch_size, show_progress)
        await self.connect()
        with closing(Source(images)) as source:
            return await self._run(
                source, lambda: self._core.image_steps(source.items, options, timeout_s)
            )

    @overload
    async def encode_text(
        self,
        texts: str | Iterable[str] | AsyncIterable[str],
        *,
        truncate: bool = True,
        on_error: Literal["raise", "skip"] = "raise",
        batch_size: int | None = None,
        show_progress: bool = False,
        timeout_s: float | None = None,
    ) -> Embeddings: ...

    @overload
    async def encode_text(
        self,
        texts: str | Iterable[str] | AsyncIterable[str],
        *,
        truncate: bool = True,
        on_error: Literal["return"],
        batch_size: int | None = None,
        show_progress: bool = False,
        timeout_s: float | None = None,
    ) -> list[Item]: ...

    async def encode_text(
        self,
        texts: str | Iterable[str] | AsyncIterable[str],
        *,
        truncate: bool = True,
        on_error: OnError = "raise",
        batch_size: int | None = None,
        show_progress: bool = False,
        timeout_s: float | None = None,
    ) -> Result:
        """Embeds texts, as ``Client.encode_text``; they may also come one by one, awaited."""
        options = Options(on_error, batch_size, show_progress, truncate)
        await self.connect()
        with closing(Source(texts)) as source:
            return await self._run(
                source,
                lambda: self._core.text_steps(source.items, options, timeout_s),
                here=self._core.is_quick(texts),
            )

    async def classify(
        self,
        images: ImageInput | Iterable[ImageInput] | AsyncIterable[ImageInput],
        labels: Sequence[str],
        *,
        timeout_s: float | None = None,
    ) -> NDArray[np.float32]:
        """Zero-shot classification, as ``Client.classify``."""
        await self.connect()
        with closing(Source(images)) as source:
            return await self._run(
                source, lambda: self._core.classify_steps(source.items, labels, timeout_s)
            )

    @asynccontextmanager
    async def profile(self, *, show: bool = True) -> AsyncIterator[RequestTimes]:
        """Notes where the time of requests goes, as ``Client.profile``."""
        await self.connect()
        begun, profile = await self._in_thread(self._core.begin_profile), RequestTimes()
        try:
            yield profile
        finally:
            self._core.end_profile(begun)
        await self._in_thread(partial(self._core.fill_profile, begun, profile))
        if show:
            print(profile, file=sys.stderr)  # noqa: T201

    async def close(self) -> None:
        """Closes the connection; calls under way end with ClosedError. A second call is allowed."""
        await asyncio.get_running_loop().run_in_executor(None, self._core.close)
        # What still waits for a thread gets one, to hear that the client is closed.
        self._threads.shutdown(wait=False)

    async def __aenter__(self) -> AsyncClient:
        try:
            await self.connect()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        self._core.check_open()
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _run(
        self, source: Source, begin: Callable[[], Steps[_T]], *, here: bool = False
    ) -> _T:
        """Runs a call to its end."""
        self._core.check_open()
        threads = _OWN_THREADS if source.may_wait else self._threads
        try:
            return await run(begin, threads, here=here)
        except RuntimeError:  # close() in another task may have shut the threads down
            self._core.check_open()
            raise
