"""How the items of a batch are shared out among the threads that compute them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliprt_engines import CpuSettings


def cut(lengths: NDArray[np.intp], settings: CpuSettings) -> list[NDArray[np.intp]]:
    """Cuts a batch into pieces that cost about the same, those of the longest items first.

    There are as many pieces for each worker as make their size nearest to ``settings.batch``, so
    that a piece may be up to half as large again: all workers are done at about the same time.

    Args:
        lengths: of each item, shape [n]; texts of similar length share a piece, so that short ones
            are not filled up to long ones. Pictures all have the same.
        settings: how many pieces are computed at once, and their size.

    Returns:
        Positions of the items of each piece; every item is in one of them.
    """
    count = len(lengths)
    turns = max(1, round(count / (settings.workers * settings.batch)))
    order = np.argsort(-lengths, kind="stable")
    # A piece is as expensive as its tokens: many short texts weigh as much as a few long ones.
    weight = np.cumsum(lengths[order], dtype=np.float64)
    shares = (weight - lengths[order] / 2) * (turns * settings.workers / weight[-1])
    borders = np.flatnonzero(np.diff(shares.astype(np.intp))) + 1
    return list(np.split(order, borders))


def take(rows: NDArray[Any], piece: NDArray[np.intp]) -> NDArray[Any]:
    """The rows of a piece, without a copy where they lie behind each other, as pictures do."""
    first, count = int(piece[0]), len(piece)
    if np.array_equal(piece, np.arange(first, first + count)):
        return rows[first : first + count]
    taken: NDArray[Any] = rows[piece]
    return taken
