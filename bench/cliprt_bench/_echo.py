"""A process that answers over plain gRPC without looking at what it is sent."""

from __future__ import annotations

import contextlib
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


def serve(descriptor: int) -> None:
    """What the process does, until the other end of the socket is closed."""
    import grpc

    socket = Connection(descriptor)
    answer_bytes, callers = map(int, socket.recv_bytes().split())
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
    socket.send_bytes(str(port).encode())
    with contextlib.suppress(EOFError, OSError):
        socket.recv_bytes()
    server.stop(None)
