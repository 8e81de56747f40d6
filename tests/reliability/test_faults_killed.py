"""Servers and callers that are killed in the middle of a batch; servers that are told to end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import (
    LIMIT_S,
    channels,
    connections_to,
    hasty,
    known_answer,
    models_of,
    supervised,
)
from input_tensors import post
from patience import until
from wire_models import ONE, keep_busy, waiting, write_wire_repository

from cliprt import Connection, ModelUnavailable, Retry, ServerUnavailable
from cliprt._grpc import TritonChannel
from cliprt_triton import TritonServer


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wire_repository(tmp_path_factory.mktemp("killed") / "models", slow_s=0)


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[TritonServer]:
    with supervised(repository) as server:
        yield server


def test_a_server_killed_in_a_batch_is_told_to_every_caller(
    server: TritonServer, tmp_path: Path
) -> None:
    models = sorted(models_of(server).values())
    with channels(5, server.address) as callers:
        file = tmp_path / "busy"
        pending = [keep_busy(callers[0], file)]
        pending += [each.infer("slow", ONE, "value", 600) for each in callers[1:]]
        until(lambda: waiting(server, "slow") == 4)
        os.kill(server.pid, signal.SIGKILL)
        # Far before their deadlines, or this would take ten minutes.
        for each in pending:
            with pytest.raises(ServerUnavailable):
                each.result()
        file.unlink()
        for caller in callers:
            known_answer(caller, "slow")
    assert not file.exists()  # what had begun was not begun again: these callers allow no retry
    assert sorted(models_of(server).values()) == models
    assert waiting(server, "slow") == 0


def test_json_that_ends_triton_costs_callers_who_wait_nothing(
    repository: Path, tmp_path: Path
) -> None:
    """Triton 24.10 ends by SIGSEGV where JSON goes too deep; by gRPC nobody sends any.

    Its stack of 8 MiB bore 103,125 brackets here and not 104,687: 102 KiB of body are enough.
    """
    with supervised(repository, http_port=0) as server, channels(1, server.address) as (first,):
        connection = Connection(server.address, retry=Retry(attempts=5, wait_for_server=True))
        caller = TritonChannel(connection)
        busy = keep_busy(first, file := tmp_path / "busy")
        pending = [caller.infer("slow", ONE, "value", LIMIT_S) for _ in range(3)]
        until(lambda: waiting(server, "slow") == 3)
        ended = server.pid
        host = str(server.http_url).removeprefix("http://")
        with pytest.raises(ConnectionError):
            post(host, "/v2/models/echo/infer", b'{"inputs":' + b"[" * 250_000, {})
        with pytest.raises(ServerUnavailable):
            busy.result()
        file.unlink()
        for each in pending:
            assert (each.result() == ONE["value"]).all()
        known_answer(first, "slow")
        assert server.pid != ended
        # By the same way that it ended on, too.
        assert post(host, "/v2/models/echo/infer", b"[]", {})[0] == 500
        caller.close()


def test_a_server_that_is_told_to_end_answers_what_it_has_begun(
    repository: Path, tmp_path: Path
) -> None:
    with TritonServer(repository) as server, channels(2, server.address) as (first, second):
        begun = keep_busy(first, file := tmp_path / "busy")
        os.kill(server.pid, signal.SIGTERM)

        def refused() -> bool:
            try:
                second.infer("echo", ONE, "value", LIMIT_S).result()
            except (ServerUnavailable, ModelUnavailable):
                return True
            return False

        until(refused)
        assert not begun.done()
        file.unlink()
        assert begun.result().tobytes().endswith(str(file).encode())
        assert server.wait() == 0


CALLER = """
import sys, time
from pathlib import Path
from cliprt._grpc import TritonChannel
from wire_models import ONE, keep_busy
channel = TritonChannel(sys.argv[1])
first = keep_busy(channel, Path(sys.argv[2]))
others = [channel.infer("slow", ONE, "value", 600) for _ in range(4)]
print("asked", flush=True)
time.sleep(600)
"""


def test_a_caller_that_is_killed_leaves_no_requests(server: TritonServer, tmp_path: Path) -> None:
    file = tmp_path / "busy"
    channel = hasty(server.address)
    known_answer(channel)
    connections = connections_to(server)
    command = [sys.executable, "-c", CALLER, server.address, str(file)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as caller:
        assert caller.stdout is not None
        assert caller.stdout.readline() == "asked\n"
        until(lambda: waiting(server, "slow") == 4)
        caller.kill()
    until(lambda: connections_to(server) <= connections)
    file.unlink(missing_ok=True)
    known_answer(channel, "slow")
    until(lambda: waiting(server, "slow") == 0)
    # And there is room for as many as before.
    pending = [channel.infer("slow", ONE, "value", LIMIT_S) for _ in range(4)]
    assert all((each.result() == ONE["value"]).all() for each in pending)
    channel.close()
