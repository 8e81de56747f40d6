"""Processes that answer without looking at what they are sent, over plain gRPC or plain TCP."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

from cliprt._worker_process import WorkerProcess

METHOD = "/cliprt.bench/Echo"
"""Takes bytes of any kind; the answer's length was said when the process was started."""

_ANY_LENGTH = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))
_LOCAL = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))


class EchoServer:
    """Runs until it is closed. Its handlers are Python's, in one thread for each caller."""

    def __init__(self, *, answer_bytes: int, callers: int) -> None:
        """Starts it.

        Args:
            answer_bytes: length of each answer.
            callers: how many are answered at once.

        Raises:
            OSError: it does not start.
        """
        self._process = WorkerProcess("cliprt_bench._echo:serve")
        try:
            port = self._process.ask(f"{answer_bytes} {callers}".encode()).decode()
        except (EOFError, OSError):
            raise OSError(f"the echo server ended {self._process.end()}") from None
        self.address = f"127.0.0.1:{port}"

    def channel(self) -> Any:
        """A new connection."""
        import grpc

        return grpc.insecure_channel(self.address, options=(*_ANY_LENGTH, *_LOCAL))

    def close(self) -> None:
        """Ends it."""
        self._process.end()


class PlainServer:
    """Answers over plain TCP, in a thread for each connection; runs until it is closed.

    The system's own work and nothing else: whoever carries as many bytes does it, too.
    """

    def __init__(self, *, request_bytes: int, answer_bytes: int) -> None:
        """Starts it.

        Args:
            request_bytes: length of each request, 1 at least.
            answer_bytes: length of each answer, 1 at least.

        Raises:
            OSError: it does not start.
        """
        self._request, self._answer_bytes = bytes(request_bytes), answer_bytes
        self._process = WorkerProcess("cliprt_bench._echo:serve_plain")
        try:
            self._port = int(self._process.ask(f"{request_bytes} {answer_bytes}".encode()))
        except (EOFError, OSError):
            raise OSError(f"the plain server ended {self._process.end()}") from None

    def caller(self) -> tuple[socket.socket, Callable[[], None]]:
        """A connection, and what sends a request over it and waits for the answer."""
        own = socket.create_connection(("127.0.0.1", self._port))
        own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        answer = memoryview(bytearray(self._answer_bytes))

        def call() -> None:
            own.sendall(self._request)
            if not _filled(own, answer):
                raise OSError("the plain server is gone")

        return own, call

    def close(self) -> None:
        """Ends it."""
        self._process.end()


def serve_plain(descriptor: int) -> None:
    """What the process of plain TCP does, until the other end of the socket is closed."""
    parent = Connection(descriptor)
    request_bytes, answer_bytes = map(int, parent.recv_bytes().split())

    def answer(own: socket.socket) -> None:
        request, back = memoryview(bytearray(request_bytes)), bytes(answer_bytes)
        own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with own, contextlib.suppress(OSError):
            while _filled(own, request):
                own.sendall(back)

    def accept() -> None:
        while True:
            threading.Thread(target=answer, args=(server.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=accept, daemon=True).start()
        parent.send_bytes(str(server.getsockname()[1]).encode())
        with contextlib.suppress(EOFError, OSError):
            parent.recv_bytes()
        os._exit(0)  # whoever is in the midst of an answer does not matter any more


def _filled(own: socket.socket, buffer: memoryview) -> bool:
    """Whether so many bytes came; fewer do where the other end is closed."""
    have = 0
    while have < len(buffer):
        more = own.recv_into(buffer[have:])
        if not more:
            return False
        have += more
    return True


def serve(descriptor: int) -> None:
    """What the process does, until the other end of the socket is closed."""
    import grpc

    parent = Connection(descriptor)
    answer_bytes, callers = map(int, parent.recv_bytes().split())
    answer = bytes(answer_bytes)
    echo = grpc.unary_unary_rpc_method_handler(lambda request, context: answer)
    service, _, method = METHOD.strip("/").partition("/")
    server = grpc.server(
        ThreadPoolExecutor(callers),
        handlers=[grpc.method_handlers_generic_handler(service, {method: echo})],
        options=_ANY_LENGTH,
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    parent.send_bytes(str(port).encode())
    with contextlib.suppress(EOFError, OSError):
        parent.recv_bytes()
    server.stop(None)
