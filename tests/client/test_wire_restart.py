"""A server that is killed, stopped, never there, or cut off in the middle of an answer."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from faulty_proxy import FaultyProxy
from numpy.typing import NDArray
from wire_models import ONE, write_wire_repository

from cliprt import Connection, Retry, ServerUnavailable
from cliprt._grpc import PendingTensor, TritonChannel
from cliprt_triton import TritonServer

ITEMS = 600
IN_FLIGHT = 8


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wire_repository(tmp_path_factory.mktemp("restart") / "models")


def item(number: int) -> NDArray[np.uint8]:
    """Every tenth is as large as a picture, more than gRPC keeps for retries by default twice."""
    length = 640_000 if number % 10 == 0 else 64
    array = np.zeros((1, length), np.uint8)
    array[0, :4] = np.frombuffer(np.uint32(number).tobytes(), np.uint8)
    return array


def number_of(answer: NDArray[np.uint8]) -> int:
    return int(np.frombuffer(answer[0, :4].tobytes(), np.uint32)[0])


@pytest.mark.parametrize(("number", "shared"), [(signal.SIGKILL, False), (signal.SIGTERM, True)])
def test_a_stream_outlives_its_server(
    repository: Path, number: signal.Signals, shared: bool
) -> None:
    first = TritonServer(repository, shared_memory=True)
    port = int(first.address.rsplit(":", 1)[1])
    options = Connection(
        first.address, retry=Retry(attempts=5, wait_for_server=True), shared_memory=shared
    )
    channel = TritonChannel(options)
    gone, end = threading.Event(), threading.Event()

    def replace() -> None:
        """Runs as long as the second server should: a server ends with its thread."""
        gone.wait()
        assert first._process is not None
        os.kill(first._process.pid, number)
        first._process.wait()
        with TritonServer(repository, grpc_port=port, shared_memory=True):
            end.wait()

    replacer = threading.Thread(target=replace)
    replacer.start()
    under_way: deque[PendingTensor] = deque()
    answers: list[int] = []
    calls: Counter[int] = Counter()
    called = threading.Semaphore(0)

    def note(which: int) -> None:
        calls[which] += 1
        called.release()

    try:
        for index in range(ITEMS):
            if index == ITEMS // 3:
                gone.set()
            pending = channel.infer("echo", {"value": item(index)}, "value", 60)
            pending.add_done_callback(lambda _, index=index: note(index))  # type: ignore[misc]
            under_way.append(pending)
            if len(under_way) == IN_FLIGHT:
                answers.append(number_of(under_way.popleft().result()))
        answers += [number_of(pending.result()) for pending in under_way]
        for _ in range(ITEMS):
            assert called.acquire(timeout=20)
    finally:
        channel.close()
        gone.set()
        end.set()
        replacer.join()
        first.stop()
    assert answers == list(range(ITEMS))
    assert calls == Counter(range(ITEMS))


def test_whoever_never_answered_is_not_waited_for() -> None:
    channel = TritonChannel(Connection("127.0.0.1:1", retry=Retry(wait_for_server=True)))
    # Far less than the deadline: it would be noticed as a test that takes ten minutes.
    with pytest.raises(ServerUnavailable, match="no Triton gRPC server answers"):
        channel.server_version(600)
    with pytest.raises(ServerUnavailable, match="no Triton gRPC server answers"):
        channel.infer("echo", ONE, "value", 600).result()
    channel.close()


def test_a_server_that_stays_away_is_named(repository: Path) -> None:
    server = TritonServer(repository)
    waiting = TritonChannel(Connection(server.address, retry=Retry(wait_for_server=True)))
    hasty = TritonChannel(server.address)
    assert waiting.server_ready(20)
    assert hasty.server_ready(20)
    server.stop()
    with pytest.raises(ServerUnavailable, match="lost and did not come back within 3 s"):
        waiting.infer("echo", ONE, "value", 3).result()
    with pytest.raises(ServerUnavailable, match="lost and did not come back within 0.5 s"):
        waiting.server_version(0.5)
    # Without waiting the attempts end long before the deadline.
    with pytest.raises(ServerUnavailable, match="no Triton gRPC server answers"):
        hasty.infer("echo", ONE, "value", 600).result()
    waiting.close()
    hasty.close()


@pytest.fixture
def proxy(wire_server: TritonServer) -> Iterator[FaultyProxy]:
    with FaultyProxy(wire_server.address) as proxy:
        proxy.cut_after(500_000)
        yield proxy


def test_an_answer_that_broke_off_is_asked_for_again(proxy: FaultyProxy) -> None:
    channel = TritonChannel(Connection(proxy.address, retry=Retry(wait_for_server=True)))
    assert channel.server_ready(20)
    sent = np.arange(2_000_000, dtype=np.uint32).view(np.uint8)[None]
    calls: list[PendingTensor] = []
    pending = channel.infer("echo", {"value": sent}, "value", 60)
    pending.add_done_callback(calls.append)
    assert (pending.result() == sent).all()
    assert proxy.cuts == 1
    channel.close()
    assert calls == [pending]


def test_without_retries_an_answer_that_broke_off_is_an_error(proxy: FaultyProxy) -> None:
    channel = TritonChannel(Connection(proxy.address, retry=None))
    sent = np.zeros((1, 8_000_000), np.uint8)
    with pytest.raises(ServerUnavailable):
        channel.infer("echo", {"value": sent}, "value", 60).result()
    assert proxy.cuts == 1
    channel.close()
