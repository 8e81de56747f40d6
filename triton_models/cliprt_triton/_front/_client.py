"""The front's connection to Triton."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cliprt import Card, Client, Limits
from cliprt._names import ModelNames

_T = TypeVar("_T")

# Calls that wait on a thread each.
_CALLS = 256


class FrontClient:
    """cliprt's client, awaited: each call blocks a thread of its own."""

    def __init__(self, client: Client, channel: Any, names: ModelNames) -> None:
        import anyio

        self._client = client
        self._channel = channel
        self._names = names
        self._limiter = anyio.CapacityLimiter(_CALLS)

    @classmethod
    async def connect(
        cls, address: str, names: ModelNames, *, limits: Limits, timeout_s: float
    ) -> FrontClient:
        """Connects and reads the card.

        Raises:
            CliprtError: as cliprt.Client.
        """
        import anyio.to_thread

        from cliprt._grpc import TritonChannel

        make = partial(Client, address, model=names.prefix, timeout_s=timeout_s, limits=limits)
        client = await anyio.to_thread.run_sync(make)
        return cls(client, TritonChannel(address), names)

    @property
    def card(self) -> Card:
        """The card of the served bundle."""
        return self._client.card

    async def encode_text(self, texts: Sequence[str], *, timeout_s: float) -> NDArray[np.float32]:
        """Embeds texts, as cliprt.Client.encode_text."""
        return await self._wait(partial(self._client.encode_text, texts, timeout_s=timeout_s))

    async def encode_image(
        self, images: Sequence[bytes], *, timeout_s: float
    ) -> NDArray[np.float32]:
        """Embeds encoded pictures, as cliprt.Client.encode_image."""
        return await self._wait(partial(self._client.encode_image, images, timeout_s=timeout_s))

    async def ready(self, timeout_s: float) -> bool:
        """Whether the server and all its models are ready."""
        return bool(await self._wait(partial(self._channel.server_ready, timeout_s)))

    def file(self, timeout_s: float, name: str) -> bytes:
        """A file of the served bundle; blocks."""
        request = {"name": np.frombuffer(name.encode(), dtype=np.uint8)}
        answer = self._channel.infer(self._names.card, request, "content", timeout_s)
        return bytes(answer.result().tobytes())

    async def close(self) -> None:
        """Closes the connection."""
        self._client.close()
        self._channel.close()

    async def _wait(self, call: Callable[[], _T]) -> _T:
        import anyio.to_thread

        return await anyio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=self._limiter)
