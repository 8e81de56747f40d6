"""One call: what the caller asked for, the batches it is cut into, and what became of its items."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from cliprt._card import Card
from cliprt._errors import CliprtError, InvalidInput, RetryableError, ServerError
from cliprt._progress import Advance
from cliprt._space import Embeddings

OnError: TypeAlias = Literal["raise", "skip", "return"]

Item: TypeAlias = Embeddings | CliprtError
"""What became of an item: its embedding, float32 [dim], or why there is none."""

Result: TypeAlias = Embeddings | list[Item]
"""Embeddings, float32 [n, dim], or with ``on_error="return"`` what became of each item."""


@dataclass(frozen=True)
class Options:
    """What a caller may choose for one call.

    Attributes:
        on_error: what becomes of items that cannot be embedded. ``raise``: the first one ends the
            call. ``skip``: they are left out. ``return``: their errors stand in their place.
        batch_size: items of a request; None leaves the choice to cliprt.
        show_progress: whether standard error shows how far the call is.
        truncate: whether texts beyond the context are cut or refused.
    """

    on_error: OnError = "raise"
    batch_size: int | None = None
    show_progress: bool = False
    truncate: bool = True

    def __post_init__(self) -> None:
        if self.on_error not in get_args(OnError):
            raise ValueError(
                f"on_error must be one of {', '.join(get_args(OnError))}, got {self.on_error!r}"
            )


class Call:
    """A call under way."""

    def __init__(self, card: Card, options: Options) -> None:
        """Begins without items.

        Args:
            card: of the model that is called.
            options: what the caller chose.
        """
        self.options = options
        self.advance: Advance = _nowhere
        self._card = card
        self._found: list[tuple[Sequence[int], NDArray[np.float32]]] = []
        self._failed: dict[int, CliprtError] = {}

    def take(self, batch: Batch, embeddings: NDArray[np.float32]) -> None:
        """Keeps the answer to a batch, float32 [len(batch.rows), dim]."""
        self._found.append((batch.rows, embeddings))
        self.advance(len(batch.rows))

    def fail(self, row: int, error: InvalidInput) -> None:
        """Notes an item that cannot be embedded, or ends the call with its error."""
        if self.options.on_error == "raise":
            try:
                raise error
            finally:
                del error  # it holds this frame: no circle may keep the caller's pictures
        self._failed[row] = error
        self.advance(1)

    def fail_request(self, batch: Batch, error: CliprtError) -> None:
        """Notes that a batch got no answer, or ends the call with the reason.

        Only a caller who wants to know what became of each item is told so in this way; to leave
        good items out would be a loss.
        """
        kinds = (RetryableError, ServerError)
        if self.options.on_error != "return" or not isinstance(error, kinds):
            try:
                raise error
            finally:
                del error  # as above
        # Where it was raised no longer matters; the frames of that place hold the pictures.
        error.__traceback__ = error.__context__ = None
        for row in batch.rows:
            self._failed[row] = error
        self.advance(len(batch.rows))

    def result(self) -> Result:
        """What the caller gets."""
        if self.options.on_error != "return":
            return Embeddings.of(self._embeddings(), self._card.space)
        items: list[Item] = [None] * self._count()  # type: ignore[list-item]
        for row, error in self._failed.items():
            items[row] = error
        for rows, embeddings in self._found:
            labelled = Embeddings.of(embeddings, self._card.space)
            for row, embedding in zip(rows, labelled, strict=True):
                # Answers are read-only, and who keeps one item need not keep its batch.
                items[row] = embedding.copy()
        return items

    def _embeddings(self) -> NDArray[np.float32]:
        """Embeddings in the order of the input."""
        joined = np.empty((self._count() - len(self._failed), self._card.dim), np.float32)
        # With failures in between, an item's place is what its row ranks among those embedded.
        ranks = self._ranks() if self._failed else None
        while self._found:
            rows, embeddings = self._found.pop()
            joined[rows if ranks is None else [ranks[row] for row in rows]] = embeddings
        return joined

    def _ranks(self) -> dict[int, int]:
        rows = sorted(row for rows, _ in self._found for row in rows)
        return {row: rank for rank, row in enumerate(rows)}

    def _count(self) -> int:
        return sum(len(rows) for rows, _ in self._found) + len(self._failed)


class Batch:
    """Items of a call that share a request.

    Attributes:
        rows: their places in the call; once the input is made, of those that it holds.
    """

    def __init__(
        self,
        call: Call,
        rows: Sequence[int],
        prepare: Callable[[], NDArray[Any] | Sequence[NDArray[Any] | InvalidInput]],
    ) -> None:
        """Prepares nothing yet.

        Args:
            call: whose items they are.
            rows: their places in the call.
            prepare: makes the tower's input, or the input of each item or why there is none.
        """
        self.rows = rows
        self._call = call
        self._prepare = prepare

    def make(self) -> NDArray[Any] | None:
        """The tower's input.

        Returns:
            Pixels [batch, height, width, 3] or tokens [batch, length]; None if no item is left.

        Raises:
            InvalidInput: an item cannot be embedded, and the caller wants to be told so at once.
        """
        made = self._prepare()
        if isinstance(made, np.ndarray):
            return made
        rows, good = [], []
        try:
            for row, item in zip(self.rows, made, strict=True):
                if isinstance(item, InvalidInput):
                    self._call.fail(row, item)
                else:
                    rows.append(row)
                    good.append(item)
        finally:
            del made, item  # an error holds this frame, as above
        if len(rows) < len(self.rows):
            self.rows = rows
        return np.stack(good) if good else None


def _nowhere(items: int) -> None:
    """Nobody asked how far the call is."""
