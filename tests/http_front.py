"""The HTTP front in this process, and plain HTTP for what no client package would send."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from cliprt_triton import openai_app


@dataclass(frozen=True)
class Front:
    """A running front."""

    host: str
    port: int

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}/v1"


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def error(self) -> dict[str, Any]:
        """The error in OpenAI's form, and nothing but it."""
        assert self.headers["content-type"] == "application/json"
        answer = self.json()
        assert set(answer) == {"error"}
        assert set(answer["error"]) == {"message", "type", "param", "code"}
        assert isinstance(answer["error"]["message"], str)
        return dict(answer["error"])


@contextmanager
def running_front(address: str, **options: Any) -> Iterator[Front]:
    """Serves the application on a port of its own; ends it with its connections."""
    config = uvicorn.Config(
        openai_app(address, **options), port=0, log_config=None, access_log=False, lifespan="on"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    try:
        deadline = time.monotonic() + 30
        while not server.started:
            assert thread.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        host, port = server.servers[0].sockets[0].getsockname()
        yield Front(host, port)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def ask(
    front: Front, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> Answer:
    """One request on a connection of its own; an iterable body is sent in chunks."""
    connection = http.client.HTTPConnection(front.host, front.port, timeout=30)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        named = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, named, response.read())
    finally:
        connection.close()


def post(front: Front, body: Any, **headers: str) -> Answer:
    """``POST /v1/embeddings`` with a body of bytes, or one that becomes JSON."""
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    return ask(
        front, "POST", "/v1/embeddings", body, {"Content-Type": "application/json", **headers}
    )


def data_uri(picture: bytes | Path, mime: str = "image/jpeg") -> str:
    """A picture as it is put into ``input``."""
    content = picture.read_bytes() if isinstance(picture, Path) else picture
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"
