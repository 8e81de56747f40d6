"""Who computes the embeddings of a batch job: this process, or a server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from cliprt._card import Card
from cliprt._errors import InvalidInput, RetryableError, closed
from cliprt._images import Ready

if TYPE_CHECKING:
    from cliprt import Client
    from cliprt_engines import LocalClip

Text: TypeAlias = "NDArray[np.float32] | InvalidInput"
"""The embedding of a text, float32 [dim], or why there is none."""

_Answer = TypeVar("_Answer")

WINDOW = 64
"""Pictures that are decoded by one process and embedded together.

Which pictures share a batch depends on nothing but their places in the source, so that the same
numbers come out however many processes there are and however often a run was interrupted.
"""

# Between two attempts to reach a server that is gone or full, in seconds.
_PAUSE_S = 1.0


class Encoder(Protocol):
    """What embeds the batches of a job.

    The same batch must give the same numbers whenever it is asked for and whatever else is computed
    at the time: that is what makes the output of a resumed run equal that of an undisturbed one.

    Attributes:
        threads: how many calls at once keep it busy.
        window: pictures of a call.
        described: what computes, as far as it decides the numbers; part of the job's identity.
        settings: what it takes to compute the same numbers again, to be kept with the job.
    """

    threads: int
    window: int
    described: dict[str, str]

    @property
    def settings(self) -> dict[str, Any]:
        """As above; the first look may load and measure."""
        ...

    @property
    def card(self) -> Card:
        """Of the model."""
        ...

    def images(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embeds preprocessed pictures.

        Args:
            pixels: uint8 [n, height, width, 3], n at most ``window``.

        Returns:
            float32 [n, dim].
        """
        ...

    def texts(self, texts: Sequence[str]) -> list[Text]:
        """Embeds texts; each gets its embedding, or the reason why there is none."""
        ...

    def stop(self) -> None:
        """Ends calls under way that wait for somebody; nobody asks for more."""
        ...


class LocalEncoder:
    """Embeds in this process.

    A call is cut into batches by its length alone, and each batch is computed as a whole by one of
    the threads that ``LocalClip`` keeps for that.
    """

    def __init__(self, clip: LocalClip, towers: Sequence[str], *, truncate: bool) -> None:
        """Takes what computes; it is not closed.

        Args:
            clip: the model.
            towers: those that are used.
            truncate: whether texts beyond the context are cut or refused.
        """
        self._clip, self._truncate = clip, truncate
        # One call ends while the next ones fill the threads that it leaves idle.
        self.threads, self.window = 3, WINDOW
        self._towers = cast("Sequence[Literal['image', 'text']]", towers)
        self.described = {"computed": "locally"}
        for tower in self._towers:
            self.described[f"{tower}_precision"] = clip.precision(tower)

    @property
    def settings(self) -> dict[str, Any]:
        """Of each tower; loads and measures them if that was not done before."""
        return {tower: msgspec.to_builtins(self._clip.settings(tower)) for tower in self._towers}

    @property
    def card(self) -> Card:
        """The bundle's."""
        return self._clip.card

    def images(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embeds preprocessed pictures, uint8 [n, height, width, 3] to float32 [n, dim]."""
        return self._clip.encode_image(_ready(pixels))

    def texts(self, texts: Sequence[str]) -> list[Text]:
        """Embeds texts."""
        return _texts(
            self._clip.encode_text(list(texts), truncate=self._truncate, on_error="return")
        )

    def stop(self) -> None:
        """Nothing here waits for anybody."""


class ServedEncoder:
    """Embeds on one or several servers, and waits for those that are gone or full.

    A server joins requests that wait to greater batches, and in a batch of another size a number
    may differ in its last digits. Requests are therefore as large as the greatest batch of the
    server, so that nothing can be joined to them; the last one is filled up with copies.
    """

    def __init__(self, client: Client, *, truncate: bool, patience_s: float) -> None:
        """Takes the client; it is not closed.

        Args:
            client: to the servers.
            truncate: whether texts beyond the context are cut or refused.
            patience_s: how long to wait for a server that is gone or full, in seconds.
        """
        self._client, self._truncate, self._patience_s = client, truncate, patience_s
        self._most = {tower: client._core.most(tower) for tower in ("image", "text")}
        self.window = _multiple(WINDOW, self._most["image"] or WINDOW)
        # While some requests of each server are computed, the next ones travel.
        endpoints = client._core.endpoints
        self.threads = max(4, 2 * endpoints)
        self.described = {"computed": "by a server"}
        self._stopped = threading.Event()

    @property
    def settings(self) -> dict[str, Any]:
        """The server has its own."""
        return {}

    @property
    def card(self) -> Card:
        """The served model's."""
        return self._client.card

    def images(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embeds preprocessed pictures, uint8 [n, height, width, 3] to float32 [n, dim]."""
        most = self._most["image"]
        filled = _filled_up(_ready(pixels), most)
        embeddings = self._patiently(lambda: self._client.encode_image(filled, batch_size=most))
        return embeddings[: len(pixels)]

    def texts(self, texts: Sequence[str]) -> list[Text]:
        """Embeds texts."""
        answers = self._ask(texts)
        good = [place for place, answer in enumerate(answers) if not isinstance(answer, Exception)]
        if 0 < len(good) < len(texts):
            # Those that were refused were missing in their requests, which others could join.
            again = self._ask([texts[place] for place in good])
            for place, answer in zip(good, again, strict=True):
                answers[place] = answer
        return answers

    def stop(self) -> None:
        """Ends requests under way, and the patience with a server that is gone."""
        self._stopped.set()
        self._client.close()

    def _ask(self, texts: Sequence[str]) -> list[Text]:
        most = self._most["text"]
        filled = _filled_up(list(texts), most)

        def ask() -> list[Text]:
            return _texts(
                self._client.encode_text(
                    filled, truncate=self._truncate, on_error="return", batch_size=most
                )
            )

        return self._patiently(ask)[: len(texts)]

    def _patiently(self, ask: Callable[[], _Answer]) -> _Answer:
        """Asks again while the server is gone or full, until the patience is over."""
        begun = time.monotonic()
        while True:
            try:
                return ask()
            except RetryableError:
                if time.monotonic() - begun > self._patience_s:
                    raise
            if self._stopped.wait(_PAUSE_S):
                raise closed()


def _ready(pixels: NDArray[np.uint8]) -> list[Any]:
    return [Ready(picture) for picture in pixels]


def _texts(answers: Sequence[Any]) -> list[Text]:
    """What became of texts, where only the texts themselves may be at fault.

    Raises:
        CliprtError: a request failed.
    """
    for answer in answers:
        if isinstance(answer, Exception) and not isinstance(answer, InvalidInput):
            raise answer
    return list(answers)


def _multiple(least: int, of: int) -> int:
    return -(-least // of) * of


def _filled_up(items: list[Any], size: int) -> list[Any]:
    """The items and copies of the last one, so that they make whole batches."""
    return items + items[-1:] * (_multiple(len(items), size) - len(items))
