"""Callers of the front who begin and do not go on: they are hung up on, others are not."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from patience import until

from cliprt_triton._front import _process
from cliprt_triton._front._protocol import HEAD_S, prompt_protocol

PATIENCE_S = 2.0


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the body."""
    message = await receive()
    body = message["body"]
    while message.get("more_body"):
        message = await receive()
        body += message.get("body", b"")
    headers = [(b"content-length", b"4")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    config = uvicorn.Config(
        application,
        port=0,
        http=prompt_protocol(PATIENCE_S),
        lifespan="off",
        log_config=None,
        timeout_keep_alive=300,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    until(lambda: server.started)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join(30)


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=60)


HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n"


def answered(to: socket.socket) -> bool:
    """Whether a request was answered with its own body."""
    said = b""
    while not said.endswith(b"body"):
        if not (more := to.recv(1000)):
            return False
        said += more
    return said.startswith(b"HTTP/1.1 200")


def test_who_does_not_bring_a_head_to_its_end_is_hung_up_on(port: int) -> None:
    with contextlib.ExitStack() as opened:
        kept = opened.enter_context(connected(port))
        kept.sendall(HEAD + b"body")
        assert answered(kept)
        # The second request of a connection, none at all, a letter, and all but an end.
        waiting = [kept]
        for begun in (HEAD[:10], b"", b"P", HEAD[:-2]):
            if begun != HEAD[:10]:
                waiting.append(opened.enter_context(connected(port)))
            waiting[-1].sendall(begun)
        for each in waiting:
            said = b""
            while more := each.recv(1000):
                said += more
            assert b"HTTP/1.1" not in said


def test_who_sends_a_byte_now_and_then_gains_no_time(port: int) -> None:
    with connected(port) as dawdling:
        dawdling.settimeout(0.05)
        for _ in range(1000):
            try:
                dawdling.sendall(b"a")
                if dawdling.recv(100) == b"":
                    return
            except TimeoutError:
                continue
            except ConnectionError:
                return
    pytest.fail("it is still listened to")


def test_a_body_has_other_limits_and_a_kept_connection_too(port: int) -> None:
    """Both have lasted longer than a head may by the time that another caller is hung up on."""
    with connected(port) as slow, contextlib.ExitStack() as opened:
        slow.sendall(HEAD)
        kept = opened.enter_context(connected(port))
        kept.sendall(HEAD + b"body")
        assert answered(kept)
        with connected(port) as dawdling:
            assert dawdling.recv(100) == b""
        slow.sendall(b"body")
        assert answered(slow)
        kept.sendall(HEAD + b"body")
        assert answered(kept)


def test_the_front_is_served_so() -> None:
    config = _process._server(application).config
    assert config.http.__name__ == "PromptProtocol"
    assert HEAD_S == 30
