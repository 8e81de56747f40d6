"""The front's connection to Triton: cliprt's client, and what it does not offer itself."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cliprt import (
    AsyncClient,
    Card,
    Connection,
    DeadlineExceeded,
    Limits,
    ModelUnavailable,
    ServerUnavailable,
)
from cliprt._names import ModelNames, served_version
from cliprt._served_bundle import served_file

if TYPE_CHECKING:
    from cliprt._grpc import TritonChannel


class FrontClient:
    """A connected client."""

    def __init__(self, client: AsyncClient, channel: TritonChannel, names: ModelNames) -> None:
        self._client = client
        self._channel = channel
        self._names = names

    @classmethod
    async def connect(
        cls,
        connection: Connection,
        names: ModelNames,
        *,
        limits: Limits,
        timeout_s: float,
        connect_timeout_s: float,
    ) -> FrontClient:
        """Connects and reads the card.

        Raises:
            CliprtError: as cliprt.Client.
        """
        from cliprt._grpc import TritonChannel  # gRPC takes a while to import

        client = AsyncClient(connection, model=names.prefix, timeout_s=timeout_s, limits=limits)
        try:
            await _within(connect_timeout_s, client.connect())
        except BaseException:
            await client.close()
            raise
        return cls(client, TritonChannel(connection), names)

    @property
    def card(self) -> Card:
        """The card of the served bundle."""
        return self._client.card

    async def encode_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeds texts, as cliprt.AsyncClient.encode_text."""
        return await self._client.encode_text(texts)

    async def encode_image(self, images: Sequence[bytes]) -> NDArray[np.float32]:
        """Embeds encoded pictures, as cliprt.AsyncClient.encode_image."""
        return await self._client.encode_image(images)

    async def check_known_answers(self, timeout_s: float) -> bool:
        """Asks the model ``NAME_health``, which asks the live towers for known answers.

        Returns:
            True if they gave them; False if the repository has no such model, so that all that is
            known is that every model is ready.

        Raises:
            CliprtError: a wrong answer, none at all, or a model that is not ready.
        """
        try:
            await asyncio.to_thread(self._ask_health, timeout_s)
        except ModelUnavailable:
            # A repository without it, or one whose towers, or versions, are not there any more?
            if await asyncio.to_thread(self._has_health, timeout_s):
                raise
            if not await asyncio.to_thread(self._channel.server_ready, timeout_s):
                raise ServerUnavailable("a model is not ready") from None
            return False
        return True

    def _ask_health(self, timeout_s: float) -> None:
        """A probe; blocks. What is not healthy answers with an error."""
        probe = {"probe": np.zeros(1, dtype=np.uint8)}
        version = served_version(self.card.space)
        self._channel.infer(
            self._names.health, probe, "healthy", timeout_s, version=version
        ).result()

    def _has_health(self, timeout_s: float) -> bool:
        """Whether the server has the model ``NAME_health``, of any version; blocks."""
        try:
            self._channel.model_config(self._names.health, timeout_s)
        except ModelUnavailable:
            return False
        return True

    def file(self, timeout_s: float, name: str) -> bytes:
        """A file of the served bundle; blocks."""
        return served_file(self._channel, self._names.card, name, timeout_s)

    async def close(self) -> None:
        """Closes the connection."""
        await self._client.close()
        self._channel.close()


async def _within(timeout_s: float, work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.ensure_future(work)
    await asyncio.wait((task,), timeout=timeout_s)
    if not task.done():
        task.cancel()
        raise DeadlineExceeded(f"nothing answered within {timeout_s:g} s")
    task.result()
