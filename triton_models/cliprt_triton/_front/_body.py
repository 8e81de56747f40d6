"""Reading a request's body: its length is checked while it arrives, not after."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from cliprt_triton._front._errors import Refusal, busy

if TYPE_CHECKING:
    from starlette.requests import Request


# How long what is dropped may take to arrive.
_LINGER_S = 2.0


class BodyBudget:
    """What the bodies of all requests under way may hold together, in bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._free = max_bytes

    def take(self, count: int) -> None:
        """Takes bytes from what is free.

        Raises:
            Refusal: that much is not free.
        """
        if count > self._free:
            raise busy("the server holds as many bytes of requests as it may; try again")
        self._free -= count

    def give_back(self, count: int) -> None:
        """Bytes that were taken are free again."""
        self._free += count


class Body:
    """The body of one request; a context manager that gives its bytes back to the budget."""

    def __init__(self, budget: BodyBudget, *, max_bytes: int, timeout_s: float) -> None:
        """Reads nothing yet.

        Args:
            budget: shared by all requests.
            max_bytes: of this body.
            timeout_s: within which all of it has to arrive, in seconds.
        """
        self._budget = budget
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._held = 0

    def __enter__(self) -> Body:
        return self

    def __exit__(self, *error: object) -> None:
        self._budget.give_back(self._held)

    async def read(self, request: Request) -> bytes:
        """All of the body.

        Raises:
            Refusal: it is of another type, too long, or too slow.
            starlette.requests.ClientDisconnect: the caller left.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise _unsupported(f"the body must be of type application/json, got {kind[:60]!r}")
        if (encoding := request.headers.get("content-encoding", "identity")) != "identity":
            raise _unsupported(f"compressed bodies are not taken, got {encoding[:60]!r}")
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self._max_bytes:
            if int(declared) <= 2 * self._max_bytes:
                await self._linger(request.stream())
            raise self._too_long()
        try:
            return await asyncio.wait_for(self._collect(request), self._timeout_s)
        except (asyncio.TimeoutError, TimeoutError):
            raise Refusal(
                408,
                f"the body did not arrive within {self._timeout_s:g} s; send it faster, or in "
                "several requests",
                code="request_timeout",
                headers={"connection": "close"},
            ) from None

    async def _collect(self, request: Request) -> bytes:
        # A bytearray grows in place; a list of the pieces of a body that comes byte by byte would
        # take many times its length.
        body = bytearray()
        pieces = request.stream()
        async for piece in pieces:
            if len(body) + len(piece) > self._max_bytes:
                await self._linger(pieces)
                raise self._too_long()
            self._budget.take(len(piece))
            self._held += len(piece)
            body += piece
        return bytes(body)

    async def _linger(self, pieces: AsyncIterator[bytes]) -> None:
        """Drops a rest that is no longer than what is taken.

        Callers who only read when they have sent everything would otherwise find the connection
        broken, and not the reason.
        """

        async def drop() -> None:
            dropped = 0
            async for piece in pieces:
                dropped += len(piece)
                if dropped > self._max_bytes:
                    return

        with contextlib.suppress(asyncio.TimeoutError, TimeoutError):
            await asyncio.wait_for(drop(), _LINGER_S)

    def _too_long(self) -> Refusal:
        return Refusal(
            413,
            f"the body is longer than {self._max_bytes:,} bytes; send fewer items at once, or "
            "smaller pictures",
            code="request_too_large",
            # The rest of the body is not read.
            headers={"connection": "close"},
        )


def _unsupported(message: str) -> Refusal:
    return Refusal(415, message, code="unsupported_media_type", headers={"connection": "close"})
