"""Callers that dawdle or go silent, connections that hang or break, proxies that are restarted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from faults import LIMIT_S, channels, connections_to, hasty, known_answer, models_of, supervised
from faulty_proxy import FaultyProxy
from patience import until
from wire_models import ONE, write_wire_repository

from cliprt import Connection, Retry, ServerUnavailable, _channel
from cliprt._grpc import TritonChannel
from cliprt_triton import TritonServer, _server_flags

LARGE = {"value": np.arange(400_000, dtype=np.uint32).view(np.uint8)[None]}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wire_repository(tmp_path_factory.mktemp("connections") / "models", slow_s=0)


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[TritonServer]:
    with supervised(repository) as server:
        yield server


@pytest.fixture
def proxy(server: TritonServer) -> Iterator[FaultyProxy]:
    models = models_of(server)
    with FaultyProxy(server.address) as proxy:
        yield proxy
    channel = hasty(server.address)
    known_answer(channel)
    channel.close()
    assert models_of(server) == models


def times_of(server: TritonServer) -> tuple[float, float]:
    """How long a good caller waits for its answers: median and p99, in seconds."""
    channel = hasty(server.address)
    known_answer(channel)
    times = []
    for _ in range(200):
        begun = time.monotonic()
        assert (channel.infer("echo", ONE, "value", LIMIT_S).result() == ONE["value"]).all()
        times.append(time.monotonic() - begun)
    channel.close()
    return float(np.median(times)), float(np.percentile(times, 99))


def answered_undisturbed(server: TritonServer, before: tuple[float, float]) -> None:
    """A good caller gets its answers, about as soon as before others misbehaved.

    Were its requests behind theirs, it would wait for minutes. The factor and the floor are for
    machines that have other things to do.
    """
    for now_s, before_s in zip(times_of(server), before, strict=True):
        assert now_s <= max(10 * before_s, 1.0)


def test_callers_who_send_a_byte_a_second_hold_up_nobody(
    server: TritonServer, proxy: FaultyProxy
) -> None:
    before = times_of(server)
    with channels(8, proxy.address) as slow:
        proxy.dawdle(1)
        pending = [each.infer("echo", LARGE, "value", 600) for each in slow]
        answered_undisturbed(server, before)
        assert not any(each.done() for each in pending)
        proxy.heal()
        assert all((each.result() == LARGE["value"]).all() for each in pending)


def test_callers_who_do_not_read_their_answers_hold_up_nobody(
    server: TritonServer, proxy: FaultyProxy
) -> None:
    before = times_of(server)
    with channels(8, proxy.address) as deaf:
        proxy.hold(questions=False)
        pending = [each.infer("echo", LARGE, "value", 600) for each in deaf for _ in range(4)]
        answered_undisturbed(server, before)
        assert not any(each.done() for each in pending)
        proxy.heal()
        assert all((each.result() == LARGE["value"]).all() for each in pending)


def test_a_server_that_went_silent_is_noticed_by_pings(
    proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_channel, "_KEEPALIVE_TIMEOUT_MS", 1000)
    channel = hasty(proxy.address, keepalive_s=1)
    known_answer(channel)
    proxy.hold()
    # Its deadline would make this a test of ten minutes.
    with pytest.raises(ServerUnavailable, match="ping|keepalive"):
        channel.infer("echo", ONE, "value", 600).result()
    proxy.heal()
    known_answer(channel)
    channel.close()


def test_a_caller_that_went_silent_is_dropped(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_server_flags, "_SILENCE_MS", 1000)
    monkeypatch.setattr(_server_flags, "_PATIENCE_MS", 1000)
    with (
        supervised(repository) as server,
        channels(1, server.address) as (loud,),
        FaultyProxy(server.address) as proxy,
        channels(4, proxy.address),
    ):
        assert connections_to(server) == 5
        proxy.hold()
        until(lambda: connections_to(server) == 1)
        known_answer(loud)


def test_a_proxy_that_is_restarted_is_come_back_to(proxy: FaultyProxy) -> None:
    channel = hasty(proxy.address)
    waiting = TritonChannel(Connection(proxy.address, retry=Retry(wait_for_server=True)))
    known_answer(channel)
    known_answer(waiting)
    for _ in range(3):
        proxy.leave()
        with pytest.raises(ServerUnavailable):
            channel.infer("echo", ONE, "value", 600).result()
        pending = waiting.infer("echo", ONE, "value", LIMIT_S)
        proxy.heal()
        assert (pending.result() == ONE["value"]).all()
        known_answer(channel)
    channel.close()
    waiting.close()
