"""Watches the memory of client and server over many requests: ``make soak-check``.

Requests of mixed shapes, good and bad, by every gRPC way in, from threads and from coroutines, some
of them given up. Memory is read again and again, and what it grew by after a warm-up is
compared with a limit: that of Triton's own tests is 100 MB.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import struct
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import click
import grpc
import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from tritonclient.grpc import service_pb2, service_pb2_grpc

from cliprt import AsyncClient, Client, CliprtError, open_bundle
from cliprt_export import export_checkpoint
from cliprt_triton import TritonServer, write_repository

CHECKPOINT = Path(__file__).resolve().parent.parent / "demo" / "checkpoint"
WORDS = "a picture of three small red circles on the left of two large blue stars".split()  # noqa: SIM905
LIMIT_MB = 100

# Good answers, refused pictures by the client and by the server, and deadlines that are too short.
EXPECTED = {"answered", "InvalidInput", "INVALID_ARGUMENT", "DeadlineExceeded"}


@dataclass(frozen=True)
class Reading:
    """Memory at one moment, in megabytes of 10**6 bytes."""

    requests: int
    client: float
    server: float


def memory_of(pid: int) -> float:
    """Proportional memory of a process and its descendants, in megabytes."""
    total, waiting = 0.0, [pid]
    while waiting:
        process = Path(f"/proc/{waiting.pop()}")
        try:
            for line in (process / "smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024 / 1e6
            for children in process.glob("task/*/children"):
                waiting += [int(child) for child in children.read_text().split()]
        except OSError:
            continue  # it ended meanwhile
    return total


class Load:
    """Requests of mixed shapes, chosen by a seed."""

    def __init__(self, address: str, seed: int) -> None:
        self._random = random.Random(seed)
        self._numbers = np.random.default_rng(seed)
        self.client = Client(address)
        self._channel = grpc.insecure_channel(address)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self.outcomes: Counter[str] = Counter()
        self._calls: list[Callable[[], object]] = [
            lambda: self.client.encode_text(self.text()),
            lambda: self.client.encode_text([self.text() for _ in range(self.few())]),
            lambda: self.client.encode_image(self.array()),
            lambda: self.client.encode_image([self.array() for _ in range(self.few())]),
            lambda: self.client.encode_image([self.array(), b"no picture"], on_error="return"),
            lambda: self.client.encode_image(b"no picture"),
            lambda: self.client.encode_text(self.text(), timeout_s=1e-4),
            lambda: self.ensemble("clip_text_string", text=[self.text().encode()]),
            lambda: self.ensemble("clip_image_file", image=[self.file() for _ in range(2)]),
            lambda: self.ensemble("clip_image_file", image=[b"no picture"]),
            lambda: self.ensemble("clip", image=[self.file()], text=[self.text().encode()]),
        ]

    def one(self) -> None:
        """One request."""
        call = self._random.choice(self._calls)
        try:
            call()
            self.outcomes["answered"] += 1
        except CliprtError as error:
            self.outcomes[type(error).__name__] += 1
        except grpc.RpcError as error:
            self.outcomes[error.code().name] += 1

    def few(self) -> int:
        return self._random.randint(2, 16)

    def text(self) -> str:
        return " ".join(self._random.choices(WORDS, k=self._random.randint(1, 40)))

    def array(self) -> Any:
        sides = (self._random.randint(8, 120), self._random.randint(8, 120), 3)
        return self._numbers.integers(0, 256, sides, dtype=np.uint8)

    def file(self) -> bytes:
        buffer = BytesIO()
        Image.fromarray(self.array()).save(buffer, self._random.choice(["JPEG", "PNG"]))
        return buffer.getvalue()

    def ensemble(self, model: str, **inputs: list[bytes]) -> None:
        self._future(model, inputs).result()

    def _future(self, model: str, inputs: dict[str, list[bytes]]) -> Any:
        message = service_pb2.ModelInferRequest
        return self._stub.ModelInfer.future(
            message(
                model_name=model,
                inputs=[
                    message.InferInputTensor(name=name, datatype="BYTES", shape=[len(items), 1])
                    for name, items in inputs.items()
                ],
                raw_input_contents=[
                    b"".join(struct.pack("<I", len(item)) + item for item in items)
                    for items in inputs.values()
                ],
            ),
            timeout=60,
        )


def awaited(address: str, requests: int, tell: Callable[[], None]) -> None:
    """Requests from coroutines."""

    async def main() -> None:
        choose = random.Random(7)
        async with AsyncClient(address) as client:
            room = asyncio.Semaphore(16)

            async def one() -> None:
                async with room:
                    words = choose.choices(WORDS, k=choose.randint(1, 40))
                    call = client.encode_text(" ".join(words))
                    # A tenth is given up, by the client: bare cancellations can crash Triton 24.10.
                    patience_s = 0.005 if choose.random() < 0.1 else None
                    with suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(call, patience_s)
                    tell()

            left = requests
            while left > 0:
                part = min(left, 500)
                await asyncio.gather(*[one() for _ in range(part)])
                left -= part

    asyncio.run(main())


def soak(server: TritonServer, requests: int, threads: int, console: Console) -> list[Reading]:
    """Sends all requests and reads the memory fifty times meanwhile."""
    done, lock = 0, threading.Lock()
    readings: list[Reading] = []
    every = max(requests // 50, 1)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("requests", total=requests)

        def tell() -> None:
            nonlocal done
            with lock:
                done += 1
                if done % every == 0:
                    readings.append(
                        Reading(
                            done,
                            memory_of(os.getpid()) - memory_of(server.pid),
                            memory_of(server.pid),
                        )
                    )
                    bar.update(task, completed=done)

        def work(load: Load, count: int) -> None:
            for _ in range(count):
                load.one()
                tell()

        loads = [Load(server.address, seed) for seed in range(threads)]
        share = requests // (threads + 1)
        with ThreadPoolExecutor(threads + 1) as pool:
            futures = [pool.submit(work, load, share) for load in loads]
            rest = requests - share * threads
            futures.append(pool.submit(awaited, server.address, rest, tell))
            for future in futures:
                future.result()
    outcomes = sum((load.outcomes for load in loads), Counter())
    console.print(dict(outcomes))
    if wrong := outcomes.keys() - EXPECTED:
        raise click.ClickException(f"outcomes that none of these requests may have: {wrong}")
    return readings


@click.command()
@click.option("--requests", default=200_000, show_default=True)
@click.option("--threads", default=12, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print all readings as JSON.")
def main(requests: int, threads: int, as_json: bool) -> None:
    """Send REQUESTS and fail if the memory of client or server grew by more than 100 MB."""
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as work:
        export_checkpoint(str(CHECKPOINT), Path(work) / "bundle")
        repository = write_repository(open_bundle(Path(work) / "bundle"), Path(work) / "models")
        with TritonServer(repository) as server:
            begun = time.monotonic()
            readings = soak(server, requests, threads, console)
            took = time.monotonic() - begun
    # The first tenth fills caches and pools.
    settled = [each for each in readings if each.requests > requests / 10]
    growth = {
        "client": settled[-1].client - settled[0].client,
        "server": settled[-1].server - settled[0].server,
    }
    if as_json:
        print(json.dumps({"growth_mb": growth, "readings": [vars(each) for each in readings]}))
    for side, grown in growth.items():
        values = [getattr(each, side) for each in readings]
        console.print(
            f"{side}: {grown:+.1f} MB after the first tenth ({values[0]:.0f} at first, "
            f"{max(values):.0f} at most, {values[-1]:.0f} at last)"
        )
    console.print(f"{requests:,} requests in {took:.0f} s")
    sys.exit(any(grown > LIMIT_MB for grown in growth.values()))


if __name__ == "__main__":
    main()
