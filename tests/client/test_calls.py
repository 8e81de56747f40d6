"""What a call may be asked for, the same whether it blocks or is awaited."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import numpy as np
import pytest
from cases import arrays, demo_pictures, texts

from cliprt import (
    AsyncClient,
    Bundle,
    Client,
    ClosedError,
    DeadlineExceeded,
    Embeddings,
    InvalidInput,
    ModelUnavailable,
    SpaceMismatch,
)
from cliprt_engines import LocalClip
from cliprt_triton import TritonServer

GOOD = demo_pictures()[0]
MIXED = [GOOD, b"no picture", demo_pictures()[1], None, b""]


class Awaited:
    """An AsyncClient whose methods block, so that one test holds for both."""

    def __init__(self, address: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = AsyncClient(address)
        self.run(self._client.connect())

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        return lambda *given, **named: self.run(method(*given, **named))

    def run(self, coroutine: Any) -> Any:
        return self._loop.run_until_complete(coroutine)

    def close(self) -> None:
        self.run(self._client.close())
        self._loop.close()


@pytest.fixture(params=["Client", "AsyncClient", "LocalClip"])
def clip(
    request: pytest.FixtureRequest, demo_server: TritonServer, demo_bundle: Bundle
) -> Iterator[Any]:
    makers: dict[str, Callable[[], Any]] = {
        "Client": lambda: Client(demo_server.address),
        "AsyncClient": lambda: Awaited(demo_server.address),
        "LocalClip": lambda: LocalClip(demo_bundle),
    }
    made = makers[request.param]()
    yield made
    made.close()


def test_bad_pictures_are_returned_in_their_places(clip: Any) -> None:
    found = clip.encode_image(MIXED * 20, on_error="return")
    expected = clip.encode_image([GOOD, demo_pictures()[1]])
    assert len(found) == 100
    for index, item in enumerate(found):
        if index % 5 in (0, 2):
            np.testing.assert_allclose(item, expected[index % 5 // 2], atol=1e-6)
        else:
            assert isinstance(item, InvalidInput)
            assert item.index == index


def test_bad_pictures_are_skipped(clip: Any) -> None:
    found = clip.encode_image(MIXED * 20, on_error="skip")
    expected = clip.encode_image([GOOD, demo_pictures()[1]] * 20)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_bad_texts_are_returned_in_their_places(clip: Any) -> None:
    given = ["a circle", 7, "a much longer text about a star", "\ud800"] * 10
    found = clip.encode_text(given, on_error="return")
    expected = clip.encode_text(given[0:3:2])
    for index, item in enumerate(found):
        if index % 2:
            assert isinstance(item, InvalidInput)
            assert item.index == index
        else:
            np.testing.assert_allclose(item, expected[index % 4 // 2], atol=1e-6)


def test_bad_texts_are_skipped(clip: Any) -> None:
    given = ["a circle", "word " * 90, "a much longer text about a star"]
    found = clip.encode_text(given, on_error="skip", truncate=False)
    np.testing.assert_allclose(found, clip.encode_text(given[::2]), atol=1e-6)


def test_nothing_is_left_of_bad_items_alone(clip: Any) -> None:
    assert clip.encode_image([b"", b"x"], on_error="skip").shape == (0, clip_dim(clip))
    assert clip.encode_text([7, 8], on_error="skip").shape == (0, clip_dim(clip))
    assert [type(item) for item in clip.encode_image([b""], on_error="return")] == [InvalidInput]


@pytest.mark.parametrize("count", [1, 40])
def test_answers_may_be_written_to(clip: Any, count: int) -> None:
    assert clip.encode_image([GOOD] * count).flags.writeable
    assert clip.encode_text(["a"] * count).flags.writeable
    items = clip.encode_image([GOOD] * count, on_error="return")
    # Each by itself: who keeps one need not keep its batch.
    assert all(item.flags.writeable and item.flags.owndata for item in items)


def clip_dim(clip: Any) -> int:
    return int(clip.encode_text("a").shape[1])


def test_an_empty_call_is_refused_whatever_happens_to_items(clip: Any) -> None:
    with pytest.raises(InvalidInput, match="the batch is empty"):
        clip.encode_image([], on_error="skip")


@pytest.mark.parametrize("size", [1, 3, 50])
def test_the_size_of_a_batch_changes_no_answer(clip: Any, size: int) -> None:
    pictures, strings = arrays(7, 64), texts(32)[:9]
    np.testing.assert_allclose(
        clip.encode_image(iter(pictures), batch_size=size), clip.encode_image(pictures), atol=1e-6
    )
    np.testing.assert_allclose(
        clip.encode_text(iter(strings), batch_size=size), clip.encode_text(strings), atol=1e-6
    )


@pytest.mark.parametrize("size", [0, -1, 100_000, 2.5, "8"])
def test_a_size_that_is_none(clip: Any, size: Any) -> None:
    with pytest.raises(InvalidInput, match=r"must be a whole number from 1 to \d+, the most that"):
        clip.encode_text("a", batch_size=size)


def test_what_happens_to_items_must_be_known(clip: Any) -> None:
    with pytest.raises(ValueError, match="on_error must be one of raise, skip, return"):
        clip.encode_text("a", on_error="ignore")


def test_progress_is_told_in_lines_where_there_is_no_terminal(
    clip: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    clip.encode_text(["a"] * 40, show_progress=True)
    clip.encode_image(iter([GOOD] * 3), show_progress=True)
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("40 of 40 texts")
    assert told[1].startswith("3 images")
    clip.encode_text(["a"] * 40)
    assert capsys.readouterr().err == ""


def test_a_long_generator_is_read_as_it_is_needed(client: Client) -> None:
    taken = 0
    most_ahead = 0
    answered: list[int] = []
    original = client._core._start

    def start(*given: Any) -> Any:
        nonlocal most_ahead
        answered.append(1)
        most_ahead = max(most_ahead, taken - 8 * len(answered))
        return original(*given)

    client._core._start = start  # type: ignore[method-assign]

    def pictures() -> Iterator[Any]:
        nonlocal taken
        for _ in range(400):
            taken += 1
            yield GOOD

    assert client.encode_image(pictures(), batch_size=8).shape == (400, client.card.dim)
    assert most_ahead <= 8


def test_items_may_come_awaited(demo_server: TritonServer) -> None:
    async def pictures() -> AsyncIterator[Any]:
        for item in [GOOD] * 70:
            await asyncio.sleep(0)
            yield item

    async def main() -> tuple[Any, Any]:
        async with AsyncClient(demo_server.address) as client:
            return await client.encode_image(pictures()), await client.encode_image(GOOD)

    many, one = asyncio.run(main())
    np.testing.assert_allclose(many, np.tile(one, (70, 1)), atol=1e-6)


def test_the_loop_goes_on_while_pictures_are_decoded(demo_server: TritonServer) -> None:
    """Beats of the loop during a call; with decoding on the loop there would be a handful."""

    async def main() -> int:
        beats = 0

        async def beat() -> None:
            nonlocal beats
            while True:
                await asyncio.sleep(0.001)
                beats += 1

        async with AsyncClient(demo_server.address) as client:
            beating = asyncio.create_task(beat())
            await client.encode_image(arrays(32, 700) * 4)
            beating.cancel()
        return beats

    assert asyncio.run(main()) > 20


def test_many_calls_at_once_need_no_thread_each(demo_server: TritonServer) -> None:
    async def main() -> int:
        async with AsyncClient(demo_server.address) as client:
            await client.encode_text("a")
            before = most = threading.active_count()

            async def one(index: int) -> Any:
                nonlocal most
                answer = await client.encode_text(f"a text number {index} " * 20)
                most = max(most, threading.active_count())
                return answer

            answers = await asyncio.gather(*[one(index) for index in range(300)])
            assert np.concatenate(answers).shape[0] == 300
        return most - before

    assert asyncio.run(main()) < 20


def test_a_cancelled_call_leaves_the_client_usable(demo_server: TritonServer) -> None:
    async def main() -> None:
        async with AsyncClient(demo_server.address) as client:
            for _ in range(5):
                task = asyncio.create_task(client.encode_image(arrays(64, 64) * 20))
                await asyncio.sleep(0.05)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert (await client.encode_text("a")).shape == (1, client.card.dim)

    asyncio.run(main())
    gc.collect()


def test_a_source_that_never_comes_can_be_cancelled(demo_server: TritonServer) -> None:
    async def never() -> AsyncIterator[Any]:
        await asyncio.Event().wait()
        yield GOOD

    async def main() -> None:
        async with AsyncClient(demo_server.address) as client:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(client.encode_image(never()), 0.2)
            assert (await client.encode_text("a")).shape == (1, client.card.dim)

    asyncio.run(main())


def test_an_error_of_the_source_is_the_callers(demo_server: TritonServer) -> None:
    async def broken() -> AsyncIterator[Any]:
        yield GOOD
        raise KeyError("mine")

    async def main() -> None:
        async with AsyncClient(demo_server.address) as client:
            with pytest.raises(KeyError, match="mine"):
                await client.encode_image(broken())

    asyncio.run(main())


def test_an_awaited_client_that_was_closed(demo_server: TritonServer) -> None:
    async def main() -> None:
        client = AsyncClient(demo_server.address)
        with pytest.raises(ClosedError, match="not connected yet"):
            client.card  # noqa: B018
        await client.encode_text("a")
        call = asyncio.create_task(client.encode_image(arrays(64, 64) * 40))
        await asyncio.sleep(0.1)
        await client.close()
        with pytest.raises(ClosedError):
            await call
        with pytest.raises(ClosedError, match="make a new one"):
            await client.encode_text("a")
        await client.close()

    asyncio.run(main())


def test_a_late_answer_is_told_to_the_one_who_waits(demo_server: TritonServer) -> None:
    async def main() -> None:
        async with AsyncClient(demo_server.address) as client:
            with pytest.raises(DeadlineExceeded):
                await client.encode_text("a", timeout_s=1e-6)

    asyncio.run(main())


def test_a_server_that_was_given_another_model_is_refused(
    demo_bundle: Bundle, small_bundle: Bundle, tmp_path: Any
) -> None:
    from cliprt_triton import write_repository

    first = write_repository(demo_bundle, tmp_path / "first")
    second = write_repository(small_bundle, tmp_path / "second")
    with TritonServer(first) as server:
        client = Client(server.address)
        client.encode_text("a")
        port = int(server.address.rpartition(":")[2])
    with client, TritonServer(second, grpc_port=port):
        for _ in range(600):  # until the connection is made again
            try:
                client.encode_text("a")
            except ModelUnavailable as error:
                assert "in another space" in str(error)  # noqa: PT017
                assert small_bundle.card.space[:12] in str(error)  # noqa: PT017
                break
            except Exception:  # noqa: BLE001 - the server is not back yet
                time.sleep(0.1)
        else:
            pytest.fail("the client took answers of another model")


def test_answers_know_their_space(clip: Any, demo_bundle: Bundle) -> None:
    space = demo_bundle.card.space
    texts_, pictures = clip.encode_text(["a", "b"]), clip.encode_image([GOOD])
    assert (texts_.space, pictures.space) == (space, space)
    assert clip.encode_text(["a", 7], on_error="return")[0].space == space
    foreign = Embeddings.of(np.asarray(texts_), "0" * 64)
    with pytest.raises(SpaceMismatch):
        pictures @ foreign.T
