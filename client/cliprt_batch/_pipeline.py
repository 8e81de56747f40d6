"""Reading, decoding and embedding at the same time: parts go in and come out in order."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from cliprt._errors import ModelUnavailable
from cliprt._limits import Limits
from cliprt_batch._decode_pool import DecodePool, Window
from cliprt_batch._decode_process import Order, Seen
from cliprt_batch._encoders import Encoder, Text
from cliprt_batch._items import Item, Ref
from cliprt_batch._outcome import Part

_Label = TypeVar("_Label")

# Windows that lie decoded, or wait to be decoded, besides those that somebody is busy with.
_SPARE = 2


@dataclass(frozen=True)
class Chunk(Generic[_Label]):
    """Consecutive items of a part, whose pictures are decoded and embedded together.

    Attributes:
        label: whatever tells the caller which part it is.
        rows: places of the items in their unit.
        items: the items, at most as many as the encoder's window.
        ends: whether the part is complete with them.
    """

    label: _Label
    rows: Sequence[int]
    items: Sequence[Item]
    ends: bool


@dataclass
class Times:
    """Seconds in which each stage was at work, and by how many at once it can be done.

    Attributes:
        busy_s: by stage, added up over all who do it.
        hands: by stage, how many those are.
    """

    busy_s: dict[str, float] = field(default_factory=dict)
    hands: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, stage: str, seconds: float) -> None:
        """Adds work."""
        with self._lock:
            self.busy_s[stage] = self.busy_s.get(stage, 0.0) + seconds

    def shares(self, wall_s: float) -> dict[str, float]:
        """By stage, the part of the time that it was busy in, 0 to 1."""
        with self._lock:
            return {
                stage: min(1.0, busy_s / (self.hands.get(stage, 1) * wall_s)) if wall_s > 0 else 0.0
                for stage, busy_s in self.busy_s.items()
            }

    def slowest(self, wall_s: float) -> str | None:
        """The stage that was busy most of the time; the others wait for it."""
        shares = self.shares(wall_s)
        return max(shares, key=lambda stage: shares[stage]) if shares else None


class Pipeline:
    """Processes that decode, threads that embed, and bounded room between them.

    What limits the whole is the slowest stage: nobody works further ahead of it than there are
    windows of shared memory, and it never waits while there is work.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        towers: tuple[str, ...],
        limits: Limits,
        workers: int,
        fast_jpeg: bool,
        times: Times,
    ) -> None:
        """Starts no process before there are pictures.

        Args:
            encoder: computes the embeddings.
            towers: which ones.
            limits: bounds on pictures.
            workers: processes that decode.
            fast_jpeg: whether large JPEG files are decoded at a part of their size.
            times: gets the time of each stage.

        Raises:
            ModelUnavailable: the model has no such tower.
        """
        card = encoder.card
        for tower in towers:
            if getattr(card, tower) is None:
                raise ModelUnavailable(f"{card.name} has no {tower} tower")
        self._encoder, self._towers, self._dim, self._times = encoder, towers, card.dim, times
        self._room = 2 * workers + encoder.threads + _SPARE
        self._pool: DecodePool | None = None
        if "image" in towers:
            assert card.image is not None
            self._pool = DecodePool(
                Order(card.image, limits, fast_jpeg, self._room, encoder.window),
                workers=workers,
                worked=lambda seconds: times.add("decode", seconds),
            )
            times.hands["decode"] = workers
        times.hands["encode"] = encoder.threads
        self._threads = ThreadPoolExecutor(encoder.threads, thread_name_prefix="cliprt-encode")
        self._pending: deque[_Pending[Any]] = deque()

    def run(
        self, chunks: Iterable[Chunk[_Label]], advance: Callable[[int, int], None]
    ) -> Iterator[tuple[_Label, Part]]:
        """Embeds chunks.

        Args:
            chunks: read as they are needed.
            advance: is told how many items more are done, and how many of these failed.

        Yields:
            Each chunk's label and part, in order.

        Raises:
            CliprtError: something failed that is no item's fault.
        """
        try:
            part = self._new_part()
            for chunk in self._timed(chunks):
                if pictures := part.add(chunk.rows, chunk.items):
                    yield from self._make_room(advance)
                    self._pending.append(self._begin_pictures(part, pictures))
                if chunk.ends:
                    if part.captions:
                        yield from self._make_room(advance)
                        self._pending.append(self._begin_captions(part))
                    self._pending.append(_Pending(None, part.told, (chunk.label, part)))
                    part = self._new_part()
                # Also what is done without being waited for: it need not stay in memory.
                while self._pending and self._pending[0].is_done():
                    yield from self._settle(advance)
            while self._pending:
                yield from self._settle(advance)
        finally:
            # After an error, what is under way belongs to no part that anybody waits for.
            while self._pending:
                self._pending.popleft().drop()

    def close(self) -> None:
        """Ends processes and threads, whatever they are at."""
        if self._pool is not None:
            self._pool.close()
        self._threads.shutdown(cancel_futures=True)

    def _timed(self, chunks: Iterable[Chunk[_Label]]) -> Iterator[Chunk[_Label]]:
        """The chunks; the time that the source takes counts as reading."""
        remaining = iter(chunks)
        while True:
            begun = time.monotonic()
            chunk = next(remaining, None)
            self._times.add("read", time.monotonic() - begun)
            if chunk is None:
                return
            yield chunk

    def _new_part(self) -> Part:
        return Part(self._towers, self._dim)

    def _make_room(self, advance: Callable[[int, int], None]) -> Iterator[tuple[Any, Part]]:
        while len(self._pending) >= self._room:
            yield from self._settle(advance)

    def _begin_pictures(self, part: Part, pictures: dict[int, Ref | bytes]) -> _Pending[Any]:
        assert self._pool is not None
        places = list(pictures)
        decoded = self._pool.submit(list(pictures.values()))
        future = self._threads.submit(self._embed, decoded)
        return _Pending(future, lambda found: part.take_pictures(places, *found), decoded=decoded)

    def _begin_captions(self, part: Part) -> _Pending[Any]:
        places, captions = list(part.captions), list(part.captions.values())
        future = self._threads.submit(self._texts, captions)
        return _Pending(future, partial(part.take_captions, places))

    def _embed(self, decoded: Future[Window]) -> tuple[Sequence[Seen], NDArray[np.float32]]:
        window = decoded.result()
        begun = time.monotonic()
        try:
            good = [row for row, seen in enumerate(window.seen) if seen.stage is None]
            if not good:
                return window.seen, np.empty((0, self._dim), np.float32)
            whole = len(good) == len(window.seen)
            pixels = window.pixels[: len(good)] if whole else window.pixels[good]
            return window.seen, self._encoder.images(pixels)
        finally:
            window.free()
            self._times.add("encode", time.monotonic() - begun)

    def _texts(self, captions: Sequence[str]) -> list[Text]:
        begun = time.monotonic()
        try:
            return self._encoder.texts(captions)
        finally:
            self._times.add("encode", time.monotonic() - begun)

    def _settle(self, advance: Callable[[int, int], None]) -> Iterator[tuple[Any, Part]]:
        """Takes the oldest of what is under way, waiting for it; gives a part that is complete."""
        pending = self._pending[0]
        advance(*pending.settle())
        self._pending.popleft()
        if pending.complete is not None:
            yield pending.complete


class _Pending(Generic[_Label]):
    """Something under way, or the mark that all before it makes a part."""

    def __init__(
        self,
        future: Future[Any] | None,
        take: Callable[..., tuple[int, int]],
        complete: tuple[_Label, Part] | None = None,
        *,
        decoded: Future[Window] | None = None,
    ) -> None:
        self.complete = complete
        self._future, self._take, self._decoded = future, take, decoded

    def is_done(self) -> bool:
        return self._future is None or self._future.done()

    def settle(self) -> tuple[int, int]:
        """Waits; how many items more are done, and how many of these failed."""
        return self._take() if self._future is None else self._take(self._future.result())

    def drop(self) -> None:
        """Lets it go; the window that nobody will embed is given back."""
        if self._future is not None and self._future.cancel() and self._decoded is not None:
            self._decoded.add_done_callback(_free)


def _free(decoded: Future[Window]) -> None:
    if not decoded.cancelled() and decoded.exception() is None:
        decoded.result().free()
