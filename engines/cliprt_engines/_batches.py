"""Which profile a batch runs under, how one that is too large is cut, and in which order pieces go.

Nothing here touches a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal, TypeAlias

from cliprt._errors import InvalidInput

Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class ShapeRange:
    """Shapes of the input that one optimisation profile of an engine was built for.

    Attributes:
        least: smallest size of every axis, the batch first.
        best: what the engine was tuned for.
        most: greatest size of every axis.
    """

    least: Shape
    best: Shape
    most: Shape

    def __post_init__(self) -> None:
        axes = tuple(zip(self.least, self.best, self.most, strict=True))
        if not axes or not all(1 <= low <= best <= high for low, best, high in axes):
            raise ValueError(
                f"a profile goes from {self.least} over {self.best} to {self.most}; sizes must be "
                "positive and ascend"
            )

    def covers(self, shape: Shape) -> bool:
        """Whether the profile takes a shape."""
        return len(shape) == len(self.least) and all(
            low <= size <= high
            for low, size, high in zip(self.least, shape, self.most, strict=True)
        )


@dataclass(frozen=True)
class Piece:
    """Some rows of a batch that run at once.

    Attributes:
        start: the first row.
        rows: how many.
        profile: index of the profile they run under.
    """

    start: int
    rows: int
    profile: int


def choose_profile(profiles: Sequence[ShapeRange], shape: Shape) -> int | None:
    """The profile to run a shape under.

    The tightest one that covers it: tactics were chosen for the whole range of a profile. Among
    equally tight ones the one whose tuned shape is nearest.

    Returns:
        Its index, or None if no profile covers the shape.
    """
    covering = [index for index, profile in enumerate(profiles) if profile.covers(shape)]
    if not covering:
        return None
    wanted = prod(shape)
    return min(
        covering,
        key=lambda index: (prod(profiles[index].most), abs(prod(profiles[index].best) - wanted)),
    )


def cut(profiles: Sequence[ShapeRange], rows: int, item: Shape) -> list[Piece]:
    """Cuts a batch into pieces that an engine takes: full ones, then what is left.

    Full pieces share a shape, and with it a captured graph.

    Args:
        profiles: of the engine.
        rows: items of the batch.
        item: shape of one item.

    Raises:
        InvalidInput: no profile takes such items, or so few of them.
    """
    largest = max(
        (profile.most[0] for profile in profiles if profile.covers((profile.least[0], *item))),
        default=None,
    )
    if largest is None:
        raise InvalidInput(
            f"the engine takes no items of shape {_shown(item)}; its profiles take "
            f"{_items(profiles)}; cut or fill them up to that, or build the engine with other "
            "profiles"
        )
    pieces = []
    for start in range(0, rows, largest):
        count = min(largest, rows - start)
        profile = choose_profile(profiles, (count, *item))
        if profile is None:
            raise InvalidInput(
                f"the engine takes no batch of {count} items of shape {_shown(item)}; its profiles "
                f"take batches of {_rows(profiles)}; build it with a profile that begins at 1"
            )
        pieces.append(Piece(start, count, profile))
    return pieces


def in_turn(pieces: int, lanes: int) -> Iterator[tuple[Literal["begin", "collect"], int, int]]:
    """The order in which pieces are begun and their answers collected.

    A lane holds one piece. While its work is done on the GPU, the next lane's input is copied, so
    that copies and computation overlap; a lane is used again only after its answer was collected.

    Yields:
        What to do, the piece's number, and its lane.
    """
    for piece in range(pieces + lanes):
        if lanes <= piece < pieces + lanes and piece - lanes < pieces:
            yield "collect", piece - lanes, (piece - lanes) % lanes
        if piece < pieces:
            yield "begin", piece, piece % lanes


def _shown(shape: Shape) -> str:
    return "×".join(map(str, shape)) or "()"


def _items(profiles: Sequence[ShapeRange]) -> str:
    spans = (_span(profile.least[1:], profile.most[1:]) for profile in profiles)
    return ", ".join(dict.fromkeys(spans))


def _rows(profiles: Sequence[ShapeRange]) -> str:
    spans = (_span(profile.least[:1], profile.most[:1]) for profile in profiles)
    return ", ".join(dict.fromkeys(spans))


def _span(least: Shape, most: Shape) -> str:
    return _shown(least) if least == most else f"{_shown(least)} to {_shown(most)}"
