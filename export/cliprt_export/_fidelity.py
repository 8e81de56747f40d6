"""How far embeddings are from those of the original weights, in figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32] | NDArray[np.float64]

NEIGHBOURS = 10
"""How many nearest neighbours are compared."""

NEIGHBOURS_NEED = 40
"""Fewest items among which ten neighbours say something."""


class Fidelity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One tower in one precision against the reference.

    Attributes:
        items: how many items were measured.
        min_cosine: least cosine of an item's embedding to its reference.
        p01_cosine: the cosine that 99 of 100 items exceed; the bar is set on it.
        mean_cosine: mean over the items.
        max_abs_diff: largest difference of any component.
        neighbours: overlap of the ten nearest neighbours, 0 to 1; None with fewer than 40 items.
        rank_correlation: Spearman's, of all similarities between two items; None with fewer than
            3 items or where all similarities are equal.
        top1_reference: zero-shot accuracy of the reference in percent, None without labels.
        top1: zero-shot accuracy of image and text tower in this precision, None without labels.
        single_vs_batch: largest difference between an item alone and inside a batch.
        padding: largest difference between a text at its own length and padded to the context;
            None for pictures and for towers of fixed length.
    """

    items: int
    min_cosine: float
    p01_cosine: float
    mean_cosine: float
    max_abs_diff: float
    neighbours: float | None = None
    rank_correlation: float | None = None
    top1_reference: float | None = None
    top1: float | None = None
    single_vs_batch: float
    padding: float | None = None

    @property
    def top1_loss(self) -> float | None:
        """Points of zero-shot accuracy lost; negative where some were gained."""
        if self.top1 is None or self.top1_reference is None:
            return None
        return self.top1_reference - self.top1


def fidelity(
    reference: Floats,
    found: Floats,
    *,
    single_vs_batch: float,
    padding: float | None = None,
    top1: tuple[float, float] | None = None,
) -> Fidelity:
    """All figures of one tower.

    Args:
        reference: [n, dim], rows of length 1.
        found: [n, dim], the same items.
        single_vs_batch: as measured by the caller.
        padding: as measured by the caller.
        top1: zero-shot accuracy of the reference and of what was found, in percent.
    """
    cosine = cosines(reference, found)
    before, after = top1 or (None, None)
    return Fidelity(
        items=len(cosine),
        min_cosine=float(cosine.min()),
        p01_cosine=first_percentile(cosine),
        mean_cosine=float(cosine.mean()),
        max_abs_diff=largest_difference(reference, found),
        neighbours=neighbour_overlap(reference, found),
        rank_correlation=rank_correlation(reference, found),
        top1_reference=before,
        top1=after,
        single_vs_batch=single_vs_batch,
        padding=padding,
    )


def cosines(reference: Floats, found: Floats) -> NDArray[np.float64]:
    """Cosine of each row to its reference, [n].

    Computed as 1 - |a - b|² / 2: for rows of length 1 the same number, but without the rounding of
    a sum near 1, and smaller for a row whose length is wrong, which a cosine would not notice.
    """
    difference = reference.astype(np.float64) - found.astype(np.float64)
    return np.asarray(1 - (difference**2).sum(axis=-1) / 2)


def first_percentile(values: NDArray[np.float64]) -> float:
    """What 99 of 100 values exceed, interpolated between the two nearest; NaN if one is NaN."""
    return float(np.percentile(values, 1))


def largest_difference(one: Floats, other: Floats) -> float:
    """Largest difference of any component; NaN if one is NaN."""
    return float(np.abs(one.astype(np.float64) - other.astype(np.float64)).max())


def neighbour_overlap(reference: Floats, found: Floats) -> float | None:
    """Share of an item's ten nearest neighbours that it keeps, averaged over all items.

    An item's neighbours are the ten other items of the same set with the greatest cosine to it,
    the earlier of equal ones first. They are searched once among the reference embeddings and once
    among the found ones; the share is the number in both lists divided by ten.

    Returns:
        0 to 1; None with fewer than 40 items; NaN if an embedding is NaN.
    """
    if len(reference) < NEIGHBOURS_NEED:
        return None
    if not np.isfinite(found).all():
        return float("nan")

    def nearest(rows: Floats) -> NDArray[np.bool_]:
        similarity = _similarities(rows)
        np.fill_diagonal(similarity, -np.inf)
        order = np.argsort(-similarity, axis=1, kind="stable")[:, :NEIGHBOURS]
        chosen = np.zeros(similarity.shape, dtype=np.bool_)
        np.put_along_axis(chosen, order, True, axis=1)
        return chosen

    kept = (nearest(reference) & nearest(found)).sum(axis=1)
    return float(kept.mean() / NEIGHBOURS)


def rank_correlation(reference: Floats, found: Floats) -> float | None:
    """Spearman's rank correlation of the cosines between all pairs of items.

    Returns:
        -1 to 1; None with fewer than 3 items or where all cosines are equal; NaN if an embedding
        is NaN.
    """
    if len(reference) < 3:
        return None
    if not np.isfinite(found).all():
        return float("nan")
    pairs = np.triu_indices(len(reference), k=1)
    ranks = [_ranks(_similarities(rows)[pairs]) for rows in (reference, found)]
    before, after = (rank - rank.mean() for rank in ranks)
    length = np.sqrt((before**2).sum() * (after**2).sum())
    return float((before * after).sum() / length) if length > 0 else None


def top1(images: Floats, texts: Floats, labels: Sequence[int] | NDArray[np.int64]) -> float:
    """Zero-shot accuracy: percent of pictures that are nearest to the text of their own class.

    Args:
        images: [n, dim], rows of length 1.
        texts: [classes, dim], rows of length 1.
        labels: class of each picture.
    """
    similarity = images.astype(np.float64) @ texts.astype(np.float64).T
    # NaN would win every comparison; a picture without an answer is no hit.
    right = similarity.argmax(axis=1) == np.asarray(labels)
    return float(100 * (right & np.isfinite(similarity).all(axis=1)).mean())


def _similarities(rows: Floats) -> NDArray[np.float64]:
    wide = rows.astype(np.float64)
    return np.asarray(wide @ wide.T)


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Place of each value in ascending order; equal ones share the mean of their places."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[place], dtype=np.float64)
