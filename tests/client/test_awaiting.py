"""What may go on around an awaited call: calls that wait for items, slow tokens, close, forks."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Iterator

import numpy as np
import pytest
from forks import in_child

from cliprt import AsyncClient, Client, ClosedError, Connection
from cliprt_triton import TritonServer

LONG = "more words than are tokenized on the event loop " * 10
MANY = 12  # more than a client has threads


def test_calls_that_wait_for_items_hold_up_no_others(demo_server: TritonServer) -> None:
    async def main() -> None:
        async with AsyncClient(demo_server.address) as client:
            given = asyncio.Event()

            async def slow() -> AsyncIterator[str]:
                yield "a"
                await given.wait()
                yield "b"

            waiting = [asyncio.create_task(client.encode_text(slow())) for _ in range(MANY)]
            await asyncio.sleep(0.2)
            assert (await asyncio.wait_for(client.encode_text(LONG), 30)).shape[0] == 1
            given.set()
            assert [len(found) for found in await asyncio.gather(*waiting)] == [2] * MANY

    asyncio.run(main())


def test_items_may_come_from_other_calls(demo_server: TritonServer) -> None:
    async def main() -> None:
        async with AsyncClient(demo_server.address) as client:

            async def chained() -> AsyncIterator[str]:
                for number in range(3):
                    found = await client.encode_text(LONG)
                    yield f"{number} {found[0, 0]}"

            calls = [client.encode_text(chained()) for _ in range(MANY)]
            found = await asyncio.wait_for(asyncio.gather(*calls), 60)
            assert [len(each) for each in found] == [3] * MANY

    asyncio.run(main())


def test_generators_that_block_hold_up_no_others(demo_server: TritonServer) -> None:
    async def main() -> None:
        async with AsyncClient(demo_server.address) as client:
            begun, given = threading.Semaphore(0), threading.Event()

            def slow() -> Iterator[str]:
                begun.release()
                given.wait(60)
                yield "a"

            waiting = [asyncio.create_task(client.encode_text(slow())) for _ in range(MANY)]
            try:
                for _ in range(MANY):
                    assert await asyncio.to_thread(begun.acquire, timeout=30)
                await asyncio.wait_for(client.encode_text(LONG), 30)
                assert not any(task.done() for task in waiting)
            finally:
                given.set()
            await asyncio.gather(*waiting)

    asyncio.run(main())


def test_a_program_ends_though_items_never_come(demo_server: TritonServer) -> None:
    code = f"""
    import asyncio
    from cliprt import AsyncClient

    async def never():
        yield "a"
        await asyncio.Event().wait()

    client = AsyncClient({demo_server.address!r})
    loop = asyncio.new_event_loop()
    call = loop.create_task(client.encode_text(never()))
    loop.run_until_complete(asyncio.sleep(1))
    """
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


def test_fetching_a_token_does_not_stop_the_loop(demo_server: TritonServer) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        seen: list[bool] = []

        def token() -> str:
            try:
                seen.append(asyncio.get_running_loop() is loop)
            except RuntimeError:  # no loop runs in this thread
                seen.append(False)
            return "token"

        async with AsyncClient(Connection(demo_server.address, auth=token)) as client:
            await client.encode_text("a")
            await client.encode_text("b")
        assert len(seen) > 2
        assert not any(seen)

    asyncio.run(main())


def test_what_a_failure_means_is_not_asked_for_on_the_loop(demo_server: TritonServer) -> None:
    async def main() -> None:
        async with AsyncClient(demo_server.address) as client:
            await client.encode_text("a")
            client._core._version = 1  # as after another model took the place of this one
            asked: list[bool] = []

            def read(*_: object) -> None:
                asked.append(bool(asyncio._get_running_loop()))
                raise ClosedError("no matter")

            client._core._read_models = read  # type: ignore[assignment, method-assign]
            with pytest.raises(Exception, match="does not serve"):
                await client.encode_text("a")
        assert asked == [False]

    asyncio.run(main())


def test_a_client_may_be_used_from_one_loop_after_the_other(demo_server: TritonServer) -> None:
    client = AsyncClient(demo_server.address)
    found = [asyncio.run(client.encode_text(LONG)) for _ in range(2)]
    np.testing.assert_allclose(*found, atol=1e-6)
    asyncio.run(client.close())


def test_calls_that_wait_for_a_thread_hear_of_close(demo_server: TritonServer) -> None:
    async def main() -> None:
        client = AsyncClient(demo_server.address)
        await client.connect()
        calls = [asyncio.create_task(client.encode_text([LONG] * 2000)) for _ in range(40)]
        await asyncio.sleep(0.05)
        await client.close()
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(each) for each in found} <= {ClosedError, np.ndarray}
        assert ClosedError in map(type, found)

    asyncio.run(main())


def test_close_while_connecting_leaves_nothing_open(demo_server: TritonServer) -> None:
    client = AsyncClient(demo_server.address)
    core = client._core
    read = core._read_models

    def late(*given: object) -> object:
        found = read(*given)  # type: ignore[arg-type]
        core._closed = True  # as close() does before it looks for what to close
        return found

    core._read_models = late  # type: ignore[assignment, method-assign]
    with pytest.raises(ClosedError):
        asyncio.run(client.connect())
    assert core._lazy_channel is not None
    assert core._lazy_channel._closed


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_is_told_to_make_its_own(demo_server: TritonServer) -> None:
    loop = asyncio.new_event_loop()
    client = AsyncClient(demo_server.address)
    loop.run_until_complete(client.encode_text(LONG))
    told = in_child(lambda: asyncio.run(client.encode_text(LONG)))
    assert told.startswith("ClosedError: this client was made before the process was forked")
    loop.run_until_complete(client.close())
    loop.close()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_does_not_wait_for_a_lock_of_its_parent(client: Client) -> None:
    with client._core._tokenizer_lock:  # a thread loads the tokenizer as the process forks
        told = in_child(lambda: client.encode_text("a"))
    assert told.startswith("ClosedError: this client was made before")
