"""From pictures and strings to embeddings, whoever computes the towers: a server or this process.

What callers can tell apart is decided here for both: which inputs are refused and with which words,
how a call is cut into batches, and in which order its answers come back.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from functools import partial
from itertools import chain, islice
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cliprt._arguments import iterate
from cliprt._card import Card, ImageSpec
from cliprt._errors import ClosedError, InvalidInput, ModelUnavailable, ServerError
from cliprt._images import ImageInput, is_single_image, preprocess
from cliprt._limits import Limits
from cliprt._texts import TextTokenizer
from cliprt._zero_shot import probabilities

# How far the length of an embedding may be from 1: far above rounding, far below a broken tower.
_NORM_TOLERANCE = 1e-3

# Texts that are tokenized and sorted by length together: enough that those of a batch are of
# similar length, few enough that a call of any length holds little and begins to compute at once.
_TEXTS = 2048

# Batches that are looked at ahead in order to cut the last ones evenly, once all are busy.
_AHEAD = 4

Prepare: TypeAlias = Callable[[], NDArray[Any]]
"""Makes a tower's input: pixels [batch, height, width, 3] or tokens [batch, length]."""


class Pending(Protocol):
    """A batch under way."""

    def result(self) -> NDArray[Any]:
        """Waits for its embeddings."""

    def cancel(self) -> object:
        """Lets go of it."""


class Start(Protocol):
    """Begins to compute a batch."""

    def __call__(self, tower: str, prepare: Prepare, behind: int) -> Pending:
        """Begins.

        Args:
            tower: ``image`` or ``text``.
            prepare: makes the input.
            behind: how many batches of the same call are under way before this one.
        """


class Embedder:
    """What every way of computing embeddings has in common."""

    def __init__(
        self,
        card: Card,
        limits: Limits,
        *,
        names: dict[str, str],
        batches: dict[str, int],
        in_flight: int,
        parts: int = 1,
        pool: ThreadPoolExecutor | None = None,
        advice: str = "check the server's model",
    ) -> None:
        """Takes what does not change from call to call.

        Args:
            card: how the towers are fed.
            limits: bounds on the inputs.
            names: by tower, what computes it and where, for error messages.
            batches: by tower, most items of a batch.
            in_flight: batches of one call that may be under way at once.
            parts: into how many batches even a small call is cut, where several are computed at
                once.
            pool: prepares the pictures of a batch on several threads; None prepares them one after
                the other.
            advice: what to do about answers that cannot be right, for error messages.
        """
        self._card = card
        self._limits = limits
        self._names = names
        self._batches = batches
        self._in_flight = in_flight
        self._parts = parts
        self._pool = pool
        self._advice = advice

    def encode_image(
        self, spec: ImageSpec, images: ImageInput | Iterable[ImageInput], start: Start
    ) -> NDArray[np.float32]:
        """Embeds pictures: float32 [n, dim], in the order of the input.

        Raises:
            InvalidInput: an item is no usable image, or there is none.
            ServerError: an answer cannot be right.
        """
        items: Iterable[ImageInput] = [images] if is_single_image(images) else images  # type: ignore[list-item, assignment]
        batches = (
            (len(batch), partial(self._prepare_images, spec, first, batch))
            for first, batch in self._cut(iterate(items, "images"), self._batches["image"])
        )
        return self._embed("image", batches, start)

    def encode_text(
        self,
        tokenizer: TextTokenizer,
        texts: Iterator[str],
        start: Start,
        *,
        truncate: bool = True,
    ) -> NDArray[np.float32]:
        """Embeds texts, those of ``each_text``: float32 [n, dim], in the order of the input.

        Raises:
            InvalidInput: an item is no usable text.
            ServerError: an answer cannot be right.
        """
        order: list[int] = []
        batches = self._text_batches(tokenizer, texts, order, truncate)
        embeddings = self._embed("text", batches, start)
        restored = np.empty_like(embeddings)
        restored[order] = embeddings
        return restored

    def classify(
        self,
        labels: Sequence[str],
        encode_text: Callable[[Sequence[str]], NDArray[np.float32]],
        encode_image: Callable[[], NDArray[np.float32]],
    ) -> NDArray[np.float32]:
        """How probable each label is for each picture: float32 [n, len(labels)].

        Args:
            labels: the texts to choose from.
            encode_text: embeds them.
            encode_image: embeds the pictures.

        Raises:
            InvalidInput: a picture or a label cannot be embedded.
            ModelUnavailable: the checkpoint has no logit scale.
        """
        if (scale := self._card.logit_scale) is None:
            raise ModelUnavailable(
                f"{self._card.name} has no logit scale, so that similarities cannot be turned into "
                "probabilities; serve a checkpoint of both towers"
            )
        try:
            texts = encode_text(labels)
        except InvalidInput as error:
            # Two lists go in: the index alone would not say which one is meant.
            raise type(error)(error.reason, index=error.index, what="label") from None
        return probabilities(encode_image(), texts, scale, self._card.logit_bias)

    def _text_batches(
        self, tokenizer: TextTokenizer, texts: Iterator[str], order: list[int], truncate: bool
    ) -> Iterator[tuple[int, Prepare]]:
        """Batches of texts; the index of each text is added to order as it is taken."""
        first = 0
        while chunk := list(islice(texts, _TEXTS)):
            # Plain lists of integers take nine times as much memory.
            ids = [array("i", item) for item in tokenizer(chunk, first=first, truncate=truncate)]
            # Texts of similar length share a batch, so that short ones are not padded to long ones.
            ranked = sorted(range(len(ids)), key=lambda index: len(ids[index]))
            for _, batch in self._cut(iter(ranked), self._batches["text"]):
                order.extend(first + index for index in batch)
                yield len(batch), partial(tokenizer.pad, [ids[index] for index in batch])
            first += len(chunk)

    def _cut(self, items: Iterator[Any], size: int) -> Iterator[tuple[int, list[Any]]]:
        """Batches of items, each with the index of its first; the last ones of even size."""
        first, parts = 0, self._parts
        while window := list(islice(items, size * parts)):
            step = min(size, -(-len(window) // parts))
            for start in range(0, len(window), step):
                yield first + start, window[start : start + step]
            first += len(window)
            # The first window occupies everybody. What is read from now on only waits.
            parts = min(parts, _AHEAD)

    def _embed(
        self, tower: str, batches: Iterable[tuple[int, Prepare]], start: Start
    ) -> NDArray[np.float32]:
        """Starts batches, a few at once, and returns their answers in order."""
        pending: deque[tuple[int, Pending]] = deque()
        answers: list[NDArray[np.float32]] = []
        try:
            for rows, prepare in batches:
                if len(pending) == self._in_flight:
                    answers.append(self._checked_answer(tower, *pending[0]))
                    pending.popleft()
                pending.append((rows, start(tower, prepare, len(pending))))
            while pending:
                answers.append(self._checked_answer(tower, *pending[0]))
                pending.popleft()
        finally:
            # An error holds this frame, and a batch that failed holds the error: no circle of them
            # may keep the caller's pictures.
            while pending:
                pending.pop()[1].cancel()
        return np.concatenate(answers)

    def _checked_answer(self, tower: str, rows: int, answer: Pending) -> NDArray[np.float32]:
        """An answer that can be right: its shape fits and every row is finite and of length 1."""
        try:
            embeddings = answer.result()
        except CancelledError:
            raise closed() from None
        finally:
            del answer  # it holds the error that it raises, and that one this frame
        if not isinstance(embeddings, np.ndarray):
            raise ServerError(
                f"{self._names[tower]} answered {type(embeddings).__name__}, "
                f"expected float32 {[rows, self._card.dim]}"
            )
        if embeddings.shape != (rows, self._card.dim) or embeddings.dtype != np.float32:
            raise ServerError(
                f"{self._names[tower]} answered {embeddings.dtype} {list(embeddings.shape)}, "
                f"expected float32 {[rows, self._card.dim]}"
            )
        lengths = np.linalg.norm(embeddings, axis=1)
        if not np.all(np.abs(lengths - 1) <= _NORM_TOLERANCE):
            raise ServerError(
                f"{self._names[tower]} answered embeddings that are not of length 1 "
                f"(from {lengths.min():g} to {lengths.max():g}); {self._advice}"
            )
        return embeddings

    def _prepare_images(
        self, spec: ImageSpec, first: int, images: Sequence[ImageInput]
    ) -> NDArray[np.uint8]:
        """Preprocesses a batch; Pillow computes without the interpreter lock."""
        limits = self._limits

        def prepare(indexed: tuple[int, ImageInput]) -> NDArray[np.uint8]:
            index, image = indexed
            try:
                return preprocess(image, spec, limits)
            except InvalidInput as error:
                raise type(error)(error.reason, index=index) from None

        jobs = list(enumerate(images, start=first))
        if len(jobs) == 1 or self._pool is None:
            return np.stack([prepare(job) for job in jobs])
        try:
            prepared = self._pool.map(prepare, jobs)  # cancels the others where one fails
        except RuntimeError:  # the pool was shut down by close() in another thread
            raise closed() from None
        try:
            return np.stack(list(prepared))
        except CancelledError:
            raise closed() from None


def each_text(texts: str | Iterable[str]) -> Iterator[str]:
    """The texts of a call, one after the other.

    Raises:
        InvalidInput: at once, if it is no list of texts or an empty one.
    """
    items = iter([texts]) if isinstance(texts, str) else iterate(texts, "texts")
    return chain([next(items)], items)


def closed() -> ClosedError:
    """What a call after close() raises."""
    return ClosedError("the client is closed; make a new one")
