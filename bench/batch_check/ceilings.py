"""What decoding alone and encoding alone reach: `ceilings.py decode|encode ...`, a process each.

Both use what the pipeline uses, in the same numbers and sizes: its pool of processes, its encoder,
its windows. The rate is that between the first window that is ready and the last one before work
runs out, so that neither beginning nor end count.

Each line of standard input asks for a rate, which is printed as JSON: the model stays in memory,
so that encoding alone can be measured by turns with a job.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cliprt import Limits, open_bundle
from cliprt._card import ImageSpec
from cliprt._cores import usable_cores
from cliprt_batch._decode_pool import DecodePool, Window
from cliprt_batch._decode_process import Order
from cliprt_batch._encoders import WINDOW, LocalEncoder
from cliprt_batch._items import Ref
from cliprt_engines import LocalClip

_Answer = TypeVar("_Answer")

# Windows of pixels that are encoded again and again: more than any cache holds.
_KEPT = 8

# Windows from which on beginning and end of a measurement can be left out.
_ENOUGH = 3


def pool_of(spec: ImageSpec, slots: int) -> DecodePool:
    """The pipeline's own pool."""
    order = Order(spec, Limits(), False, slots, WINDOW)
    return DecodePool(order, workers=usable_cores(), worked=lambda seconds: None)


def windows(files: Sequence[str]) -> Iterator[list[Ref | bytes]]:
    """Files, so many as are decoded in one go."""
    remaining = iter(files)
    while some := list(islice(remaining, WINDOW)):
        yield [Ref(name) for name in some]


def decode(spec: ImageSpec, files: Sequence[str], seconds: float) -> float:
    """Files in a second that are read and decoded, and then forgotten."""
    room = 2 * usable_cores()
    pool = pool_of(spec, room + 1)

    def forget(window: Window) -> int:
        for seen in window.seen:
            if seen.stage is not None:
                raise SystemExit(f"a picture cannot be decoded: {seen.reason}")
        window.free()
        return len(window.seen)

    try:
        first = next(windows(files))
        for started in [pool.submit(first) for _ in range(usable_cores())]:
            forget(started.result())
        return _rate((pool.submit(images) for images in windows(files)), forget, room, seconds)
    finally:
        pool.close()


@contextmanager
def encoding(
    bundle: Path, precision: Any, files: Sequence[str]
) -> Iterator[Callable[[float], float]]:
    """A function of seconds: pictures in one that are embedded, from pixels in memory."""
    with LocalClip(bundle, precision=precision) as clip:
        encoder = LocalEncoder(clip, ("image",), truncate=True)
        assert clip.card.image is not None
        kept = cycle(_pixels(clip.card.image, files[: _KEPT * WINDOW]))
        with ThreadPoolExecutor(encoder.threads) as threads:
            encoder.images(next(kept))

            def rate(seconds: float) -> float:
                begun = (threads.submit(encoder.images, window) for window in kept)
                return _rate(begun, len, encoder.threads, seconds)

            yield rate


def _rate(
    begun: Iterable[Future[_Answer]], forget: Callable[[_Answer], int], room: int, seconds: float
) -> float:
    """Items in a second, while there was enough to do for everybody.

    Args:
        begun: the windows, each begun when it is asked for.
        forget: is given what became of each, and tells how many items it had.
        room: how many are under way at once.
        seconds: no more are begun after that.
    """
    pending: deque[Future[_Answer]] = deque()
    ready: list[tuple[float, int]] = []

    def take() -> None:
        items = forget(pending.popleft().result())
        ready.append((time.monotonic(), items))

    starts = time.monotonic()
    for future in begun:
        pending.append(future)
        if len(pending) > room:
            take()
        if time.monotonic() > starts + seconds:
            break
    busy = len(ready)
    while pending:
        take()
    if busy < _ENOUGH:  # few files are over before they keep everybody busy
        return sum(items for _, items in ready) / (ready[-1][0] - starts)
    return sum(items for _, items in ready[1:busy]) / (ready[busy - 1][0] - ready[0][0])


def _pixels(spec: ImageSpec, files: Sequence[str]) -> list[NDArray[np.uint8]]:
    pool, found = pool_of(spec, 2), []
    try:
        for images in windows(files):
            window = pool.submit(images).result()
            found.append(window.pixels[: len(images)].copy())
            window.free()
    finally:
        pool.close()
    return found


def main() -> None:
    """Reads seconds, a line each, and prints rates as JSON."""
    parser = argparse.ArgumentParser(description="Decoding alone, or encoding alone.")
    parser.add_argument("what", choices=("decode", "encode"))
    parser.add_argument("bundle", type=Path)
    parser.add_argument("list", type=Path, help="a path a line")
    parser.add_argument("--precision", default="fp32")
    arguments = parser.parse_args()
    files = arguments.list.read_text().splitlines()
    if arguments.what == "decode":
        spec = open_bundle(arguments.bundle).card.image
        assert spec is not None
        _answer(partial(decode, spec, files))
    else:
        with encoding(arguments.bundle, arguments.precision, files) as rate:
            _answer(rate)


def _answer(rate: Callable[[float], float]) -> None:
    for line in sys.stdin:
        print(json.dumps({"rate": rate(float(line))}), flush=True)


if __name__ == "__main__":
    main()
