"""What happens around every request: its id, its time, its place in metrics and log."""

from __future__ import annotations

import logging
import re
import time
import uuid
from typing import TYPE_CHECKING

import msgspec

from cliprt_triton._front._metrics import FrontMetrics

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

access = logging.getLogger("cliprt.access")
"""One line of JSON for each request, where it is asked for; never what was embedded."""

ROUTES = (
    "/v1/embeddings",
    "/v1/models",
    "/v1/health/live",
    "/v1/health/ready",
    "/metrics",
)

GONE = 499
"""Status under which a request is counted whose caller left before the answer."""

_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}")


class Around:
    """An ASGI application around another one."""

    def __init__(self, app: ASGIApp, *, metrics: FrontMetrics, log: bool) -> None:
        self._app = app
        self._metrics = metrics
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves a request, or what else a server tells an application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        request_id = scope.setdefault("state", {})["request_id"] = _request_id(scope)
        # Where no answer was begun, something went wrong that is answered with 500 by the server.
        status = 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                taken_ms = (time.perf_counter() - began) * 1000
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", request_id.encode()),
                    (b"openai-processing-ms", f"{taken_ms:.0f}".encode()),
                ]
            await send(message)

        self._metrics.begun()
        try:
            await self._app(scope, receive, send_with_id)
        finally:
            seconds = time.perf_counter() - began
            route = _route(scope["path"])
            self._metrics.ended(route, status, seconds)
            if self._log:
                line = {
                    "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                    "request_id": request_id,
                    "method": scope["method"],
                    "route": route,
                    "status": status,
                    "ms": round(seconds * 1000, 1),
                    **scope["state"].get("logged", {}),
                }
                access.info(msgspec.json.encode(line).decode())


def _request_id(scope: Scope) -> str:
    """The caller's own id if it is one that may go into logs, or a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _ID.fullmatch(given := value.decode("latin-1")):
            return str(given)
    return f"req_{uuid.uuid4().hex}"


def _route(path: str) -> str:
    """The path as a label, of which there are few whatever callers ask for."""
    if path in ROUTES:
        return path
    return "/v1/models/{id}" if path.startswith("/v1/models/") else "other"
