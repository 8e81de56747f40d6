"""What the front asks of Triton: embeddings, and whether they are right; and it counts tokens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cliprt import CliprtError, Connection, InvalidInput, Limits, ModelUnavailable
from cliprt._names import ModelNames
from cliprt._texts import TextTokenizer
from cliprt._tokenizer_cache import load_tokenizer_json
from cliprt_triton._front._client import FrontClient
from cliprt_triton._front._gate import Gate
from cliprt_triton._front._inputs import EmbeddingsRequest

_T = TypeVar("_T")

# Texts beyond this many characters are counted on a thread, where they hold up nobody.
_COUNTED_AT_ONCE = 4000

# A host that swallows what is sent to it must not hold up every caller for a whole deadline.
_CONNECT_TIMEOUT_S = 10.0

# A readiness probe shares the answer of one that ran this short a time ago, in seconds: anybody
# may probe, and every probe that runs computes.
_READY_FOR_S = 1.0
_READY_TIMEOUT_S = 10.0


class Session:
    """A connection to one served bundle, with what was read through it.

    Attributes:
        card: of the bundle.
    """

    def __init__(self, client: FrontClient, tokenizer: TextTokenizer | None) -> None:
        self.card = client.card
        self.client = client
        self.tokenizer = tokenizer
        self.users = 0
        self.retired = False


class Towers:
    """The towers of one served model. All methods belong to one event loop."""

    def __init__(
        self, connection: Connection, model: str, *, limits: Limits, timeout_s: float
    ) -> None:
        """Connects nothing yet.

        Args:
            connection: how Triton is reached.
            model: name under which the bundle is served.
            limits: bounds on the inputs.
            timeout_s: deadline of each request to Triton, in seconds.
        """
        self._connection = connection
        self._names = ModelNames(model)
        self._limits = limits
        self._timeout_s = timeout_s
        self._gates = {"text": Gate(), "image": Gate()}
        self._session: Session | None = None
        self._connecting: asyncio.Task[Session] | None = None
        self._probe: asyncio.Task[bool] | None = None
        self._probed_at_s = 0.0

    async def embed(
        self, session: Session, request: EmbeddingsRequest
    ) -> tuple[NDArray[np.float32], int]:
        """Computes what a request asks for; texts and pictures at the same time.

        Args:
            session: of ``session()``, still open.
            request: what to embed.

        Returns:
            float32 [items, dim], rows of length 1, in the order of the input; and how many tokens
            the text tower saw, start and end of each text included.

        Raises:
            Overloaded: a tower has as many requests as it takes; nothing was decoded.
            CliprtError: an index is the place in the input.
        """
        card = session.card
        for name, spec, places in (
            ("text", card.text, request.text_places),
            ("image", card.image, request.picture_places),
        ):
            if spec is None and places:
                raise InvalidInput(
                    f"the model embeds no {name}s: it has no {name} tower", index=places[0]
                )
        # Both before either: half an answer is of no use.
        for name, wanted in (("text", request.texts), ("image", request.pictures)):
            if wanted:
                self._gates[name].check()
        jobs: list[Awaitable[object]] = []
        if request.texts:
            texts = partial(self._texts, session, request.texts)
            jobs.append(_placed(_through(self._gates["text"], texts), request.text_places))
        if request.pictures:
            pictures = partial(session.client.encode_image, request.pictures)
            jobs.append(_placed(_through(self._gates["image"], pictures), request.picture_places))
        found = await asyncio.gather(*jobs, return_exceptions=True)
        if errors := [each for each in found if isinstance(each, BaseException)]:
            # Which of two errors is told must not depend on which came first.
            raise min(errors, key=_gravity)
        embeddings = np.empty((request.items, card.dim), dtype=np.float32)
        tokens = 0
        if request.texts:
            embeddings[list(request.text_places)], tokens = found[0]  # type: ignore[misc]
        if request.pictures:
            embeddings[list(request.picture_places)] = found[-1]
        return embeddings, tokens

    async def known_answers(self) -> bool:
        """Whether the towers give the known answers; False where nobody can say.

        Raises:
            CliprtError: they do not, or nothing answers.
        """
        now = asyncio.get_running_loop().time()
        if self._probe is None or (self._probe.done() and now > self._probed_at_s + _READY_FOR_S):
            self._probed_at_s = now
            self._probe = asyncio.create_task(self._ask_known_answers())
        # A caller who leaves must not end the probe of the others.
        return await asyncio.shield(self._probe)

    async def close(self) -> None:
        """Closes the connection; nothing may be under way."""
        for task in (self._probe, self._connecting):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        session, self._session = self._session, None
        if session is not None:
            await session.client.close()

    async def _ask_known_answers(self) -> bool:
        """Asks the live server, within a deadline of its own."""
        async with self.session() as session:
            return await session.client.check_known_answers(_READY_TIMEOUT_S)

    async def _texts(
        self, session: Session, texts: Sequence[str]
    ) -> tuple[NDArray[np.float32], int]:
        assert session.tokenizer is not None
        if sum(map(len, texts)) <= _COUNTED_AT_ONCE:
            ids = session.tokenizer(texts)
        else:
            ids = await asyncio.to_thread(session.tokenizer, texts)
        embeddings = await session.client.encode_text(texts)
        return embeddings, sum(map(len, ids))

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """A session, connected if there is none; one that lost its model is left behind.

        Raises:
            CliprtError: the card cannot be read.
        """
        session = self._session or await self._connected()
        session.users += 1
        try:
            yield session
        except ModelUnavailable:
            # Another bundle may be served now, with another card: it is read at the next request.
            session.retired = True
            if self._session is session:
                self._session = None
            raise
        finally:
            session.users -= 1
            if session.retired and not session.users:
                await session.client.close()

    async def _connected(self) -> Session:
        """Connects; those who wait for it at the same time wait for one attempt."""
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect())
            self._connecting.add_done_callback(self._done_connecting)
        # A caller who leaves must not end the attempt of the others.
        return await asyncio.shield(self._connecting)

    def _done_connecting(self, task: asyncio.Task[Session]) -> None:
        self._connecting = None
        # Asking for the error marks it as seen, should nobody be left to see it.
        if not task.cancelled() and task.exception() is None:
            self._session = task.result()

    async def _connect(self) -> Session:
        client = await FrontClient.connect(
            self._connection,
            self._names,
            limits=self._limits,
            timeout_s=self._timeout_s,
            connect_timeout_s=min(self._timeout_s, _CONNECT_TIMEOUT_S),
        )
        try:
            tokenizer = None
            if (spec := client.card.text) is not None:
                content = await asyncio.to_thread(
                    load_tokenizer_json, client.card, partial(client.file, self._timeout_s)
                )
                tokenizer = TextTokenizer(content, spec, self._limits)
        except BaseException:
            await client.close()
            raise
        return Session(client, tokenizer)


async def _through(gate: Gate, start: Callable[[], Awaitable[_T]]) -> _T:
    """What a job comes to that has to pass a gate first."""
    with gate.passed():
        return await start()


async def _placed(job: Awaitable[_T], places: Sequence[int]) -> _T:
    """The answer of a job, whose errors count its own items, with the places in the input."""
    try:
        return await job
    except InvalidInput as error:
        if error.index is None:
            raise
        raise type(error)(error.reason, index=places[error.index]) from None


def _gravity(error: BaseException) -> tuple[int, int]:
    """Which error comes first: the caller's own, by their place, then those of the server."""
    if isinstance(error, InvalidInput):
        return 0, error.index or 0
    return (1, 0) if isinstance(error, CliprtError) else (2, 0)
