"""cliprt itself, in process, asked through the same socket as its rivals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from cliprt_engines import LocalClip
from rivals.adapters import Adapter


class Rival(Adapter):
    """``LocalClip`` on a bundle of the same checkpoint."""

    threads = True
    packages = ("cliprt", "numpy", "onnxruntime")

    def __init__(self, *, bundle: str, precision: str, goal: str) -> None:
        self._clip = LocalClip(bundle, precision=precision, goal=goal)  # type: ignore[arg-type]
        # Loaded and measured now, not within the first request.
        for tower in ("image", "text"):
            self._clip.settings(tower)

    def embed(self, kind: str, items: Sequence[Any]) -> NDArray[Any]:
        """As `Adapter.embed` says."""
        encode = self._clip.encode_image if kind == "image" else self._clip.encode_text
        return encode(list(items))

    def close(self) -> None:
        """Ends what was started."""
        self._clip.close()
