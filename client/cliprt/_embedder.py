"""From pictures and strings to embeddings, whoever computes the towers: a server or this process.

What callers can tell apart is decided here for all: which inputs are refused and with which words,
how a call is cut into batches, and in which order its answers come back.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from functools import partial
from itertools import chain, islice
from numbers import Integral
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cliprt._arguments import iterate
from cliprt._batch import Batch, Call, Options, Result
from cliprt._card import Card
from cliprt._decoding import Decoder
from cliprt._errors import (
    CliprtError,
    InvalidInput,
    ModelUnavailable,
    ServerError,
    closed,
)
from cliprt._images import ImageInput, is_single_image
from cliprt._known import NORM_TOLERANCE
from cliprt._progress import progress
from cliprt._steps import Pending, Steps
from cliprt._texts import TextTokenizer
from cliprt._zero_shot import probabilities

# Texts that are tokenized and sorted by length together: enough that those of a batch are of
# similar length, few enough that a call of any length holds little and begins to compute at once.
_TEXTS = 2048

# Batches that are looked at ahead in order to cut the last ones evenly, once all are busy.
_AHEAD = 4


class Start(Protocol):
    """Begins to compute a batch."""

    def __call__(self, tower: str, batch: Batch, behind: int) -> Pending:
        """Begins.

        Args:
            tower: ``image`` or ``text``.
            batch: makes the tower's input, when it is asked to.
            behind: how many batches of the same call are under way before this one.
        """


class Embedder:
    """What every way of computing embeddings has in common."""

    def __init__(
        self,
        card: Card,
        *,
        names: dict[str, str],
        batches: dict[str, int],
        most: dict[str, int],
        in_flight: int,
        parts: int = 1,
        lengths: Sequence[int] = (),
        decoder: Decoder | None = None,
        advice: str = "check the server's model",
    ) -> None:
        """Takes what does not change from call to call.

        Args:
            card: how the towers are fed.
            names: by tower, what computes it and where, for error messages.
            batches: by tower, items of a batch unless a call says otherwise.
            most: by tower, most items of a batch that a call may ask for.
            in_flight: batches of one call that may be under way at once.
            parts: into how many batches even a small call is cut, where several are computed at
                once.
            lengths: the only lengths that texts are filled up to, ascending; none where any
                length is welcome.
            decoder: prepares the pictures of a batch; None where there is no image tower.
            advice: what to do about answers that cannot be right, for error messages.
        """
        self._card = card
        self._names = names
        self._batches = batches
        self._most = most
        self._in_flight = in_flight
        self._parts = parts
        self._lengths = lengths
        self._decoder = decoder
        self._advice = advice

    def encode_image(
        self,
        images: ImageInput | Iterable[ImageInput],
        start: Start,
        options: Options,
    ) -> Steps[Result]:
        """Embeds pictures, in the order of the input.

        Raises:
            InvalidInput: an item is no usable image, or there is none.
            ServerError: an answer cannot be right.
        """
        items: Iterable[ImageInput] = [images] if is_single_image(images) else images  # type: ignore[list-item, assignment]
        size = self._size("image", options)
        call = Call(self._card, options)
        assert self._decoder is not None
        batches = (
            Batch(
                call,
                range(first, first + len(batch)),
                partial(self._decoder.prepare, first, batch),
            )
            for first, batch in self._cut(iterate(items, "images"), size)
        )
        with progress("images", items, show=options.show_progress) as call.advance:
            return (yield from self._embed("image", call, batches, start))

    def encode_text(
        self,
        tokenizer: TextTokenizer,
        texts: Iterator[str],
        start: Start,
        options: Options,
        *,
        given: object = None,
    ) -> Steps[Result]:
        """Embeds texts, those of ``each_text``, in the order of the input.

        Args:
            tokenizer: makes tokens.
            texts: the texts.
            start: begins to compute a batch.
            options: of the call.
            given: what the caller passed; its length is how many texts there are.

        Raises:
            InvalidInput: an item is no usable text.
            ServerError: an answer cannot be right.
        """
        size = self._size("text", options)
        call = Call(self._card, options)
        batches = self._text_batches(tokenizer, texts, call, size)
        with progress("texts", given, show=options.show_progress) as call.advance:
            return (yield from self._embed("text", call, batches, start))

    def classify(
        self,
        labels: Sequence[str],
        encode_text: Callable[[Sequence[str]], Steps[Result]],
        encode_image: Callable[[], Steps[Result]],
    ) -> Steps[NDArray[np.float32]]:
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
            texts = yield from encode_text(labels)
        except InvalidInput as error:
            # Two lists go in: the index alone would not say which one is meant.
            raise type(error)(error.reason, index=error.index, what="label") from None
        images = yield from encode_image()
        assert isinstance(images, np.ndarray)
        assert isinstance(texts, np.ndarray)
        return probabilities(images, texts, scale, self._card.logit_bias)

    def _size(self, tower: str, options: Options) -> int:
        """Items of a batch."""
        if options.batch_size is None:
            return self._batches[tower]
        whole = isinstance(options.batch_size, Integral)
        if not whole or not 1 <= options.batch_size <= self._most[tower]:
            raise InvalidInput(
                f"batch_size must be a whole number from 1 to {self._most[tower]}, the most that "
                f"{self._names[tower]} takes at once, got {options.batch_size}"
            )
        return options.batch_size

    def _text_batches(
        self, tokenizer: TextTokenizer, texts: Iterator[str], call: Call, size: int
    ) -> Iterator[Batch]:
        """Batches of texts of similar length."""
        first = 0
        while chunk := list(islice(texts, _TEXTS)):
            ids: dict[int, array[int]] = {}
            tokenized = tokenizer.each(chunk, first=first, truncate=call.options.truncate)
            for row, item in enumerate(tokenized, start=first):
                if isinstance(item, InvalidInput):
                    call.fail(row, item)
                else:
                    # Plain lists of integers take nine times as much memory.
                    ids[row] = array("i", item)
            # Texts of similar length share a batch, so that short ones are not padded to long ones.
            ranked = sorted(ids, key=lambda row: len(ids[row]))
            for _, rows in self._cut(iter(ranked), size):
                make = partial(tokenizer.pad, [ids[row] for row in rows], lengths=self._lengths)
                yield Batch(call, rows, make)
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
        self, tower: str, call: Call, batches: Iterable[Batch], start: Start
    ) -> Steps[Result]:
        """Starts batches, a few at once, and takes their answers in order."""
        pending: deque[tuple[Batch, Pending]] = deque()
        try:
            for batch in batches:
                if len(pending) == self._in_flight:
                    yield pending[0][1]
                    self._take(tower, call, *pending[0])
                    pending.popleft()
                pending.append((batch, start(tower, batch, len(pending))))
            while pending:
                yield pending[0][1]
                self._take(tower, call, *pending[0])
                pending.popleft()
        finally:
            # An error holds this frame, and a batch that failed holds the error: no circle of them
            # may keep the caller's pictures.
            while pending:
                pending.pop()[1].cancel()
        return call.result()

    def _take(self, tower: str, call: Call, batch: Batch, pending: Pending) -> None:
        """Takes the answer to a batch, or the reason why there is none."""
        try:
            embeddings = pending.result()
            self._check_answer(tower, len(batch.rows), embeddings)
        except CancelledError:
            raise closed() from None
        except CliprtError as error:
            call.fail_request(batch, error)
        else:
            call.take(batch, embeddings)
        finally:
            del pending  # it holds the error that it raises, and that one this frame

    def _check_answer(self, tower: str, rows: int, embeddings: NDArray[Any]) -> None:
        """Refuses an answer that cannot be right: of another shape, not finite, not of length 1."""
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
        if not np.all(np.abs(lengths - 1) <= NORM_TOLERANCE):
            raise ServerError(
                f"{self._names[tower]} answered embeddings that are not of length 1 "
                f"(from {lengths.min():g} to {lengths.max():g}); {self._advice}"
            )


def each_text(texts: str | Iterable[str]) -> Iterator[str]:
    """The texts of a call, one after the other.

    Raises:
        InvalidInput: at once, if it is no list of texts or an empty one.
    """
    items = iter([texts]) if isinstance(texts, str) else iterate(texts, "texts")
    return chain([next(items)], items)
