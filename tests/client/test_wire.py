"""Requests on the wire, against a real Triton with models that do nothing."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from wire_models import VERSION, write_wire_repository

from cliprt import ClosedError, ModelUnavailable, ServerUnavailable
from cliprt._grpc import PendingTensor, TritonChannel
from cliprt_triton import TritonServer

ONE = {"value": np.array([[1, 2, 3]], dtype=np.uint8)}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    repository = write_wire_repository(tmp_path_factory.mktemp("wire") / "models")
    with TritonServer(repository) as server:
        yield server


@pytest.fixture
def channel(server: TritonServer) -> Iterator[TritonChannel]:
    channel = TritonChannel(server.address)
    yield channel
    channel.close()


class Calls:
    """Counts what a callback was called with."""

    def __init__(self) -> None:
        self.seen: list[PendingTensor] = []
        self._called = threading.Event()

    def __call__(self, pending: PendingTensor) -> None:
        self.seen.append(pending)
        self._called.set()

    def wait(self) -> PendingTensor:
        assert self._called.wait(20)
        return self.seen[0]


def test_a_callback_gets_the_answer(channel: TritonChannel) -> None:
    calls = Calls()
    pending = channel.infer("echo", ONE, "value", 20)
    pending.add_done_callback(calls)
    assert calls.wait() is pending
    assert pending.done()
    assert pending.result().tolist() == [[1, 2, 3]]
    pending.cancel()  # too late, which is no error
    assert calls.seen == [pending]


def test_a_callback_that_comes_late_is_called_at_once(channel: TritonChannel) -> None:
    pending = channel.infer("echo", ONE, "value", 20)
    pending.result()
    calls = Calls()
    pending.add_done_callback(calls)
    assert calls.seen == [pending]


def test_a_callback_hears_of_a_cancelled_request_once(channel: TritonChannel) -> None:
    calls = Calls()
    pending = channel.infer("slow", ONE, "value", 20)
    pending.add_done_callback(calls)
    assert not pending.done()
    pending.cancel()
    calls.wait()
    with pytest.raises(ClosedError, match="was cancelled"):
        pending.result()
    pending.cancel()
    assert calls.seen == [pending]


def test_a_callback_hears_of_a_failure(channel: TritonChannel) -> None:
    calls = Calls()
    pending = channel.infer("no_such_model", ONE, "value", 20)
    pending.add_done_callback(calls)
    with pytest.raises(ModelUnavailable):
        calls.wait().result()


def test_a_callback_hears_of_a_closed_channel(server: TritonServer) -> None:
    channel, calls = TritonChannel(server.address), Calls()
    pending = channel.infer("slow", ONE, "value", 20)
    pending.add_done_callback(calls)
    channel.close()
    with pytest.raises(ClosedError):
        calls.wait().result()


def test_a_callback_hears_that_nobody_listens() -> None:
    channel, calls = TritonChannel("127.0.0.1:1"), Calls()
    channel.infer("echo", ONE, "value", 20).add_done_callback(calls)
    with pytest.raises(ServerUnavailable):
        calls.wait().result()
    channel.close()


def test_the_version_that_is_served_answers(channel: TritonChannel) -> None:
    assert channel.infer("echo", ONE, "value", 20, version=VERSION).result().shape == (1, 3)


def test_another_version_is_refused(channel: TritonChannel) -> None:
    with pytest.raises(ModelUnavailable, match="8"):
        channel.infer("echo", ONE, "value", 20, version=VERSION + 1).result()


def test_urgent_requests_overtake(channel: TritonChannel) -> None:
    order: queue.Queue[str] = queue.Queue()
    channel.infer("slow", ONE, "value", 20)  # keeps the model busy
    for name, priority in (("later", 3), ("usual", None), ("urgent", 1)):
        pending = channel.infer("slow", ONE, "value", 20, priority=priority)
        pending.add_done_callback(lambda _, name=name: order.put(name))  # type: ignore[misc]
    assert [order.get(timeout=20) for _ in range(3)] == ["urgent", "usual", "later"]
