"""sentence-transformers on the same checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from rivals.adapters import Adapter, rgb


class Rival(Adapter):
    """``SentenceTransformer`` on a CLIP folder; it takes Pillow's pictures and strings alike."""

    packages = ("numpy", "pillow", "sentence-transformers", "torch", "transformers")

    def __init__(self, *, checkpoint: str) -> None:
        self._model = SentenceTransformer(checkpoint, device="cpu")

    def embed(self, kind: str, items: Sequence[Any]) -> NDArray[Any]:
        """As `Adapter.embed` says."""
        # The whole request is one batch, as with the others.
        return self._model.encode(
            rgb(items) if kind == "image" else list(items),
            batch_size=len(items),
            normalize_embeddings=True,
            show_progress_bar=False,
        )
