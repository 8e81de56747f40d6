"""Zero-shot classification from embeddings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def probabilities(
    images: NDArray[np.float32], texts: NDArray[np.float32], logit_scale: float
) -> NDArray[np.float32]:
    """Softmax over texts of logit scale times cosine similarity.

    Args:
        images: float32 [n, dim], rows of length 1.
        texts: float32 [m, dim], rows of length 1.
        logit_scale: the checkpoint's factor, not its logarithm.

    Returns:
        float32 [n, m], rows summing to 1.
    """
    logits = logit_scale * (images.astype(np.float64) @ texts.astype(np.float64).T)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)
