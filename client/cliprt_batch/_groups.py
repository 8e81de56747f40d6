"""Which of many things belong together, told in pairs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Groups:
    """Disjoint sets of the numbers below ``count``; four bytes for each, however many pairs."""

    def __init__(self, count: int) -> None:
        self._above = np.arange(count, dtype=np.int32 if count < 2**31 else np.int64)

    def roots(self, members: NDArray[np.int64]) -> NDArray[np.int64]:
        """The least member of the group of each."""
        found = self._above[members]
        while True:
            above = self._above[found]
            if np.array_equal(above, found):
                break
            found = above
        # The next walk from here is one step.
        self._above[members] = found
        return found.astype(np.int64)

    def join(self, ones: NDArray[np.int64], others: NDArray[np.int64]) -> None:
        """Puts the groups of the two members of each pair together.

        Every root hangs under the least root that it is paired with, so that each round joins
        whole stars, and rounds are few.
        """
        while len(ones):
            ones, others = self.roots(ones), self.roots(others)
            apart = ones != others
            ones, others = ones[apart], others[apart]
            low, high = np.minimum(ones, others), np.maximum(ones, others)
            np.minimum.at(self._above, high, low.astype(self._above.dtype))

    def shared(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Members of groups of two or more, ascending, and the root of each."""
        roots = self.roots(np.arange(len(self._above)))
        sizes = np.bincount(roots, minlength=len(roots))
        members = np.flatnonzero(sizes[roots] > 1)
        return members, roots[members]
