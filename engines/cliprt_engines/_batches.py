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


_LARGE = 32
"""Items of the least batch that is cut to overlap. Half of it still fills most of a GPU."""

_STEP = 16
"""What the first of two pieces is a multiple of."""


def cut(
    profiles: Sequence[Profile], rows: int, length: int | None, *, overlap: bool = False
) -> list[Piece]:
    """Cuts a batch into pieces that an engine takes: full ones, then what is left.

    Full pieces share a shape, and with it a captured graph.

    A batch that is one piece leaves nothing to overlap: the GPU waits until all of it is copied,
    first to page-locked memory and then over the bus. With ``overlap`` a large one is cut in two,
    so that the second half is copied while the first is computed. It pays where copies take long
    beside computing and half a batch computes at the same rate. How much has not been measured on a
    GPU; the stage ``overlap`` of ``bench/gpu_check`` times both ways.

    Args:
        profiles: of the engine.
        rows: items of the batch; none gives no pieces.
        length: tokens of each; None for towers whose length cannot change.
        overlap: whether a batch of 32 items or more that is one piece is cut in two.

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
    return _in_two(profiles, pieces[0], length) if overlap and len(pieces) == 1 else pieces


def _in_two(profiles: Sequence[Profile], whole: Piece, length: int | None) -> list[Piece]:
    """Two pieces of about the same size, where both run under the profile of the whole.

    The first is half, rounded down to a multiple of 16: what is copied before anything is computed
    is the lesser piece, and batches of all sizes share few shapes, and so few graphs, on its lane.
    On the other lane a size has one shape, as it had when it was whole. A profile that is tuned for
    the whole alone is worth more than the overlap.
    """
    if whole.rows < _LARGE:
        return [whole]
    first = whole.rows // 2 // _STEP * _STEP
    for count in (first, whole.rows - first):
        fits = profiles[whole.profile].fits(count, length)
        if not fits or pick_profile(profiles, count, length) != whole.profile:
            return [whole]
    return [Piece(0, first, whole.profile), Piece(first, whole.rows - first, whole.profile)]


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
