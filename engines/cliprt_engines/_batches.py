"""How a batch that is too large is cut, and in which order its pieces go through a GPU.

Nothing here touches a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from cliprt_engines._profiles import Profile, pick_profile


@dataclass(frozen=True)
class Piece:
    """Some rows of a batch that run at once.

    Attributes:
        start: the first row.
        rows: how many.
        profile: number of the profile that they run under.
    """

    start: int
    rows: int
    profile: int


def cut(profiles: Sequence[Profile], rows: int, length: int | None) -> list[Piece]:
    """Cuts a batch into pieces that an engine takes: full ones, then what is left.

    Full pieces share a shape, and with it a captured graph.

    Args:
        profiles: of the engine.
        rows: items of the batch; none gives no pieces.
        length: tokens of each; None for towers whose length cannot change.

    Raises:
        InvalidInput: no profile takes items of that length, or as few as are left.
    """
    fitting = [
        profile
        for profile in profiles
        if profile.length is None or (length is not None and length in profile.length)
    ]
    # Where none fits, the whole batch is the piece that is refused below.
    largest = max((profile.batch.most for profile in fitting), default=max(rows, 1))
    pieces = []
    for start in range(0, rows, largest):
        count = min(largest, rows - start)
        pieces.append(Piece(start, count, pick_profile(profiles, count, length)))
    return pieces


def in_turn(pieces: int, lanes: int) -> Iterator[tuple[Literal["begin", "collect"], int, int]]:
    """The order in which pieces are begun and their answers collected.

    A lane holds one piece. While its work is done on the GPU, the next lane's input is copied, so
    that copies and computation overlap; a lane is used again only after its answer was collected.

    Yields:
        What to do, the piece's number, and its lane.
    """
    for turn in range(pieces + lanes):
        done = turn - lanes
        if 0 <= done < pieces:
            yield "collect", done, done % lanes
        if turn < pieces:
            yield "begin", turn, turn % lanes
