"""Callers of many kinds that ask all the time, and hold every answer against the known one.

A caller that can be harmed by others is of use here alone if it notices: so every answer is
compared, every error must be of a type, and whoever has not heard by its deadline is counted.
"""

from __future__ import annotations

import asyncio
import random
import struct
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc

from chaos.golden import Golden
from chaos.tally import End, Outcome, Tally
from cliprt import (
    AsyncClient,
    Client,
    CliprtError,
    Connection,
    DeadlineExceeded,
    InvalidInput,
    ModelUnavailable,
    Retry,
    RetryableError,
)
from cliprt._grpc_errors import lost_process

HASTY_S = 5.0
"""Deadline of callers that do not wait for a server, in seconds."""

PATIENT_S = 60.0
"""Deadline of those that wait for one that is gone."""

# Callers share processors with the server: so much after its deadline one is told at the latest.
_GRACE_S = 15.0

# Callers who were refused come back later.
_PAUSE_S, _PAUSE_AFTER_FAILURE_S = 0.01, 0.1

_MOST = 12


# What tells a caller without a client to come back: later, or, where a model is loaded anew, soon.
_REFUSALS = frozenset(
    getattr(grpc.StatusCode, name)
    for name in (
        "UNAVAILABLE",
        "DEADLINE_EXCEEDED",
        "RESOURCE_EXHAUSTED",
        "NOT_FOUND",
        "CANCELLED",
    )
)


class Wrong(Exception):
    """An answer that is not the right one."""


class Traffic:
    """Callers in threads of their own, from ``start`` to ``stop``.

    Every caller has its own connection. Of those with a ``Client`` every third makes one attempt,
    every third tries again, and every third waits for a server that is gone. A further caller
    speaks to Triton without a client, as programs in other languages do, and one gives up half of
    what it asks.
    """

    def __init__(
        self,
        texts: Golden[str],
        pictures: Golden[bytes],
        addresses: Sequence[str],
        *,
        callers: int,
        seed: int,
    ) -> None:
        """Connects all callers.

        Args:
            texts: texts with known answers.
            pictures: pictures with known answers.
            addresses: ways to one server; callers take them in turn.
            callers: how many have a ``Client``.
            seed: of what is asked.

        Raises:
            CliprtError: the server does not answer.
        """
        self.tally = Tally()
        self._over = threading.Event()
        self._callers: list[Caller] = [
            ClientCaller(addresses[number % len(addresses)], texts, pictures, number)
            for number in range(callers)
        ]
        self._callers.append(BareCaller(addresses[-1], texts, pictures))
        work = [
            (caller, random.Random(seed * 1000 + number))
            for number, caller in enumerate(self._callers)
        ]
        self._threads = [
            threading.Thread(target=self._ask, args=each, daemon=True) for each in work
        ]
        giving_up = (addresses[0], texts, random.Random(seed))
        self._threads.append(threading.Thread(target=self._give_up, args=giving_up, daemon=True))

    def start(self) -> None:
        """Everybody begins to ask."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Everybody is answered and asks no more; who is not counts as lost."""
        self._over.set()
        ends = time.monotonic() + PATIENT_S + 2 * _GRACE_S
        for thread in self._threads:
            thread.join(max(0.0, ends - time.monotonic()))
            if thread.is_alive():
                self.tally.add(Outcome("any", "lost", "a call that never ended", PATIENT_S))
        for caller in self._callers:
            caller.close()

    def _ask(self, caller: Caller, choose: random.Random) -> None:
        while not self._over.is_set():
            kind, ask = choose.choice([*caller.kinds.items()])
            begun, failed = time.monotonic(), None
            try:
                ask(choose)
            except Exception as error:  # noqa: BLE001 - it is told what it means
                failed = error
            self.tally.add(_outcome(kind, caller.deadline_s, begun, failed))
            self._over.wait(_PAUSE_S if failed is None else _PAUSE_AFTER_FAILURE_S)

    def _give_up(self, address: str, texts: Golden[str], choose: random.Random) -> None:
        while not self._over.is_set():
            begun = time.monotonic()
            try:
                asyncio.run(self._awaited(address, texts, choose))
            except Exception as error:  # noqa: BLE001 - it is told what it means
                # Where the first answer, which tells what is served, does not come.
                self.tally.add(_outcome("awaited, at first", HASTY_S, begun, error))
                self._over.wait(_PAUSE_AFTER_FAILURE_S)

    async def _awaited(self, address: str, texts: Golden[str], choose: random.Random) -> None:
        async with AsyncClient(Connection(address), timeout_s=HASTY_S) as client:
            while not self._over.is_set():
                numbers = texts.drawn(choose, _MOST)
                patience_s = choose.choice([0.001, 0.005, 0.02, HASTY_S])
                begun, failed = time.monotonic(), None
                try:
                    call = client.encode_text([texts.items[each] for each in numbers])
                    _check(texts, numbers, await asyncio.wait_for(call, patience_s))
                except Exception as error:  # noqa: BLE001 - it is told what it means
                    failed = error
                self.tally.add(_outcome("awaited, some given up", HASTY_S, begun, failed))
                await asyncio.sleep(_PAUSE_S if failed is None else _PAUSE_AFTER_FAILURE_S)


def _outcome(kind: str, deadline_s: float, begun: float, failed: Exception | None) -> Outcome:
    """What it means how a request ended.

    Args:
        kind: what was asked.
        deadline_s: when the caller must have heard, in seconds since it asked.
        begun: when it asked, of ``time.monotonic``.
        failed: what was raised, if anything was.
    """
    seconds = time.monotonic() - begun
    end, detail = _end(failed)
    if seconds > deadline_s + _GRACE_S:
        end = "lost"
    return Outcome(kind, end, detail, seconds)


def _end(failed: Exception | None) -> tuple[End, str]:
    """What it is that a good request ended with, and in words; the deadline aside."""
    if failed is None:
        return "right", ""
    if isinstance(failed, Wrong):
        return "wrong", str(failed)
    if isinstance(failed, InvalidInput):
        return "wrong", f"a good item was refused: {failed}"
    if isinstance(failed, (RetryableError, ModelUnavailable)):
        return "refused", type(failed).__name__
    if isinstance(failed, grpc.RpcError):
        return _end_without_client(failed)
    if isinstance(failed, asyncio.TimeoutError):
        return "refused", "given up by the caller"
    return "untyped", f"{type(failed).__name__}: {failed}"


def _end_without_client(failed: Any) -> tuple[End, str]:
    code = failed.code()
    if code in _REFUSALS:
        return "refused", code.name
    if lost_process(failed):
        # Triton's own words, in which it says so to whoever comes before it is started again.
        return "refused", f"{code.name}, the process of a model has died"
    if code == grpc.StatusCode.INVALID_ARGUMENT:
        return "wrong", f"a good item was refused: {failed.details()}"
    return "untyped", f"{code.name}: {failed.details()}"


class Caller:
    """One that asks, one request after the other.

    Attributes:
        deadline_s: when it must have heard, in seconds.
        kinds: what it asks; each sends one request and raises ``Wrong`` where the answer is.
    """

    deadline_s: float
    kinds: dict[str, Callable[[random.Random], None]]

    def ask_all(self, choose: random.Random) -> None:
        """Asks one of each kind; raises whatever goes wrong."""
        for ask in self.kinds.values():
            ask(choose)

    def close(self) -> None:
        """Ends its connection."""


class ClientCaller(Caller):
    """Asks through a ``Client``; its number says what it does when a request fails."""

    def __init__(
        self, address: str, texts: Golden[str], pictures: Golden[bytes], number: int
    ) -> None:
        retry = (None, Retry(), Retry(attempts=5, wait_for_server=True))[number % 3]
        self.deadline_s = PATIENT_S if number % 3 == 2 else HASTY_S
        self._client = Client(
            Connection(address, retry=retry, keepalive_s=5), timeout_s=self.deadline_s
        )
        self._texts, self._pictures = texts, pictures
        self.kinds = {
            "texts": self._ask_texts,
            "pictures": self._ask_pictures,
            "a bad picture among good ones": self._ask_mixed,
            "a bad picture": self._ask_bad,
            "a deadline of milliseconds": self._ask_in_haste,
        }

    def close(self) -> None:
        """Ends its connection."""
        self._client.close()

    def _ask_texts(self, choose: random.Random) -> None:
        numbers = self._texts.drawn(choose, _MOST)
        items = [self._texts.items[each] for each in numbers]
        _check(self._texts, numbers, self._client.encode_text(items))

    def _ask_pictures(self, choose: random.Random) -> None:
        numbers = self._pictures.drawn(choose, _MOST)
        items = [self._pictures.items[each] for each in numbers]
        _check(self._pictures, numbers, self._client.encode_image(items))

    def _ask_mixed(self, choose: random.Random) -> None:
        numbers = self._pictures.drawn(choose, _MOST)
        items: list[Any] = [self._pictures.items[each] for each in numbers]
        at = choose.randint(0, len(items))
        items.insert(at, b"no picture")
        found = self._client.encode_image(items, on_error="return")
        bad = found.pop(at)
        rows = [each for each in found if not isinstance(each, CliprtError)]
        if errors := [each for each in found if isinstance(each, CliprtError)]:
            raise errors[0]
        if not isinstance(bad, InvalidInput):
            raise Wrong(f"a bad picture was answered with {type(bad).__name__}")
        _check(self._pictures, numbers, np.stack(rows))

    def _ask_bad(self, choose: random.Random) -> None:
        try:
            self._client.encode_image(b"no picture")
        except InvalidInput:
            return
        raise Wrong("a bad picture was embedded")

    def _ask_in_haste(self, choose: random.Random) -> None:
        numbers = self._texts.drawn(choose, _MOST)
        items = [self._texts.items[each] for each in numbers]
        try:
            found = self._client.encode_text(items, timeout_s=choose.choice([0.001, 0.01]))
        except DeadlineExceeded:
            return
        _check(self._texts, numbers, found)


class BareCaller(Caller):
    """Speaks to the models of files and strings; with deadlines that Triton 24.10 survives."""

    def __init__(
        self, address: str, texts: Golden[str], pictures: Golden[Any], *, deadline_s: float = 20.0
    ) -> None:
        self.deadline_s = deadline_s
        self._channel = grpc.insecure_channel(address, [("grpc.max_reconnect_backoff_ms", 1000)])
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._texts, self._pictures = texts, pictures
        self.kinds = {
            "strings, without a client": self._ask_strings,
            "files, without a client": self._ask_files,
            "pairs, without a client": self._ask_pairs,
            "a bad file, without a client": self._ask_bad,
        }

    def close(self) -> None:
        """Ends its connection."""
        self._channel.close()

    def _ask_strings(self, choose: random.Random) -> None:
        numbers = self._texts.drawn(choose, _MOST)
        answers = self._ask("clip_text_string", text=_strings(self._texts, numbers))
        _check(self._texts, numbers, answers["embedding"])

    def _ask_files(self, choose: random.Random) -> None:
        numbers = self._pictures.drawn(choose, _MOST)
        answers = self._ask("clip_image_file", image=_strings(self._pictures, numbers))
        _check(self._pictures, numbers, answers["embedding"])

    def _ask_pairs(self, choose: random.Random) -> None:
        pictures = self._pictures.drawn(choose, _MOST)
        texts = choose.choices(range(len(self._texts.items)), k=len(pictures))
        answers = self._ask(
            "clip", image=_strings(self._pictures, pictures), text=_strings(self._texts, texts)
        )
        _check(self._pictures, pictures, answers["image_embedding"])
        _check(self._texts, texts, answers["text_embedding"])

    def _ask_bad(self, choose: random.Random) -> None:
        try:
            self._ask("clip_image_file", image=[b"no picture"])
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.INVALID_ARGUMENT:
                return
            raise
        raise Wrong("a bad picture was embedded")

    def begin(self, model: str, **inputs: list[bytes]) -> Any:
        """Sends a request and returns gRPC's future."""
        message = service_pb2.ModelInferRequest
        request = message(
            model_name=model,
            inputs=[
                message.InferInputTensor(name=name, datatype="BYTES", shape=[len(items), 1])
                for name, items in inputs.items()
            ],
            raw_input_contents=[
                b"".join(struct.pack("<I", len(item)) + item for item in items)
                for items in inputs.values()
            ],
        )
        return self._stub.ModelInfer.future(request, timeout=self.deadline_s)

    def _ask(self, model: str, **inputs: list[bytes]) -> dict[str, NDArray[np.float32]]:
        return _tensors(self.begin(model, **inputs).result())


def _tensors(answer: Any) -> dict[str, NDArray[np.float32]]:
    return {
        tensor.name: np.frombuffer(raw, np.float32).reshape(tensor.shape)
        for tensor, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)
    }


def flood(address: str, texts: Golden[str], count: int, tally: Tally) -> None:
    """Sends many requests at once, each of one text, and counts how they end.

    Args:
        address: the server's.
        texts: texts with known answers.
        count: how many requests.
        tally: where they are counted.
    """
    caller = BareCaller(address, texts, texts)
    begun = time.monotonic()
    calls = [
        (number, caller.begin("clip_text_string", text=_strings(texts, [number])))
        for number in (each % len(texts.items) for each in range(count))
    ]
    for number, call in calls:
        failed = None
        try:
            _check(texts, [number], _tensors(call.result())["embedding"])
        except Exception as error:  # noqa: BLE001 - it is told what it means
            failed = error
        tally.add(_outcome("a flood", caller.deadline_s, begun, failed))
    caller.close()


def _strings(golden: Golden[Any], numbers: list[int]) -> list[bytes]:
    items = [golden.items[each] for each in numbers]
    return [item.encode() if isinstance(item, str) else item for item in items]


def _check(golden: Golden[Any], numbers: list[int], found: NDArray[np.float32]) -> None:
    if wrong := golden.wrong(numbers, found):
        raise Wrong(wrong)
