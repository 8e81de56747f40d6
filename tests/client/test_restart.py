"""A server that is killed in the middle of a call and started again."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cliprt import Bundle, Client, Connection, Retry, ServerUnavailable
from cliprt_triton import TritonServer, write_repository

TEXTS = [f"a picture of {number} red circles" for number in range(10_000)]


def test_every_item_of_a_stream_is_answered_once_and_in_order(
    demo_bundle: Bundle, tmp_path: Path
) -> None:
    repository = write_repository(demo_bundle, tmp_path / "repository")
    servers = [TritonServer(repository)]
    port = int(servers[0].address.rpartition(":")[2])
    over = threading.Event()

    def kill_and_start_again() -> None:
        os.kill(servers[0].pid, signal.SIGKILL)
        servers[0].wait()
        servers[0].stop()
        servers.append(TritonServer(repository, grpc_port=port))
        over.wait(200)  # a server ends with the thread that started it

    starting: list[threading.Thread] = []

    def stream() -> Iterator[str]:
        for number, text in enumerate(TEXTS):
            if number == 4_500:
                starting.append(threading.Thread(target=kill_and_start_again))
                starting[0].start()
            yield text

    retry = Retry(wait_for_server=True)
    try:
        with Client(Connection(servers[0].address, retry=retry), timeout_s=120) as client:
            expected = client.encode_text(TEXTS[:64])
            found = client.encode_text(stream(), batch_size=8)
            assert len(servers) == 2
            assert found.shape == (10_000, client.card.dim)
            np.testing.assert_allclose(found[:64], expected, atol=1e-6)
            np.testing.assert_allclose(found, client.encode_text(TEXTS), atol=1e-6)
    finally:
        over.set()
        for server in servers:
            server.stop()


def test_without_retries_a_dead_server_is_told_at_once(demo_bundle: Bundle, tmp_path: Path) -> None:
    repository = write_repository(demo_bundle, tmp_path / "repository")
    with TritonServer(repository) as server:
        client = Client(Connection(server.address, retry=None))
    begun = time.monotonic()
    with client, pytest.raises(ServerUnavailable):
        client.encode_text("a")
    assert time.monotonic() - begun < 30
