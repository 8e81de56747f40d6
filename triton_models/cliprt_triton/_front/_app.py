"""The ASGI application: routes, and the road of ``POST /v1/embeddings`` from top to bottom."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from cliprt import Card, CliprtError, Connection, Limits
from cliprt._arguments import checked_timeout
from cliprt._core import Server
from cliprt._extras import require
from cliprt._names import ModelNames
from cliprt_triton._front._answers import embeddings_json
from cliprt_triton._front._around import GONE, Around
from cliprt_triton._front._body import Body, BodyBudget
from cliprt_triton._front._errors import Refusal, busy, internal, not_ready, refusal_for
from cliprt_triton._front._inputs import parse_request, unknown_model
from cliprt_triton._front._keys import ApiKeys
from cliprt_triton._front._metrics import FrontMetrics
from cliprt_triton._front._towers import Towers

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp

_T = TypeVar("_T")
_Handler = Callable[["Request"], Awaitable["Response"]]

DEFAULT_MAX_BODY_BYTES = 64 * 2**20
DEFAULT_MAX_ITEMS = 2048
DEFAULT_MAX_REQUESTS = 256

# Bodies up to this many bytes are taken apart within about a millisecond.
_PARSED_AT_ONCE = 256 * 1024

SPACE_HEADER = "x-cliprt-space"
"""Names the space of the embeddings in an answer; in a request, the one that they must be of."""

# Bodies of all requests under way, as a multiple of the greatest one.
_BODIES = 8

_log = logging.getLogger("cliprt.front")


def openai_app(
    server: Server,
    *,
    model: str = "clip",
    api_keys: Sequence[str] = (),
    limits: Limits | None = None,
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
    max_items: int = DEFAULT_MAX_ITEMS,
    max_requests: int = DEFAULT_MAX_REQUESTS,
    body_timeout_s: float = 60.0,
    timeout_s: float = 60.0,
    access_log: bool = False,
) -> ASGIApp:
    """An ASGI application that answers OpenAI's embeddings protocol from a Triton server.

    It connects at the first request, and again when the server was restarted or given another
    bundle. Run it with one worker for each event loop; it may also be mounted in another
    application, whose lifespan then has to run this one's to close the connection at the end.

    Args:
        server: Triton's gRPC: host and port, several of them that take turns, or a ``Connection``
            with TLS, headers and the like. Unless a ``Connection`` says otherwise nothing is tried
            again here: callers are told to, and those of OpenAI's protocol do.
        model: name under which the bundle is served, and the id of the only model here.
        api_keys: of which callers have to send one for ``/v1/embeddings`` and ``/v1/models``;
            health and metrics stay open. Without any, all is open.
        limits: bounds on each text and picture; None means the client's defaults.
        max_body_bytes: longest body; those of all requests together hold at most 8 times as much.
        max_items: most items of ``input``.
        max_requests: requests to ``/v1/embeddings`` that may be under way; more are refused with
            status 429.
        body_timeout_s: within which a body has to arrive, in seconds.
        timeout_s: deadline of each request to Triton, in seconds.
        access_log: log a line of JSON for each request, on the logger ``cliprt.access``.

    Raises:
        MissingExtra: the extra ``http`` is not installed.
        ValueError: an argument is malformed.
    """
    require("starlette", extra="http")
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.routing import Route

    if min(max_body_bytes, max_items, max_requests) < 1:
        raise ValueError("max_body_bytes, max_items and max_requests must be positive")
    front = _Front(
        Towers(
            server if isinstance(server, Connection) else Connection(server, retry=None),
            ModelNames(model).prefix,
            limits=limits or Limits(),
            timeout_s=checked_timeout(timeout_s),
        ),
        model=model,
        keys=ApiKeys(api_keys),
        max_body_bytes=max_body_bytes,
        max_items=max_items,
        max_requests=max_requests,
        body_timeout_s=checked_timeout(body_timeout_s),
    )

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await front.towers.close()

    app = Starlette(
        routes=[
            Route("/v1/embeddings", _answered(front.embeddings), methods=["POST"]),
            Route("/v1/models", _answered(front.models)),
            Route("/v1/models/{id:path}", _answered(front.one_model)),
            Route("/v1/health/live", _answered(front.live)),
            Route("/v1/health/ready", _answered(front.ready)),
            Route("/metrics", _answered(front.metrics_text)),
        ],
        exception_handlers={HTTPException: _no_route},
        lifespan=lifespan,
    )
    # No answer to a path with a slash too many but that it is not there.
    app.router.redirect_slashes = False
    return Around(app, metrics=front.metrics, log=access_log)


class _Front:
    """The endpoints."""

    def __init__(
        self,
        towers: Towers,
        *,
        model: str,
        keys: ApiKeys,
        max_body_bytes: int,
        max_items: int,
        max_requests: int,
        body_timeout_s: float,
    ) -> None:
        self.towers = towers
        self.metrics = FrontMetrics()
        self._model = model
        self._keys = keys
        self._budget = BodyBudget(_BODIES * max_body_bytes)
        self._max_body_bytes = max_body_bytes
        self._max_items = max_items
        self._max_requests = max_requests
        self._body_timeout_s = body_timeout_s
        self._under_way = 0
        self._created = int(time.time())

    async def embeddings(self, request: Request) -> Response:
        """``POST /v1/embeddings``."""
        self._keys.check(request.headers.get("authorization"))
        if self._under_way >= self._max_requests:
            raise busy(
                f"{self._max_requests} requests are under way, more are not taken at once; "
                "wait before trying again"
            )
        self._under_way += 1
        try:
            body = Body(
                self._budget, max_bytes=self._max_body_bytes, timeout_s=self._body_timeout_s
            )
            with body:
                content = await body.read(request)
                return await _unless_gone(request, self._embed(request, content))
        finally:
            self._under_way -= 1

    async def _embed(self, request: Request, content: bytes) -> Response:
        async with self.towers.session() as session:
            card = session.card
            _check_space(request, card)
            parse = partial(
                parse_request, model=self._model, dim=card.dim, max_items=self._max_items
            )
            # A long body would hold up everybody else.
            long = len(content) > _PARSED_AT_ONCE
            asked = await asyncio.to_thread(parse, content) if long else parse(content)
            embeddings, tokens = await self.towers.embed(session, asked)
        request.state.logged = {"texts": len(asked.texts), "images": len(asked.pictures)}
        answer = await embeddings_json(
            embeddings, as_base64=asked.base64, model=self._model, tokens=tokens
        )
        self.metrics.embedded(texts=len(asked.texts), pictures=len(asked.pictures), tokens=tokens)
        return _json(answer, {SPACE_HEADER: card.space})

    async def models(self, request: Request) -> Response:
        """``GET /v1/models``."""
        self._keys.check(request.headers.get("authorization"))
        return _json(msgspec.json.encode({"object": "list", "data": [await self._described()]}))

    async def one_model(self, request: Request) -> Response:
        """``GET /v1/models/{id}``."""
        self._keys.check(request.headers.get("authorization"))
        if (asked := request.path_params["id"]) != self._model:
            raise unknown_model(asked, self._model)
        return _json(msgspec.json.encode(await self._described()))

    async def live(self, request: Request) -> Response:
        """``GET /v1/health/live``: this process answers."""
        return _json(b'{"status":"live"}')

    async def ready(self, request: Request) -> Response:
        """``GET /v1/health/ready``: the towers give the known answers."""
        try:
            known = await self.towers.known_answers()
        except CliprtError as error:
            _log.warning("not ready: %s", error)
            # One status, whatever the reason: those who probe know no others.
            raise not_ready() from None
        return _json(msgspec.json.encode({"status": "ready", "known_answers": known}))

    async def metrics_text(self, request: Request) -> Response:
        """``GET /metrics``."""
        from starlette.responses import Response

        return Response(self.metrics.text(), headers={"content-type": self.metrics.content_type})

    async def _described(self) -> dict[str, Any]:
        """The model in OpenAI's words, and what a caller has to know of its embeddings."""
        async with self.towers.session() as session:
            card = session.card
        return {
            "id": self._model,
            "object": "model",
            "created": self._created,
            "owned_by": "cliprt",
            "name": card.name,
            "space": card.space,
            "dimensions": card.dim,
            "inputs": [kind for kind, spec in (("text", card.text), ("image", card.image)) if spec],
        }


def _answered(handler: _Handler) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    """An endpoint whose failures are answers in OpenAI's form."""

    async def endpoint(request: Request) -> Response:
        from starlette.requests import ClientDisconnect
        from starlette.responses import Response

        try:
            return await handler(request)
        except ClientDisconnect:
            return Response(status_code=GONE)
        except Refusal as refusal:
            return _refused(refusal)
        except CliprtError as error:
            told = refusal_for(error)
            if told.status >= 500:
                _log.warning("%s: %s", request.state.request_id, error)
            return _refused(told)
        # Whatever it is, the caller gets an answer, and the log the reason.
        except Exception:  # noqa: BLE001
            _log.exception("request %s failed", request.state.request_id)
            return _refused(internal())

    return endpoint


async def _unless_gone(request: Request, work: Coroutine[Any, Any, _T]) -> _T:
    """Waits for an answer as long as somebody does; otherwise what computes it is cancelled.

    Raises:
        starlette.requests.ClientDisconnect: the caller left.
    """
    from starlette.requests import ClientDisconnect

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


def _check_space(request: Request, card: Card) -> None:
    """Refuses callers whose other embeddings are of another space, if they say so."""
    if (demanded := request.headers.get(SPACE_HEADER, card.space)) != card.space:
        raise Refusal(
            412,
            f"the model served here is of the space {card.space}, not of {demanded[:64]!r}; "
            "embeddings of two spaces cannot be compared",
            code="space_mismatch",
        )


async def _no_route(request: Request, error: Exception) -> Response:
    """Paths and methods that there are not."""
    status = getattr(error, "status_code", 404)
    if status == 405:
        allowed = getattr(error, "headers", None) or {}
        return _refused(
            Refusal(405, f"the method {request.method} is not allowed here", headers=allowed)
        )
    return _refused(
        Refusal(status, f"there is nothing at {request.url.path[:200]}", code="not_found")
    )


def _refused(refusal: Refusal) -> Response:
    return _json(refusal.body(), refusal.headers, refusal.status)


def _json(content: bytes, headers: Any = None, status: int = 200) -> Response:
    from starlette.responses import Response

    return Response(content, status, headers, media_type="application/json")
