"""Requests on the wire, against a real Triton with models that do nothing."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from patience import settled, until
from wire_models import ONE, VERSION, keep_busy, say, waiting, write_wire_repository

from cliprt import (
    CliprtError,
    ClosedError,
    Connection,
    InvalidInput,
    ModelUnavailable,
    Overloaded,
    Retry,
    ServerError,
    ServerUnavailable,
)
from cliprt._grpc import PendingTensor, TritonChannel
from cliprt._statistics import ModelStatistics
from cliprt_triton import TritonServer


@pytest.fixture
def channel(wire_server: TritonServer) -> Iterator[TritonChannel]:
    channel = TritonChannel(wire_server.address)
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


def test_a_callback_hears_of_a_cancelled_request_once(
    channel: TritonChannel, tmp_path: Path
) -> None:
    calls = Calls()
    pending = keep_busy(channel, busy := tmp_path / "busy")
    pending.add_done_callback(calls)
    assert not pending.done()
    pending.cancel()
    calls.wait()
    busy.unlink()
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


def test_a_callback_hears_of_a_closed_channel(wire_server: TritonServer, tmp_path: Path) -> None:
    channel, calls = TritonChannel(wire_server.address), Calls()
    pending = keep_busy(channel, busy := tmp_path / "busy")
    pending.add_done_callback(calls)
    channel.close()
    busy.unlink()
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


def test_urgent_requests_overtake(
    channel: TritonChannel, wire_server: TritonServer, tmp_path: Path
) -> None:
    order: queue.Queue[str] = queue.Queue()
    keep_busy(channel, busy := tmp_path / "busy")
    for name, priority in (("later", 3), ("usual", None), ("urgent", 1)):
        pending = channel.infer("slow", ONE, "value", 20, priority=priority)
        pending.add_done_callback(lambda _, name=name: order.put(name))  # type: ignore[misc]
    until(lambda: waiting(wire_server, "slow") == 3)
    busy.unlink()
    assert [order.get(timeout=20) for _ in range(3)] == ["urgent", "usual", "later"]


def test_a_refused_item_of_a_model_is_the_clients_own_error(channel: TritonChannel) -> None:
    with pytest.raises(InvalidInput) as caught:
        channel.infer("refusing", say("item 3: too wide, by far"), "value", 20).result()
    assert (caught.value.index, caught.value.what) == (3, "item")
    assert str(caught.value) == "item 3: too wide, by far"


def test_what_names_no_item_stays_an_error_of_the_server(channel: TritonChannel) -> None:
    with pytest.raises(ServerError, match=r"INVALID_ARGUMENT\): the tower is ill$"):
        channel.infer("refusing", say("the tower is ill"), "value", 20).result()


def test_a_full_queue_is_tried_again(wire_server: TritonServer) -> None:
    # One runs, four wait, four are refused: the second attempts come when the first are done.
    retry = Retry(attempts=5, first_pause_s=0.5)
    channel = TritonChannel(Connection(wire_server.address, retry=retry))
    # As large as a batch of pictures: by default gRPC would not keep so much for an attempt.
    large = {"value": np.ones((1, 700_000), np.uint8)}
    pending = [channel.infer("slow", large, "value", 30) for _ in range(9)]
    assert [int(each.result().sum()) for each in pending] == [700_000] * 9
    channel.close()


def test_without_retries_a_full_queue_is_an_error(
    wire_server: TritonServer, tmp_path: Path
) -> None:
    channel = TritonChannel(Connection(wire_server.address, retry=None))
    keep_busy(channel, busy := tmp_path / "busy")
    pending = [channel.infer("slow", ONE, "value", 90) for _ in range(8)]
    until(lambda: any(each.done() for each in pending))
    busy.unlink()
    with pytest.raises(Overloaded, match="send fewer at once"):
        [each.result() for each in pending]
    channel.close()


def test_the_server_drops_what_is_cancelled_in_its_queue(
    channel: TritonChannel, wire_server: TritonServer, tmp_path: Path
) -> None:
    before = counted(channel, "slow")
    channel._asked, channel._spares = True, False  # as with a Triton that need not be spared
    first = keep_busy(channel, busy := tmp_path / "busy")
    dropped = [channel.infer("slow", ONE, "value", 90) for _ in range(3)]
    until(lambda: waiting(wire_server, "slow") == 3)
    for each in dropped:
        each.cancel()
    # Nothing tells when Triton has heard of it; these come behind on the same connection.
    for _ in range(20):
        channel.infer("echo", ONE, "value", 20).result()
    time.sleep(1)
    busy.unlink()
    first.result()
    channel.infer("slow", ONE, "value", 20).result()
    happened = counted(channel, "slow") - before
    # Of five requests two were wanted; one more may have left the queue for the model already.
    assert happened.inferences <= 3
    assert happened.failures >= 2


def counted(channel: TritonChannel, model: str) -> ModelStatistics:
    """What Triton has counted, once it counts no more."""
    return settled(lambda: channel.statistics(model, 20))


def test_statistics_say_where_the_time_went(
    channel: TritonChannel, wire_server: TritonServer, tmp_path: Path
) -> None:
    before = counted(channel, "slow")
    first = keep_busy(channel, busy := tmp_path / "busy")
    second = channel.infer("slow", ONE, "value", 90)
    until(lambda: waiting(wire_server, "slow") == 1)
    time.sleep(0.2)
    busy.unlink()
    first.result()
    second.result()
    happened = counted(channel, "slow") - before
    assert (happened.requests, happened.inferences, happened.executions) == (2, 2, 2)
    assert happened.compute_infer_ns > 2 * 0.19e9
    assert happened.queue_ns > 0.19e9  # the second waited for the first
    assert happened.cache_hits == 0
    assert happened + before == channel.statistics("slow", 20)


def test_counts_that_fell_are_no_difference(channel: TritonChannel) -> None:
    before = channel.statistics("echo", 20)
    channel.infer("echo", ONE, "value", 20).result()
    with pytest.raises(ValueError, match="started anew"):
        before - counted(channel, "echo")


def test_statistics_of_no_model(channel: TritonChannel) -> None:
    with pytest.raises(ModelUnavailable):
        channel.statistics("no_such_model", 20)


def test_many_threads_and_one_that_closes(wire_server: TritonServer) -> None:
    channel = TritonChannel(wire_server.address)
    answers, failures = [0] * 32, []
    warm = threading.Barrier(33)

    def work(number: int) -> None:
        warm.wait()
        try:
            while True:
                assert channel.infer("echo", ONE, "value", 20).result().shape == (1, 3)
                answers[number] += 1
        except CliprtError as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(32)]
    for thread in threads:
        thread.start()
    warm.wait()
    while sum(answers) < 200:
        time.sleep(0.01)
    channel.close()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert {type(failure) for failure in failures} == {ClosedError}
    assert len(failures) == 32


@pytest.mark.parametrize(
    "form", ["dns:///localhost:{port}", ["localhost:{port}"], "grpc://127.0.0.1:{port}"]
)
def test_ways_to_name_a_server(wire_server: TritonServer, form: str | list[str]) -> None:
    port = wire_server.address.rsplit(":", 1)[1]
    named = (
        form.format(port=port)
        if isinstance(form, str)
        else [each.format(port=port) for each in form]
    )
    channel = TritonChannel(Connection(named))
    assert channel.server_ready(20)
    channel.close()


def test_requests_go_round_the_servers_of_a_list(wire_server: TritonServer, tmp_path: Path) -> None:
    with TritonServer(write_wire_repository(tmp_path / "models")) as second:
        channel = TritonChannel(Connection([wire_server.address, second.address]))
        alone = [TritonChannel(server.address) for server in (wire_server, second)]
        before = [counted(only, "echo") for only in alone]

        def both_are_asked() -> bool:
            channel.infer("echo", ONE, "value", 20).result()
            now = [only.statistics("echo", 20) for only in alone]
            return all((b - a).inferences for a, b in zip(before, now, strict=True))

        until(both_are_asked)  # the connection to one may come later than that to the other
        before = [counted(only, "echo") for only in alone]
        for _ in range(40):
            channel.infer("echo", ONE, "value", 20).result()
        after = [counted(only, "echo") for only in alone]
        taken = [(b - a).inferences for a, b in zip(before, after, strict=True)]
        assert sum(taken) == 40
        assert min(taken) >= 10
    # One is gone: the other takes all.
    for _ in range(10):
        channel.infer("echo", ONE, "value", 20).result()
    for each in (channel, *alone):
        each.close()


def test_addresses_of_both_families_in_one_list(wire_server: TritonServer) -> None:
    port = wire_server.address.rsplit(":", 1)[1]
    channel = TritonChannel(Connection([wire_server.address, f"[::1]:{port}"]))
    assert channel.infer("echo", ONE, "value", 20).result().shape == (1, 3)
    channel.close()


def test_a_name_that_nobody_knows() -> None:
    with pytest.raises(ServerUnavailable, match="cannot be looked up"):
        TritonChannel(Connection(["no.such.host.invalid:8001"]))
    channel = TritonChannel("no.such.host.invalid:8001")
    with pytest.raises(ServerUnavailable, match="cannot be looked up"):
        channel.server_ready(20)
    channel.close()


def test_an_auth_function_is_asked_for_each_request(wire_server: TritonServer) -> None:
    asked = []

    def token() -> str:
        asked.append(threading.current_thread())
        return f"token-{len(asked)}"

    channel = TritonChannel(Connection(wire_server.address, auth=token))
    for _ in range(3):
        channel.infer("echo", ONE, "value", 20).result()
    assert asked == [threading.current_thread()] * 3
    channel.close()


def test_a_token_that_cannot_be_sent_is_not_shown(wire_server: TritonServer) -> None:
    channel = TritonChannel(Connection(wire_server.address, auth=lambda: "sécret"))
    with pytest.raises(CliprtError, match="printable ASCII") as caught:
        channel.infer("echo", ONE, "value", 20)
    assert "cret" not in str(caught.value)
    channel.close()
