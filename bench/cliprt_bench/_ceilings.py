"""What the machine at hand can do at most, beside which a figure is a share.

Every ceiling is measured with all usable cores: a thread on each, which has its own work. That is
more than one product on all cores reaches. Libraries take turns, and the best one counts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from itertools import cycle
from typing import Literal, TypeAlias

import numpy as np
from PIL import Image

from cliprt import Limits
from cliprt._card import ImageSpec
from cliprt._cores import usable_cores
from cliprt._errors import MissingExtra
from cliprt._images import preprocess
from cliprt_bench import _products
from cliprt_bench._bench_card import Ceiling, Tower
from cliprt_bench._echo import METHOD, EchoServer, PlainServer
from cliprt_bench._figures import Figure, figure
from cliprt_bench._operations import Operations

Kind: TypeAlias = Literal["fp32", "bf16", "int8"]
KINDS: tuple[Kind, ...] = ("fp32", "bf16", "int8")

REPEATS, SECONDS = 3, 0.5
"""How often each library is measured, and how long at least."""

# More than caches hold, and on many cores no more than this in all.
_COPY_BYTES, _COPY_MOST = 64 * 2**20, 2**31

Item: TypeAlias = tuple[Tower, int | None]
"""What is embedded: the tower, and tokens of a text; None of pictures and captions as they come."""

_Work = Callable[[], object]


@dataclass(frozen=True)
class Rate:
    """What was reached.

    Attributes:
        name: of the ceiling.
        figure: of the library that had the best repeat, in ``unit``.
        unit: ``GFLOP/s``, ``GOP/s``, ``pictures/s``, ``MB/s``, ``GB/s`` (10**6, 10**9 bytes) or
            ``round trips/s``.
        by: what reached it, in words.
    """

    name: str
    figure: Figure
    unit: str
    by: str

    @property
    def best(self) -> float:
        """The best repeat: whatever else happens on a machine only lowers what it reaches."""
        return max(self.figure.repeats)


def measure(
    pictures: Sequence[bytes] = (),
    spec: ImageSpec | None = None,
    *,
    kinds: Sequence[Kind] = KINDS,
    request: tuple[int, int] | None = None,
    repeats: int = REPEATS,
    seconds: float = SECONDS,
) -> Iterator[Rate]:
    """Measures the ceilings one after the other; who stops in between keeps those he has.

    By default about 20 seconds in all.

    Args:
        pictures: encoded ones that are decoded; with none, or without ``spec``, that is left out.
        spec: how the image tower is fed.
        kinds: of products; those that the machine does not have are left out.
        request: bytes of a request and of its answer; None leaves the wire out.
        repeats: how often each library is measured.
        seconds: how long, at least.

    Raises:
        MissingExtra: onnx or onnxruntime is not installed, and there are kinds of products.
        InvalidInput: a picture cannot be decoded.
        OSError: the other end of the wire does not start.
    """
    for kind in kinds:
        if (rate := matmul(kind, repeats=repeats, seconds=seconds)) is not None:
            yield rate
    if pictures and spec is not None:
        for resize in (True, False):
            yield decode(pictures, spec, resize=resize, repeats=repeats, seconds=seconds)
    if request is not None:
        yield from loopback(*request, repeats=repeats, seconds=seconds)
    yield memory(repeats=repeats, seconds=seconds)


def matmul(
    kind: Kind,
    *,
    repeats: int = REPEATS,
    seconds: float = SECONDS,
) -> Rate | None:
    """Matrix products of the sizes in a block of ViT-B/32, with weights that are known before.

    Args:
        kind: of the factors; ``int8`` is uint8 by int8.
        repeats: how often each library is measured.
        seconds: how long, at least.

    Returns:
        multiplications and additions in a second, in 10**9; None if no library at hand has
        products of the kind, or the processor no instructions for them.

    Raises:
        MissingExtra: onnx or onnxruntime is not installed.
    """
    cores = usable_cores()
    libraries: dict[str, list[_Work]] = {}
    if kind != "bf16":
        make = _products.onnxruntime_int8 if kind == "int8" else _products.onnxruntime_fp32
        # Sessions may be run by many threads at once.
        libraries["ONNX Runtime, a product on each core"] = [make()] * cores
    if kind != "bf16" or _products.computes_bf16():
        try:
            works = _products.openvino_products(kind, cores)
            libraries["OpenVINO, a product on each core"] = list(works)
        except MissingExtra as missing:
            if missing.name != "openvino":
                raise
    if not libraries:
        return None
    unit = "GOP/s" if kind == "int8" else "GFLOP/s"
    scale = _products.OPERATIONS / 1e9
    return _best(f"matmul_{kind}", unit, libraries, scale, repeats, seconds)


def decode(
    pictures: Sequence[bytes],
    spec: ImageSpec,
    *,
    resize: bool = True,
    repeats: int = REPEATS,
    seconds: float = SECONDS,
) -> Rate:
    """Encoded pictures that become pixels: ``decode``, or without the resize ``decode_only``.

    Args:
        pictures: the files, in turn.
        spec: how the tower is fed.
        resize: whether they are made into the tower's input, by cliprt's own code, or decoded by
            Pillow and thrown away.
        repeats: how often it is measured.
        seconds: how long, at least.

    Raises:
        ValueError: there are no pictures.
        InvalidInput: one is no picture, or exceeds the default limits.
    """
    if not pictures:
        raise ValueError("there are no pictures to decode")
    limits, cores = Limits(), usable_cores()

    def whole(data: bytes) -> object:
        return preprocess(data, spec, limits)

    def alone(data: bytes) -> object:
        with Image.open(BytesIO(data)) as image:
            return image.load()

    def worker(number: int) -> _Work:
        # Each begins elsewhere, so that all kinds of pictures are under way at all times.
        first = number * len(pictures) // cores % len(pictures)
        rest = cycle([*pictures[first:], *pictures[:first]])
        one = whole if resize else alone
        return lambda: one(next(rest))

    for data in pictures:
        preprocess(data, spec, limits)  # a bad one shows here
    name = "decode" if resize else "decode_only"
    by = "cliprt with Pillow, a thread on each core" if resize else "Pillow, a thread on each core"
    works = {by: [worker(number) for number in range(cores)]}
    return _best(name, "pictures/s", works, 1.0, repeats, seconds)


def loopback(
    request_bytes: int,
    answer_bytes: int,
    *,
    repeats: int = REPEATS,
    seconds: float = SECONDS,
) -> tuple[Rate, Rate]:
    """Requests to a process on the same machine that answers without computing anything.

    Args:
        request_bytes: length of a request, 1 at least.
        answer_bytes: length of an answer, 1 at least.
        repeats: how often it is measured.
        seconds: how long, at least.

    Returns:
        ``loopback``: 10**6 bytes of requests in a second over plain TCP, with a caller for each
        core: whatever protocol carries them, the system has to do that work; and ``round_trips``:
        requests in a second of one caller, who waits for each answer, over gRPC between two
        processes of Python. That is no bound, since a server may be quicker than Python's.

    Raises:
        OSError: the other process does not start.
    """
    sizes = f"{request_bytes} bytes to {answer_bytes}"
    with ExitStack() as stack:
        plain = PlainServer(request_bytes=request_bytes, answer_bytes=answer_bytes)
        stack.callback(plain.close)
        works: list[_Work] = []
        for _ in range(usable_cores()):
            connection, call = plain.caller()
            stack.callback(connection.close)
            works.append(call)
        by = {f"plain TCP between two processes, {sizes}": works}
        carried = _best("loopback", "MB/s", by, request_bytes / 1e6, repeats, seconds)
    with ExitStack() as stack:
        server = EchoServer(answer_bytes=answer_bytes, callers=1)
        stack.callback(server.close)
        channel, request = server.channel(), bytes(request_bytes)
        stack.callback(channel.close)
        ask = channel.unary_unary(METHOD)
        by = {
            f"gRPC between two processes of Python, {sizes}": [
                lambda: ask(request, wait_for_ready=True)
            ]
        }
        return carried, _best("round_trips", "round trips/s", by, 1.0, repeats, seconds)


def memory(*, repeats: int = REPEATS, seconds: float = SECONDS) -> Rate:
    """Copies of arrays that no cache holds.

    Args:
        repeats: how often it is measured.
        seconds: how long, at least.

    Returns:
        10**9 bytes in a second that are read or written: a copied byte is two.
    """
    cores = usable_cores()
    size = min(_COPY_BYTES, _COPY_MOST // (2 * cores))

    def worker() -> _Work:
        source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
        return lambda: np.copyto(target, source)

    works = {"numpy, a copy on each core": [worker() for _ in range(cores)]}
    return _best("memory", "GB/s", works, 2 * size / 1e9, repeats, seconds)


def as_ceilings(
    rates: Sequence[Rate],
    *,
    operations: Mapping[Item, Operations] | None = None,
    item_bytes: Mapping[Item, float] | None = None,
) -> tuple[Ceiling, ...]:
    """Rates as a card tells them, with what the best repeat comes to in items of each tower.

    Texts of several lengths are told by their lengths alone.

    A tower of which most operations have 8 bits is bounded by ``matmul_int8`` (which counts those
    alone), another one by ``matmul_fp32`` and ``matmul_bf16``; pictures by ``decode`` and
    ``decode_only``; both by ``loopback``. ``round_trips`` and ``memory`` bound no items.

    Args:
        rates: what was measured.
        operations: of an item.
        item_bytes: of a request, per item.
    """
    return tuple(_as_ceiling(rate, operations or {}, item_bytes or {}) for rate in rates)


def _as_ceiling(
    rate: Rate, operations: Mapping[Item, Operations], item_bytes: Mapping[Item, float]
) -> Ceiling:
    items = _items(rate, operations, item_bytes)
    towers = [tower for tower, _ in items]
    return Ceiling(
        name=rate.name,
        figure=rate.figure,
        unit=rate.unit,
        by=rate.by,
        items_s={tower: most for (tower, _), most in items.items() if towers.count(tower) == 1},
        text_items_s={length: most for (_, length), most in items.items() if length is not None},
    )


def _items(
    rate: Rate, operations: Mapping[Item, Operations], item_bytes: Mapping[Item, float]
) -> dict[Item, float]:
    if rate.name == "matmul_int8":
        counts = {item: each.int8 for item, each in operations.items() if _in_int8(each)}
    elif rate.name.startswith("matmul_"):
        counts = {item: each.floating for item, each in operations.items() if not _in_int8(each)}
    elif rate.name == "loopback":
        return {item: rate.best * 1e6 / size for item, size in item_bytes.items() if size > 0}
    else:
        return {("image", None): rate.best} if rate.name.startswith("decode") else {}
    return {item: rate.best * 1e9 / count for item, count in counts.items() if count}


def _in_int8(operations: Operations) -> bool:
    return 2 * operations.int8 > operations.total


def _best(
    name: str,
    unit: str,
    libraries: Mapping[str, Sequence[_Work]],
    scale: float,
    repeats: int,
    seconds: float,
) -> Rate:
    """Lets libraries take turns.

    Args:
        name: of the ceiling.
        unit: of its figure.
        libraries: by what they are called, work for one thread each.
        scale: one call of a work in ``unit`` times seconds.
        repeats: how often each has its turn.
        seconds: how long it lasts, at least.
    """
    seen: dict[str, list[float]] = {library: [] for library in libraries}
    for _ in range(repeats):
        for library, works in libraries.items():
            seen[library].append(scale * calls_a_second(works, seconds))
    figures = {library: figure(values) for library, values in seen.items()}
    by = max(figures, key=lambda library: max(figures[library].repeats))
    return Rate(name, figures[by], unit, by)


def calls_a_second(works: Sequence[_Work], seconds: float) -> float:
    """How often works are done in a second, each in a thread of its own, all at the same time.

    Each is done once before that, and once at least while the time is taken.
    """
    together = threading.Barrier(len(works))

    def repeat(work: _Work) -> float:
        try:
            work()
            together.wait()
        except BaseException:
            together.abort()  # or the others would wait for ever
            raise
        begun = time.perf_counter()
        done = 0
        while True:
            work()
            done += 1
            if (took := time.perf_counter() - begun) >= seconds:
                return done / took

    with ThreadPoolExecutor(len(works)) as pool:
        started = [pool.submit(repeat, work) for work in works]
        errors = [error for future in started if (error := future.exception()) is not None]
        # What broke the barrier is told, not that it is broken.
        for error in sorted(
            errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)
        ):
            raise error
        return sum(future.result() for future in started)
