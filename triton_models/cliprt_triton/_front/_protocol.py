"""Patience with callers who begin a request and do not go on: it has an end."""

from __future__ import annotations

import asyncio
from typing import Any

from cliprt._extras import require

HEAD_S = 30.0
"""Seconds in which the head of a request must arrive, from its first byte on, and the first one
from the connection on."""


def prompt_protocol(patience_s: float = HEAD_S) -> type[Any]:
    """The protocol of uvicorn, but that it hangs up on callers whose requests do not begin in time.

    Args:
        patience_s: for the head of a request, in seconds.

    Raises:
        MissingExtra: the extra ``http`` is not installed.
    """
    require("uvicorn", extra="http")
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class PromptProtocol(H11Protocol):
        _late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._expect_head()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            # Idle is who has not brought a head to its end.
            if self.conn.their_state is not h11.IDLE:
                self._relax()
            elif self._late is None:
                self._expect_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._relax()
            super().connection_lost(exc)

        def _expect_head(self) -> None:
            self._late = self.loop.call_later(patience_s, self.transport.close)

        def _relax(self) -> None:
            if self._late is not None:
                self._late.cancel()
                self._late = None

    return PromptProtocol
