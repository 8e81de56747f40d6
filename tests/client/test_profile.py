"""Where the time of requests went."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from cases import demo_pictures

from cliprt import AsyncClient, Client, DeadlineExceeded, RequestTimes
from cliprt._profile import Stopwatch
from cliprt_triton import TritonServer

GOOD = demo_pictures()[0]


@pytest.mark.parametrize("awaited", [False, True])
def test_a_call_tells_where_its_time_went(
    demo_server: TritonServer, capsys: pytest.CaptureFixture[str], awaited: bool
) -> None:
    async def ask() -> RequestTimes:
        async with AsyncClient(demo_server.address) as client, client.profile() as times:
            await client.encode_image([GOOD] * 40)
            await client.encode_text(["a", "b"])
        return times

    if awaited:
        times = asyncio.run(ask())
    else:
        with Client(demo_server.address) as client:
            with client.profile() as times:
                client.encode_image([GOOD] * 40)
                client.encode_text(["a", "b"])
            client.encode_text("not counted")
    image, text = times.towers["image"], times.towers["text"]
    assert (image.requests, image.items, text.requests, text.items) == (2, 40, 1, 2)
    assert min(image.prepare_ms, image.queue_ms, image.compute_ms, text.wire_ms) > 0
    printed = capsys.readouterr().err
    assert printed.splitlines()[0].split()[:5] == ["tower", "requests", "items", "batch", "prepare"]
    assert len(printed.splitlines()) == 4


def test_a_profile_ends_with_its_block(demo_server: TritonServer) -> None:
    async def fail() -> int:
        async with AsyncClient(demo_server.address) as client:
            with pytest.raises(KeyError):
                async with client.profile():
                    raise KeyError
            return len(client._core._stopwatches)

    assert asyncio.run(fail()) == 0
    with Client(demo_server.address) as client:
        with pytest.raises(KeyError), client.profile():
            raise KeyError
        assert not client._core._stopwatches


def test_requests_that_failed_are_in_no_profile(client: Client) -> None:
    with client.profile(show=False) as times:
        client.encode_text("a")
        with pytest.raises(DeadlineExceeded):
            client.encode_text("a", timeout_s=1e-9)
    assert times.towers["text"].requests == 1


def test_several_servers_have_no_profile(demo_server: TritonServer) -> None:
    with (
        Client([demo_server.address]) as client,
        pytest.raises(ValueError, match="profile a client of one of them"),
        client.profile(),
    ):
        pass


def test_no_requests_took_no_time(client: Client) -> None:
    with client.profile(show=False) as times:
        pass
    assert times.towers == {}
    assert str(times) == "no request was answered"


def test_who_learns_of_an_answer_first_waits_for_its_note() -> None:
    class Answered:
        """Its waiters have woken up, its callbacks have not run."""

        def done(self) -> bool:
            return True

        def exception(self) -> None:
            return None

        def add_done_callback(self, call: Callable[[object], object]) -> None:
            self.call = call

    stopwatch, answer = Stopwatch(), Answered()
    stopwatch.follow("text", 3, 10, 0, answer)  # type: ignore[arg-type]
    assert stopwatch.is_behind()
    assert stopwatch.requests("text") == 0
    answer.call(answer)
    assert not stopwatch.is_behind()
    assert stopwatch.requests("text") == 1
