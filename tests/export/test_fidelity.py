"""Figures on small arrays whose answer is known."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from cliprt_export._fidelity import (
    cosines,
    fidelity,
    first_percentile,
    neighbour_overlap,
    rank_correlation,
    top1,
)


def rows(count: int, dim: int = 8, seed: int = 0) -> NDArray[np.float32]:
    drawn = np.random.default_rng(seed).standard_normal((count, dim))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def test_cosines_of_unit_rows() -> None:
    half = np.array([[1, 0], [np.cos(np.pi / 3), np.sin(np.pi / 3)], [-1, 0]])
    found = cosines(np.array([[1.0, 0], [1, 0], [1, 0]]), half)
    np.testing.assert_allclose(found, [1, 0.5, -1], atol=1e-15)


def test_a_cosine_near_one_keeps_its_digits() -> None:
    angle = 1e-6
    found = cosines(np.array([[1.0, 0]]), np.array([[np.cos(angle), np.sin(angle)]]))
    np.testing.assert_allclose(1 - found, [angle**2 / 2], rtol=1e-3)


def test_a_row_of_another_length_is_not_close() -> None:
    assert cosines(np.array([[1.0, 0]]), np.array([[1.1, 0]]))[0] == pytest.approx(0.995)


def test_the_first_percentile_lies_between_the_two_least() -> None:
    values = np.concatenate([[0.0, 1.0], np.full(49, 2.0)])
    assert first_percentile(values) == pytest.approx(0.5)


def test_equal_embeddings_have_equal_neighbours_and_ranks() -> None:
    assert neighbour_overlap(rows(50), rows(50)) == 1
    assert rank_correlation(rows(50), rows(50)) == pytest.approx(1)


def test_neighbours_survive_a_rotation() -> None:
    turn, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((8, 8)))
    turned = (rows(60).astype(np.float64) @ turn).astype(np.float32)
    assert neighbour_overlap(rows(60), turned) == pytest.approx(1, abs=0.01)


def test_neighbours_are_lost_item_by_item() -> None:
    """Two clusters of 20; an item that changes sides loses all of its neighbours."""
    angles = np.concatenate([np.arange(20), 1000 + np.arange(20)]) * 1e-3
    before = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    swapped = before.copy()
    swapped[[0, 20]] = before[[20, 0]]

    def nearest(points: NDArray[np.float64]) -> list[set[int]]:
        similarity = points @ points.T
        return [
            set(sorted(set(range(40)) - {k}, key=lambda j, k=k: -similarity[k, j])[:10])
            for k in range(40)
        ]

    pairs = zip(nearest(before), nearest(swapped), strict=True)
    expected = np.mean([len(one & other) / 10 for one, other in pairs])
    assert neighbour_overlap(before, swapped) == pytest.approx(expected)
    assert expected < 0.97


def test_few_items_have_no_neighbours() -> None:
    assert neighbour_overlap(rows(39), rows(39)) is None
    assert neighbour_overlap(rows(40), rows(40)) is not None


def test_ranks_of_a_permutation() -> None:
    """Against Spearman's formula for distinct values, 1 - 6 sum d² / (n (n² - 1))."""
    one, other = rows(12), rows(12)[::-1]
    pairs = list(combinations(range(12), 2))

    def places(points: NDArray[np.float32]) -> NDArray[np.int64]:
        wide = points.astype(np.float64)
        return np.argsort(np.argsort([wide[i] @ wide[j] for i, j in pairs]))

    count = len(pairs)
    squares = ((places(one) - places(other)) ** 2).sum()
    expected = 1 - 6 * squares / (count * (count**2 - 1))
    assert rank_correlation(one, other) == pytest.approx(expected)


def test_equal_similarities_share_a_rank() -> None:
    before = np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    after = np.array([[1.0, 0], [1, 0], [0, 1], [np.sin(0.1), np.cos(0.1)]])
    # Ranks 5.5 5.5 2.5 2.5 2.5 2.5 against 6 5 (1.5 1.5) (3.5 3.5).
    first = np.array([5.5, 2.5, 2.5, 2.5, 2.5, 5.5])
    second = np.array([6, 1.5, 3.5, 1.5, 3.5, 5])
    expected = np.corrcoef(first, second)[0, 1]
    assert rank_correlation(before, after) == pytest.approx(expected)


def test_ranks_need_something_to_order() -> None:
    assert rank_correlation(rows(2), rows(2)) is None
    same = np.repeat(rows(1), 5, axis=0)
    assert rank_correlation(same, same) is None


def test_zero_shot_accuracy() -> None:
    texts = np.eye(3)
    pictures = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0.9, 0.1, 0]])
    assert top1(pictures, texts, [0, 1, 0, 0]) == 75


def test_a_picture_without_an_answer_is_no_hit() -> None:
    pictures = np.array([[np.nan, 0, 0], [1.0, 0, 0]])
    assert top1(pictures, np.eye(3), [0, 0]) == 50


def test_nan_shows_in_every_figure() -> None:
    found = rows(50)
    found[3, 2] = np.nan
    result = fidelity(rows(50), found, single_vs_batch=0.0)
    figures = (
        result.min_cosine,
        result.p01_cosine,
        result.mean_cosine,
        result.max_abs_diff,
        result.neighbours,
        result.rank_correlation,
    )
    assert all(figure is not None and np.isnan(figure) for figure in figures)


def test_the_loss_is_in_points() -> None:
    result = fidelity(rows(3), rows(3), single_vs_batch=0.0, top1=(80.0, 79.5))
    assert result.top1_loss == pytest.approx(0.5)
    assert fidelity(rows(3), rows(3), single_vs_batch=0.0).top1_loss is None
