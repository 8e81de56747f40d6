"""Whether a rival answers the same question: looked at before any speed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Answers = dict[str, NDArray[np.float32]]
"""By kind (``image``, ``text``), embeddings of length 1, float32 [n, dim]."""


@dataclass(frozen=True)
class Likeness:
    """How alike answers are to the reference's.

    Attributes:
        least: by kind, the least cosine of an item.
        bar: the least that is asked for.
    """

    least: dict[str, float]
    bar: float

    @property
    def same(self) -> bool:
        """Whether every item reaches the bar."""
        return all(value >= self.bar for value in self.least.values())


def likeness(answers: Answers, reference: Answers, bar: float) -> Likeness:
    """Compares answers to the same items.

    Args:
        answers: a rival's.
        reference: of `entries.REFERENCE`.
        bar: least cosine of an item.

    Raises:
        ValueError: the shapes differ.
    """
    least = {}
    for kind, expected in reference.items():
        found = answers[kind]
        if found.shape != expected.shape:
            raise ValueError(
                f"{kind} embeddings have the shape {list(found.shape)}, the reference's "
                f"{list(expected.shape)}"
            )
        least[kind] = float(np.einsum("nd,nd->n", found, expected, dtype=np.float64).min())
    return Likeness(least, bar)
