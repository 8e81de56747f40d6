"""What tests of faults share: servers that are started again, and what is left afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import psutil
from wire_models import ONE

from cliprt import Client, Connection, Retry, RetryableError
from cliprt._grpc import TritonChannel
from cliprt_triton import Restarts, TritonServer
from cliprt_triton._processes import model_processes

LIMIT_S = 60.0
"""Far more than anything takes here, on a machine as busy as it likes."""

Answer = TypeVar("Answer")


def supervised(repository: Path, **options: object) -> TritonServer:
    """A server that is started again however often it crashes, as old Tritons do at times."""
    return TritonServer(
        repository,
        restarts=Restarts(10**6, tell=lambda _: None),
        **options,  # type: ignore[arg-type]
    )


def patient(address: str) -> Client:
    """A client that waits for a server that is gone."""
    connection = Connection(address, retry=Retry(attempts=5, wait_for_server=True))
    return Client(connection, timeout_s=LIMIT_S)


def hasty(address: str, **options: object) -> TritonChannel:
    """A channel that makes one attempt."""
    return TritonChannel(Connection(address, retry=None, **options))  # type: ignore[arg-type]


@contextmanager
def channels(count: int, address: str) -> Iterator[list[TritonChannel]]:
    """Connections, each of a caller of its own."""
    made = [hasty(address) for _ in range(count)]
    try:
        for each in made:
            assert each.server_ready(LIMIT_S)
        yield made
    finally:
        for each in made:
            each.close()


def once_it_answers(ask: Callable[[], Answer]) -> Answer:
    """The first answer; until then every attempt must fail with an error that may be retried."""
    ends = time.monotonic() + LIMIT_S
    while True:
        try:
            return ask()
        except RetryableError:
            assert time.monotonic() < ends, "it does not come back"
            time.sleep(0.05)


def known_answer(channel: TritonChannel, model: str = "echo") -> None:
    """The model answers, at the latest when it has come back, and is right."""
    found = once_it_answers(lambda: channel.infer(model, ONE, "value", LIMIT_S).result())
    assert (found == ONE["value"]).all()


def models_of(server: TritonServer) -> dict[int, str]:
    """Numbers of the processes of a server's models, with the models' names."""
    return model_processes(server._regions)


def connections_to(server: TritonServer) -> int:
    """Connections of gRPC that a server holds open."""
    port = int(server.address.rpartition(":")[2])
    return sum(
        each.laddr.port == port and each.status == psutil.CONN_ESTABLISHED
        for each in psutil.Process(server.pid).net_connections("tcp")
    )
