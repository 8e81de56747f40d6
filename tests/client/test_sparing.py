"""Towards a Triton that given-up calls can crash, clients keep deadlines and cancellations."""

from __future__ import annotations

import re
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from patience import until
from wire_models import ONE, write_wire_repository

from cliprt import Bundle, Client, ClosedError, DeadlineExceeded, Overloaded
from cliprt._grpc import TritonChannel
from cliprt._sparing import Deadlines, needs_sparing
from cliprt_triton import TritonServer, write_repository


@pytest.mark.parametrize(
    ("version", "needed"),
    [
        ("2.38.0", False),
        ("2.39.0", True),
        ("2.51.0", True),
        ("2.56.1", True),
        ("2.57.0", False),
        ("3.0", False),
        ("", True),
    ],
)
def test_versions_that_are_spared(version: str, needed: bool) -> None:
    assert needs_sparing(version) is needed


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    repository = write_wire_repository(tmp_path_factory.mktemp("sparing") / "models", slow_s=0.5)
    with TritonServer(repository) as server:
        yield server


@pytest.fixture
def channel(server: TritonServer) -> Iterator[TritonChannel]:
    channel = TritonChannel(server.address)
    if not needs_sparing(channel.server_version(20)):
        pytest.skip("this Triton need not be spared")
    yield channel
    channel.close()


def cancelled(server: TritonServer) -> int:
    """Requests that Triton counts as given up by their callers."""
    with urllib.request.urlopen(server.metrics_url, timeout=30) as answer:
        text = answer.read().decode()
    found = re.findall(r'^nv_inference_request_failure\{.*reason="CANCELED".*\} (\d+)$', text, re.M)
    assert found
    return sum(map(int, found))


def test_the_server_does_not_see_who_gave_up(channel: TritonChannel, server: TritonServer) -> None:
    before = cancelled(server)
    late = [channel.infer("slow", ONE, "value", 0.05) for _ in range(2)]
    dropped = channel.infer("slow", ONE, "value", 20)
    dropped.cancel()
    assert dropped.done()
    with pytest.raises(ClosedError, match="was cancelled"):
        dropped.result()
    for each in late:
        with pytest.raises(DeadlineExceeded, match=r"did not answer within 0\.05 s"):
            each.result()
    # It stands behind the others, which are computed, and is itself answered.
    assert channel.infer("slow", ONE, "value", 20).result().tolist() == [[1, 2, 3]]
    assert cancelled(server) == before


def test_without_sparing_it_does(channel: TritonChannel, server: TritonServer) -> None:
    before = cancelled(server)
    channel.infer("echo", ONE, "value", 20).result()
    channel._asked, channel._spares = True, False
    for _ in range(20):  # a request that is given up at once may not even leave
        first = channel.infer("slow", ONE, "value", 20)
        second = channel.infer("slow", ONE, "value", 20)
        time.sleep(0.1)
        second.cancel()
        first.result()
        channel.infer("slow", ONE, "value", 20).result()
        if cancelled(server) > before:
            return
    raise AssertionError("the server counts nobody who gave up")


def test_a_late_answer_changes_nothing(channel: TritonChannel) -> None:
    calls: list[object] = []
    pending = channel.infer("slow", ONE, "value", 0.05)
    pending.add_done_callback(calls.append)
    with pytest.raises(DeadlineExceeded):
        pending.result()
    channel.infer("slow", ONE, "value", 20).result()
    with pytest.raises(DeadlineExceeded):
        pending.result()
    assert calls == [pending]


def test_a_flood_of_impatient_callers_leaves_the_server(
    demo_bundle: Bundle, tmp_path: Path
) -> None:
    repository = write_repository(demo_bundle, tmp_path / "models", link=True)
    with TritonServer(repository) as server, Client(server.address) as client:
        expected = client.encode_text("a")
        ends: Counter[str] = Counter()

        def hurry() -> None:
            for number in range(150):
                try:
                    client.encode_text("a", timeout_s=0.001 + number % 8 / 1000)
                    ends["answered"] += 1
                except (DeadlineExceeded, Overloaded) as error:
                    ends[type(error).__name__] += 1

        threads = [threading.Thread(target=hurry) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(ends.values()) == 12 * 150
        assert ends["DeadlineExceeded"]
        assert (client.encode_text("a") == expected).all()
        if needs_sparing(client.server_version()):
            assert cancelled(server) == 0


class Alarm:
    def __init__(self) -> None:
        self.at: list[float] = []
        self.rang = threading.Event()

    def ring(self) -> None:
        self.at.append(time.monotonic())
        self.rang.set()


def test_deadlines_come_in_their_order_and_not_too_early() -> None:
    deadlines, now = Deadlines(), time.monotonic()
    late, soon = Alarm(), Alarm()
    deadlines.add(now + 0.2, late.ring)
    deadlines.add(now + 0.05, soon.ring)
    assert late.rang.wait(20)
    assert now + 0.05 <= soon.at[0] < late.at[0]
    # Its thread has ended by now or will; a further one is called all the same.
    late.rang.clear()
    deadlines.add(time.monotonic(), late.ring)
    assert late.rang.wait(20)


def test_answered_requests_are_not_kept_until_their_deadlines() -> None:
    deadlines, waiting = Deadlines(), [Alarm() for _ in range(300)]
    for alarm in waiting:
        deadlines.add(time.monotonic() + 600, alarm.ring)
        for _ in range(30):
            deadlines.add(time.monotonic() + 600, Alarm().ring)  # gone at once
    assert len(deadlines._entries) <= 2 * len(waiting)
    kept = {method() for _, _, method in deadlines._entries}
    assert kept >= {alarm.ring for alarm in waiting}
    deadlines.close()


def test_a_closed_client_leaves_no_thread_behind(server: TritonServer) -> None:
    before = set(threading.enumerate())
    for _ in range(3):
        channel = TritonChannel(server.address)
        channel.infer("echo", ONE, "value", 600).result()
        channel.close()

    def left() -> list[str]:
        return [each.name for each in set(threading.enumerate()) - before]

    until(lambda: "cliprt-deadlines" not in left())
