"""Zero-shot classification from embeddings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cliprt._space import same_space


def probabilities(
    images: NDArray[np.float32],
    texts: NDArray[np.float32],
    logit_scale: float,
    logit_bias: float | None = None,
) -> NDArray[np.float32]:
    """How probable each text is for each picture.

    A model trained with a softmax loss tells which of the texts fits best: their softmax, rows
    summing to 1 (Radford et al. 2021). One trained with a sigmoid loss, known by its bias, tells of
    every text whether it fits: sigmoids, independent of the other texts (Zhai et al. 2023,
    "Sigmoid Loss for Language Image Pre-Training").

    Args:
        images: float32 [n, dim], rows of length 1.
        texts: float32 [m, dim], rows of length 1.
        logit_scale: the checkpoint's factor of the cosine similarity, not its logarithm.
        logit_bias: what a sigmoid model adds to that, or None for a softmax model.

    Returns:
        float32 [n, m], each 0 to 1.

    Raises:
        SpaceMismatch: the two are labelled with different spaces.
    """
    same_space(images, texts)
    logits = logit_scale * (images.astype(np.float64) @ texts.astype(np.float64).T)
    if logit_bias is not None:
        # By way of tanh, which overflows nowhere.
        return np.asarray((1 + np.tanh((logits + logit_bias) / 2)) / 2, dtype=np.float32)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)
