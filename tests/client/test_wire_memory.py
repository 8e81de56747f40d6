"""Inputs in shared memory, against a real Triton: used, refused, forgotten, grown, freed."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from patience import until
from tritonclient.grpc import service_pb2
from wire_models import write_wire_repository

from cliprt import Connection
from cliprt._grpc import TritonChannel
from cliprt_triton import TritonServer

LARGE = 200_000


def tensor(seed: int, length: int = LARGE) -> dict[str, NDArray[np.uint8]]:
    return {"value": np.random.default_rng(seed).integers(0, 256, (1, length), np.uint8)}


def regions() -> set[str]:
    """Those of this process's clients."""
    start = f"cliprt-inputs-{os.getpid()}-"
    return {name for name in os.listdir("/dev/shm") if name.startswith(start)}  # noqa: PTH208


def registered(channel: TritonChannel) -> set[str]:
    """Regions that the server knows, of all clients."""
    request = service_pb2.SystemSharedMemoryStatusRequest()
    return set(channel._call(channel._stub.SystemSharedMemoryStatus, request, 20).regions)


def wire_bytes(channel: TritonChannel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the requests that are sent from now on."""
    sizes: list[int] = []
    start = channel.start

    def noting(request: object, timeout_s: float) -> object:
        sizes.append(request.ByteSize())  # type: ignore[attr-defined]
        return start(request, timeout_s)

    monkeypatch.setattr(channel, "start", noting)
    return sizes


@pytest.fixture
def channel(wire_server: TritonServer) -> Iterator[TritonChannel]:
    channel = TritonChannel(Connection(wire_server.address, shared_memory=True))
    yield channel
    channel.close()
    assert not regions()


def test_large_inputs_do_not_travel(
    channel: TritonChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = wire_bytes(channel, monkeypatch)
    for seed in range(5):
        sent = tensor(seed)
        assert (channel.infer("echo", sent, "value", 20).result() == sent["value"]).all()
    assert max(sizes) < 1000
    # One after the other they need one region.
    assert len(regions()) == 1
    assert regions() <= registered(channel)


def test_small_inputs_do(channel: TritonChannel) -> None:
    sent = tensor(0, 1000)
    assert (channel.infer("echo", sent, "value", 20).result() == sent["value"]).all()
    assert not regions()


def test_a_larger_request_gets_a_larger_region(
    channel: TritonChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel.infer("echo", tensor(0), "value", 20).result()
    sizes = wire_bytes(channel, monkeypatch)
    sent = tensor(1, 5_000_000)
    assert (channel.infer("echo", sent, "value", 20).result() == sent["value"]).all()
    assert max(sizes) < 1000


def test_regions_that_are_too_small_make_room(
    channel: TritonChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    pending = [channel.infer("echo", tensor(seed), "value", 20) for seed in range(20)]
    for each in pending:
        each.result()
    first = regions()
    sizes = wire_bytes(channel, monkeypatch)
    for seed in range(8):
        channel.infer("echo", tensor(seed, 3_000_000), "value", 20).result()
    assert max(sizes) < 1000
    assert len(regions()) <= 8
    assert regions() & registered(channel) == regions()
    # Those that had to go are gone at the server, too.
    assert not (first - regions()) & registered(channel)


def test_more_requests_than_regions_use_the_wire(channel: TritonChannel) -> None:
    sent = [tensor(seed) for seed in range(24)]
    pending = [channel.infer("echo", each, "value", 20) for each in sent]
    for each, waiting in zip(sent, pending, strict=True):
        assert (waiting.result() == each["value"]).all()
    assert len(regions()) <= 8


def test_rows_of_a_larger_array_are_sent_as_they_are(channel: TritonChannel) -> None:
    sent = np.arange(400_000, dtype=np.uint32).view(np.uint8).reshape(2, -1)[:1, ::2]
    assert not sent.flags.c_contiguous
    assert (channel.infer("echo", {"value": sent}, "value", 20).result() == sent).all()


def test_many_threads_never_get_each_others_answers(channel: TritonChannel) -> None:
    wrong: list[int] = []

    def work(number: int) -> None:
        for turn in range(6):
            sent = tensor(100 * number + turn)
            answer = channel.infer("echo", sent, "value", 60).result()
            if not (answer == sent["value"]).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_server_that_refuses_is_asked_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # The default: the server keeps shared memory for those who know its secret.
    with TritonServer(write_wire_repository(tmp_path / "models")) as server:
        channel = TritonChannel(Connection(server.address, shared_memory=True))
        with caplog.at_level(logging.WARNING, logger="cliprt"):
            for seed in range(3):
                sent = tensor(seed)
                assert (channel.infer("echo", sent, "value", 20).result() == sent["value"]).all()
        assert [record.name for record in caplog.records] == ["cliprt"]
        assert "inputs go over the wire instead of shared memory" in caplog.text
        channel.close()
    assert not regions()


def test_a_server_with_a_secret_lets_in_who_knows_it(tmp_path: Path) -> None:
    repository = write_wire_repository(tmp_path / "models")
    with TritonServer(repository, admin_secret="open sesame, please") as server:
        metadata = {"triton-grpc-protocol-cliprt-secret": "open sesame, please"}
        options = Connection(server.address, shared_memory=True, metadata=metadata)
        channel = TritonChannel(options)
        channel.infer("echo", tensor(0), "value", 20).result()
        assert regions() <= registered(channel)
        assert len(regions()) == 1
        channel.close()


def test_without_memory_to_share_the_wire_is_used(
    channel: TritonChannel, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    # What the kernel says of a full /dev/shm, as small ones of containers soon are.
    monkeypatch.setattr(os, "posix_fallocate", full)
    with caplog.at_level(logging.WARNING, logger="cliprt"):
        sent = tensor(0)
        assert (channel.infer("echo", sent, "value", 20).result() == sent["value"]).all()
    assert "no shared memory of 200,000 bytes (No space left on device)" in caplog.text
    assert not regions()


def test_two_clients_do_not_meet(wire_server: TritonServer) -> None:
    options = Connection(wire_server.address, shared_memory=True)
    one, two = TritonChannel(options), TritonChannel(options)
    for turn in range(3):
        first, second = tensor(turn), tensor(turn + 100)
        pending = one.infer("echo", first, "value", 20), two.infer("echo", second, "value", 20)
        assert (pending[0].result() == first["value"]).all()
        assert (pending[1].result() == second["value"]).all()
    assert len(regions()) == 2
    one.close()
    assert len(regions()) == 1
    assert (two.infer("echo", first, "value", 20).result() == first["value"]).all()
    two.close()


# Sends one request in shared memory and ends without closing anything.
FORGETFUL = """
import os, sys
import numpy as np
from cliprt import Connection
from cliprt._grpc import TritonChannel
channel = TritonChannel(Connection(sys.argv[1], shared_memory=True))
channel.infer("echo", {"value": np.zeros((1, 200_000), np.uint8)}, "value", 20).result()
print(os.getpid(), flush=True)
if sys.argv[2] == "killed":
    os.kill(os.getpid(), 9)
if sys.argv[2] == "forked":
    if not (child := os.fork()):
        sys.exit()
    os.waitpid(child, 0)
    assert [name for name in os.listdir("/dev/shm") if f"cliprt-inputs-{os.getpid()}-" in name]
"""


@pytest.mark.parametrize("end", ["exit", "forked", "killed"])
def test_regions_do_not_outlive_their_process(wire_server: TritonServer, end: str) -> None:
    command = [sys.executable, "-c", FORGETFUL, wire_server.address, end]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == (-9 if end == "killed" else 0), run.stderr
    start = f"cliprt-inputs-{run.stdout.strip()}-"
    assert not [name for name in os.listdir("/dev/shm") if name.startswith(start)]  # noqa: PTH208


def test_the_server_forgets_regions_of_killed_clients(
    wire_server: TritonServer, channel: TritonChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-c", FORGETFUL, wire_server.address, "killed"]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    start = f"cliprt-inputs-{run.stdout.strip()}-"
    until(lambda: not [name for name in os.listdir("/dev/shm") if name.startswith(start)])  # noqa: PTH208

    def kept() -> list[str]:
        return [name for name in registered(channel) if name.startswith(start)]

    sent = tensor(0)
    channel.infer("echo", sent, "value", 20).result()
    assert len(kept()) == 1
    monkeypatch.setattr("cliprt._shared_memory._TIDY_S", 0.0)
    # What it asked for may be under way at the first look.
    channel.infer("echo", sent, "value", 20).result()
    assert len(kept()) == 1
    channel.infer("echo", sent, "value", 20).result()
    assert not kept()
    assert (channel.infer("echo", sent, "value", 20).result() == sent["value"]).all()
    assert regions() <= registered(channel)


def states_of_threads(pid: int) -> set[str]:
    """One letter each, as in ``/proc``."""
    found = set()
    for path in Path(f"/proc/{pid}/task").glob("*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            found.add(path.read_text().rpartition(") ")[2][0])
    return found


def test_close_does_not_wait_for_a_silent_server_again_and_again(tmp_path: Path) -> None:
    with TritonServer(write_wire_repository(tmp_path / "models"), shared_memory=True) as server:
        channel = TritonChannel(Connection(server.address, shared_memory=True))
        pending = [channel.infer("echo", tensor(seed), "value", 20) for seed in range(4)]
        for each in pending:
            each.result()
        shared = channel._shared
        assert shared is not None
        assert len(shared._free) > 1
        asked: list[str] = []
        call = shared._call

        def counted(method: str, request: object, timeout_s: float) -> object:
            asked.append(method)
            return call(method, request, timeout_s)

        shared._call = counted
        os.kill(server.pid, signal.SIGSTOP)
        try:
            # A thread at work stops when it comes to it, and might still answer.
            until(lambda: states_of_threads(server.pid) == {"T"})
            channel.close()
        finally:
            os.kill(server.pid, signal.SIGCONT)
    assert asked == ["SystemSharedMemoryUnregister"]
    assert not regions()
