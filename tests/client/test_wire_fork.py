"""What a forked child may do with its parent's connection, and with one of its own."""

from __future__ import annotations

import multiprocessing
import threading
import warnings
from collections.abc import Iterator

import pytest
from forks import in_child
from wire_models import ONE

from cliprt import ClosedError, Connection
from cliprt._grpc import TritonChannel
from cliprt_triton import TritonServer

# Python 3.12 warns of every fork of a process with threads; these tests are about just that.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def ask(address: str) -> list[list[int]]:
    channel = TritonChannel(address)
    try:
        return channel.infer("echo", ONE, "value", 20).result().tolist()  # type: ignore[no-any-return]
    finally:
        channel.close()


@pytest.fixture
def channel(wire_server: TritonServer) -> Iterator[TritonChannel]:
    channel = TritonChannel(wire_server.address)
    channel.infer("echo", ONE, "value", 20).result()
    yield channel
    assert channel.infer("echo", ONE, "value", 20).result().tolist() == [[1, 2, 3]]
    channel.close()


def test_a_child_is_told_to_make_its_own(channel: TritonChannel) -> None:
    told = in_child(lambda: channel.infer("echo", ONE, "value", 20))
    assert told.startswith("ClosedError: this client was made before the process was forked")
    assert told.endswith("make a new one in the child")
    assert in_child(lambda: channel.server_ready(20)).startswith("ClosedError: this client was")


def test_an_answer_under_way_belongs_to_the_parent(channel: TritonChannel) -> None:
    pending = channel.infer("slow", ONE, "value", 20)
    assert in_child(pending.result).startswith("ClosedError: this client was made before")
    assert in_child(pending.cancel) == "None"
    assert pending.result().tolist() == [[1, 2, 3]]


def test_a_child_may_close_what_it_inherited(channel: TritonChannel) -> None:
    pending = channel.infer("slow", ONE, "value", 20)
    assert in_child(channel.close) == "None"
    assert pending.result().tolist() == [[1, 2, 3]]


def test_a_child_makes_its_own(channel: TritonChannel) -> None:
    assert in_child(lambda: ask(channel.address)) == "[[1, 2, 3]]"


def test_children_work_while_the_parents_threads_do(
    channel: TritonChannel, capfd: pytest.CaptureFixture[str]
) -> None:
    end, failures = threading.Event(), []

    def work() -> None:
        while not end.is_set():
            try:
                channel.infer("echo", ONE, "value", 20).result()
            except BaseException as error:  # noqa: BLE001 - the test wants to see any
                failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        told = [in_child(lambda: ask(channel.address)) for _ in range(20)]
    finally:
        end.set()
        for thread in threads:
            thread.join()
    assert told == ["[[1, 2, 3]]"] * 20
    assert not failures
    assert "skipping fork() handlers" not in capfd.readouterr().err


def test_a_fork_waits_for_answers(
    channel: TritonChannel, capfd: pytest.CaptureFixture[str]
) -> None:
    pending = channel.infer("slow", ONE, "value", 20)
    assert in_child(pending.done) == "True"
    assert "skipping fork() handlers" not in capfd.readouterr().err


def work_of_pool(address: str) -> list[list[int]]:
    return ask(address)


def test_a_pool_that_forks(channel: TritonChannel) -> None:
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert pool.map(work_of_pool, [channel.address] * 12) == [[[1, 2, 3]]] * 12


def test_a_child_of_a_child(channel: TritonChannel) -> None:
    def inner() -> str:
        own = TritonChannel(channel.address)
        own.infer("echo", ONE, "value", 20).result()
        told = in_child(lambda: own.infer("echo", ONE, "value", 20))
        return f"{told[:11]} {in_child(lambda: ask(channel.address))}"

    assert in_child(inner) == "ClosedError [[1, 2, 3]]"


def test_regions_of_the_parent_stay(wire_server: TritonServer) -> None:
    import numpy as np

    large = {"value": np.ones((1, 200_000), np.uint8)}
    channel = TritonChannel(Connection(wire_server.address, shared_memory=True))
    channel.infer("echo", large, "value", 20).result()

    def child() -> str:
        with pytest.raises(ClosedError):
            channel.infer("echo", large, "value", 20)
        channel.close()
        own = TritonChannel(Connection(wire_server.address, shared_memory=True))
        answer = own.infer("echo", large, "value", 20).result()
        own.close()
        return str(answer.sum())

    with warnings.catch_warnings():
        assert in_child(child) == "200000"
    assert channel.infer("echo", large, "value", 20).result().sum() == 200_000
    channel.close()
