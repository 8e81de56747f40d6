"""What is near what, in float32: by faiss where it is installed, by NumPy otherwise.

Both round differently. So everything here answers with a little more than was asked for, and who
asks computes the few that matter in float64: the results are the same, whichever is installed.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

# Faiss is asked for so many more than are wanted. If they, too, could be among the best, there are
# many equals, and NumPy finds them all.
_SPARE = 16


def margin(dim: int) -> float:
    """How far two inner products of unit vectors in float32 may be apart by rounding alone."""
    return 2.0 * (dim + 8) * 2.0**-24


def faiss_at_hand() -> Any:
    """The module faiss, or None."""
    try:
        import faiss
    except ModuleNotFoundError:
        return None
    return faiss


def near_best(
    vectors: NDArray[np.float32], query: NDArray[np.float32], top: int
) -> NDArray[np.int64]:
    """Rows that may be among the best for a query.

    Args:
        vectors: float32 [n, dim], contiguous.
        query: float32 [dim], of length 1.
        top: how many are wanted.

    Returns:
        Indices of rows: the ``top`` of greatest inner product, and some whose rank only rounding
        decides.
    """
    if len(vectors) <= top:
        return np.arange(len(vectors))
    slack = margin(vectors.shape[1])
    faiss = faiss_at_hand()
    if faiss is not None and top + _SPARE < len(vectors):
        metric = faiss.METRIC_INNER_PRODUCT
        scores, rows = faiss.knn(query[None], vectors, top + _SPARE, metric=metric)
        if scores[0, -1] < scores[0, top - 1] - slack:
            return np.asarray(rows[0], dtype=np.int64)
    scores = vectors @ query
    worst = np.partition(scores, len(scores) - top)[len(scores) - top]
    return np.flatnonzero(scores >= worst - slack)


class Held(Protocol):
    """Unit vectors that others are compared with."""

    def near(
        self, others: NDArray[np.float32], least: float
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """Pairs whose inner product is at least so much.

        Args:
            others: float32 [n, dim], contiguous, of length 1.
            least: a cosine.

        Returns:
            Of each pair the index among the others, the index among the held, and the product.
        """


def hold(vectors: NDArray[np.float32]) -> Held:
    """Keeps unit vectors, float32 [n, dim] and contiguous, for comparison with many others."""
    faiss = faiss_at_hand()
    return _HeldByNumpy(vectors) if faiss is None else _HeldByFaiss(faiss, vectors)


class _HeldByNumpy:
    def __init__(self, vectors: NDArray[np.float32]) -> None:
        self._vectors = vectors

    def near(
        self, others: NDArray[np.float32], least: float
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        products = (others @ self._vectors.T).ravel()
        pairs = np.flatnonzero(products >= least)
        other, held = np.divmod(pairs, len(self._vectors))
        return other, held, products[pairs]


class _HeldByFaiss:
    def __init__(self, faiss: Any, vectors: NDArray[np.float32]) -> None:
        self._index = faiss.IndexFlatIP(vectors.shape[1])
        self._index.add(vectors)

    def near(
        self, others: NDArray[np.float32], least: float
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        limits, products, held = self._index.range_search(others, least)
        counts = np.diff(limits.astype(np.int64))
        return np.repeat(np.arange(len(others)), counts), held, products
