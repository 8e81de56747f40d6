"""The shapes of batches that an engine is checked with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cliprt_engines import Profile


@dataclass(frozen=True)
class Shape:
    """Sizes of a batch.

    Attributes:
        batch: items.
        length: tokens of each; None for towers whose length cannot change.
    """

    batch: int
    length: int | None = None

    def __str__(self) -> str:
        texts = "" if self.length is None else f" of {self.length} tokens"
        return f"a batch of {self.batch}{texts}"


def edges_of(profiles: Sequence[Profile]) -> list[Shape]:
    """The corners of every profile, and a batch greater than the greatest, which is cut."""
    shapes: dict[Shape, None] = {}
    for profile in profiles:
        batch, length = profile.batch, profile.length
        batches = (batch.least, batch.best, batch.most)
        lengths = (None,) if length is None else (length.least, length.best, length.most)
        shapes |= {Shape(one, other): None for one in batches for other in lengths}
    widest = profiles[0]
    beyond = widest.batch.most + widest.batch.least
    return [*shapes, Shape(beyond, None if widest.length is None else widest.length.least)]


def alternations_of(profiles: Sequence[Profile]) -> list[list[Shape]]:
    """Groups of shapes that take turns: what graphs are captured for where engines are in use.

    The greatest of every profile with that of the next one, so that each comes back from another
    profile; and a batch beyond the greatest, whose second piece is computed on a stream of its own.
    """
    greatest = [
        Shape(profile.batch.most, None if profile.length is None else profile.length.most)
        for profile in profiles
    ]
    widest = profiles[0].batch
    rest = max(widest.least, widest.most // 2)
    beyond = Shape(widest.most + rest, greatest[0].length)
    groups = [[shape, greatest[(i + 1) % len(greatest)]] for i, shape in enumerate(greatest)]
    # Two profiles are each other's next, and one alone is its own.
    distinct: dict[frozenset[Shape], list[Shape]] = {}
    for group in groups:
        distinct.setdefault(frozenset(group), list(dict.fromkeys(group)))
    return [*distinct.values(), [beyond, greatest[-1]]]
