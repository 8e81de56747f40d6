"""Probabilities from embeddings: a softmax over texts, or a sigmoid for each."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from cliprt._zero_shot import probabilities


def rows(*angles: float) -> NDArray[np.float32]:
    return np.array([[np.cos(a), np.sin(a)] for a in angles], dtype=np.float32)


def test_a_softmax_shares_out_one() -> None:
    found = probabilities(rows(0, 1), rows(0.2, 1.5, 3), 10)
    cosines = rows(0, 1).astype(np.float64) @ rows(0.2, 1.5, 3).T
    expected = np.exp(10 * cosines) / np.exp(10 * cosines).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_sigmoid_judges_each_text_alone() -> None:
    found = probabilities(rows(0), rows(0.2, 1.5, 3), 10, -4.0)
    expected = 1 / (1 + np.exp(-(10 * np.cos([[0.2, 1.5, 3]]) - 4)))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_array_equal(found[:, :1], probabilities(rows(0), rows(0.2), 10, -4.0))


@pytest.mark.parametrize(("bias", "limits"), [(None, (1.0, 0.0)), (0.0, (1.0, 0.0))])
def test_great_logits_overflow_nowhere(bias: float | None, limits: tuple[float, float]) -> None:
    found = probabilities(rows(0), rows(0, np.pi), 1e6, bias)
    assert found.tolist() == [list(limits)]
