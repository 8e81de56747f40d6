"""Towers in the place of engines: one that does what an engine should, and ways to break it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliprt import Bundle, InvalidInput
from cliprt_engines import Engine, OnnxTower, TowerInfo

Floats = NDArray[np.float32]
Change = Callable[["Sound", NDArray[Any], Floats], Floats]


class Sound:
    """A tower that does what an engine should: cuts batches, refuses foreign ids."""

    def __init__(self, engine: Engine, bundle: Bundle) -> None:
        recipe = engine.manifest.recipe
        self.inner = OnnxTower(bundle.file(f"{recipe.tower}.fp32.onnx"), threads=1)
        self.most = recipe.profiles[0].batch.most
        assert bundle.card.text is not None
        self.vocabulary = bundle.card.text.vocabulary
        self.former: dict[tuple[int, ...], Floats] = {}
        self.closed = False

    @property
    def info(self) -> TowerInfo:
        return self.inner.info

    def run(self, batch: NDArray[Any]) -> Floats:
        self.check(batch)
        return self.inner.run(batch)

    def check(self, batch: NDArray[Any]) -> None:
        if batch.dtype == np.int32 and not 0 <= batch.min() <= batch.max() < self.vocabulary:
            raise InvalidInput("there is no such token id")

    def close(self) -> None:
        self.closed = True


def broken(change: Change) -> type[Sound]:
    class Broken(Sound):
        def run(self, batch: NDArray[Any]) -> Floats:
            return change(self, batch, super().run(batch))

    return Broken


def normal(rows: NDArray[Any]) -> Floats:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def stale(tower: Sound, batch: NDArray[Any], right: Floats) -> Floats:
    """From the third run of a shape on, the answer to the batch before, as a bad graph gives."""
    runs = tower.__dict__.setdefault("runs", {})
    runs[batch.shape] = runs.get(batch.shape, 0) + 1
    former = tower.former.get(batch.shape, right)
    tower.former[batch.shape] = right
    return former if runs[batch.shape] > 2 else right


def stale_at(chosen: Callable[[Sound, int], slice]) -> Change:
    """Stale from the third run of a shape on, in those rows of it alone."""

    def change(tower: Sound, batch: NDArray[Any], right: Floats) -> Floats:
        answers = right.copy()
        rows = chosen(tower, len(batch))
        answers[rows] = stale(tower, batch, right)[rows]
        return answers

    return change


def greatest_only(tower: Sound, rows: int) -> slice:
    return slice(None) if rows == tower.most else slice(0)


def second_piece(tower: Sound, rows: int) -> slice:
    """What a second lane computes."""
    return slice(tower.most, None)


def constant(tower: Sound, batch: NDArray[Any], right: Floats) -> Floats:
    return normal(np.ones_like(right))


def not_numbers(tower: Sound, batch: NDArray[Any], right: Floats) -> Floats:
    return np.where(np.arange(len(right))[:, None] == 3, np.float32(np.nan), right)


def too_long(tower: Sound, batch: NDArray[Any], right: Floats) -> Floats:
    return np.asarray(right * 2, dtype=np.float32)


def batch_dependent(tower: Sound, batch: NDArray[Any], right: Floats) -> Floats:
    """As if something were averaged over the batch, in the greatest one only."""
    return normal(right + right.mean(axis=0)) if len(right) == tower.most else right


def spilling(tower: Sound, batch: NDArray[Any], right: Floats) -> Floats:
    """An extreme item changes the others."""
    if batch.dtype == np.int32:
        extreme = bool((batch[:, 0] == batch[:, -1]).any())
    else:
        extreme = bool((batch == 255).all(axis=(1, 2, 3)).any())
    return normal(right + 1) if extreme else right


def overflowing(tower: Sound, batch: NDArray[Any], right: Floats) -> Floats:
    """An extreme item's own answer is not a number."""
    if batch.dtype == np.int32:
        rows = batch[:, 0] == batch[:, -1]
    else:
        rows = (batch == 255).all(axis=(1, 2, 3))
    return np.where(rows[:, None], np.float32(np.inf), right)


def last_row_lost(tower: Sound, batch: NDArray[Any], right: Floats) -> Floats:
    """The last row of the greatest batch is not computed."""
    if len(right) == tower.most:
        right = right.copy()
        right[-1] = right[0]
    return right


def seeing_padding(tower: Sound, batch: NDArray[Any], right: Floats) -> Floats:
    return normal(right + batch.shape[1] / 77) if batch.dtype == np.int32 else right


class Lenient(Sound):
    """Answers ids that it does not have."""

    def check(self, batch: NDArray[Any]) -> None:
        if batch.dtype == np.int32:
            np.clip(batch, 0, self.vocabulary - 1, out=batch)
