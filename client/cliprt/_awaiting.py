"""Running calls on an event loop: work on threads, waiting without one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from cliprt._steps import Pending, Steps

_T = TypeVar("_T")


@dataclass(frozen=True)
class _End(Generic[_T]):
    """The result of a call."""

    value: _T


class _Run(Generic[_T]):
    """A call that goes from wait to wait."""

    def __init__(self, begin: Callable[[], Steps[_T]]) -> None:
        self._begin = begin
        self._steps: Steps[_T] | None = None

    def advance(self) -> Pending | _End[_T]:
        """Works up to the next wait or the end."""
        if self._steps is None:
            self._steps = self._begin()
        try:
            return next(self._steps)
        except StopIteration as end:  # which no future can carry
            return _End(end.value)

    def close(self) -> None:
        """Lets go of everything; requests under way are cancelled."""
        if self._steps is not None:
            self._steps.close()


async def run(begin: Callable[[], Steps[_T]], threads: Executor, *, here: bool) -> _T:
    """Runs a call to its end.

    Args:
        begin: begins it.
        threads: where it works.
        here: work on the event loop's thread instead, because it takes less than changing threads;
            up to a failure, whose cause may have to be asked for.
    """
    loop = asyncio.get_running_loop()
    call = _Run(begin)
    work: Future[Pending | _End[_T]] | None = None
    try:
        while True:
            if here:
                found = call.advance()
            else:
                work = threads.submit(call.advance)
                found = await asyncio.wrap_future(work)
            if isinstance(found, _End):
                return found.value
            await _settled(found, loop)
            here = here and found.exception() is None
    finally:
        # What no thread has begun yet never begins.
        if work is None or work.done() or work.cancel():
            call.close()
        else:
            work.add_done_callback(lambda _: call.close())
        del work  # it holds the error that it raises, and that one this frame


async def _settled(pending: Pending, loop: asyncio.AbstractEventLoop) -> None:
    """Waits until there is an answer or a failure."""
    settled = loop.create_future()

    def tell() -> None:
        if not settled.done():
            settled.set_result(None)

    def done(_: Any) -> None:
        with suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(tell)

    pending.add_done_callback(done)
    await settled


class OwnThreads(Executor):
    """A new thread for each piece of work, which the end of the program does not wait for."""

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Begins at once."""
        future: Future[Any] = Future()
        given = (future, partial(work, *args, **kwargs))
        thread = threading.Thread(target=_carry_out, args=given, name="cliprt-source", daemon=True)
        thread.start()
        return future


def _carry_out(future: Future[Any], work: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(work())
    except BaseException as error:  # noqa: BLE001 - whoever waits must hear of it
        future.set_exception(error)


class Source:
    """What a caller passed, as something that threads can iterate over.

    Attributes:
        items: the value itself, or for an asynchronous iterable an iterator that fetches each item
            on the event loop. Only its own thread waits for it.
        may_wait: whether an item may be long in coming, even until another call has ended. So what
            iterates over them must not use threads that other calls need.
    """

    def __init__(self, given: Any) -> None:
        """To be made on the event loop."""
        self._closed = False
        self._lock = threading.Lock()
        self._fetching: Future[Any] | None = None
        self.may_wait = isinstance(given, (AsyncIterable, Iterator))
        self.items: Any = given
        if isinstance(given, AsyncIterable):
            self.items = self._fetched(given.__aiter__(), asyncio.get_running_loop())

    def _fetched(self, items: AsyncIterator[Any], loop: asyncio.AbstractEventLoop) -> Iterator[Any]:
        while True:
            with self._lock:
                if self._closed:
                    return
                fetching = asyncio.run_coroutine_threadsafe(_next(items), loop)
                self._fetching = fetching
            found = fetching.result()
            if isinstance(found, _End):
                return
            yield found

    def close(self) -> None:
        """Fetches nothing any more."""
        with self._lock:
            self._closed = True
            if self._fetching is not None:
                self._fetching.cancel()  # a thread may wait for it


async def _next(items: AsyncIterator[_T]) -> _T | _End[None]:
    try:
        return await items.__anext__()
    except StopAsyncIteration:
        return _End(None)
