"""What Triton 24.10's own HTTP, which is off by default, does not bear; nobody else speaks it.

JSON that goes too deep ends it, too: test_faults_killed.py.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator

import psutil
import pytest
from faults import channels, known_answer, supervised
from input_tensors import post
from input_wire import in_chunks
from wire_models import write_wire_repository

from cliprt_triton import TritonServer

INFER = "/v2/models/echo/infer"
MIB = 2**20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    repository = write_wire_repository(tmp_path_factory.mktemp("http") / "models", slow_s=0)
    with supervised(repository, http_port=0) as server:
        yield server


def _host(server: TritonServer) -> str:
    return str(server.http_url).removeprefix("http://")


def test_half_a_million_chunks_end_it_and_it_is_started_again(server: TritonServer) -> None:
    """It puts 16 bytes for each chunk on a stack of 8 MiB, and ends by SIGSEGV beyond."""
    host, _, port = _host(server).partition(":")
    with channels(1, server.address) as (caller,):
        known_answer(caller)
        ended = server.pid
        assert in_chunks(host, int(port), INFER, 500_000) == b"HTTP/1.1 500"
        assert server.pid == ended
        assert in_chunks(host, int(port), INFER, 600_000) == b""
        known_answer(caller)
        assert server.pid != ended
    # By the same way that it ended on, too.
    assert in_chunks(host, int(port), INFER, 1) == b"HTTP/1.1 500"


def test_no_body_is_too_long_and_what_was_unpacked_stays_in_memory(server: TritonServer) -> None:
    """So bodies must be limited in front of it, and packed ones refused."""
    process = psutil.Process(server.pid)
    before = process.memory_info().rss
    # Later Tritons refuse more than 64 MiB.
    for body, fields in (
        (b" " * (200 * MIB), {}),
        (gzip.compress(b" " * (200 * MIB), 1), {"Content-Encoding": "gzip"}),
        (gzip.compress(b" " * (200 * MIB), 1), {"Content-Encoding": "gzip"}),
    ):
        status, content = post(_host(server), INFER, body, fields)
        assert (status, b"failed to parse the request JSON" in content) == (500, True)
    assert process.memory_info().rss - before > 350 * MIB
