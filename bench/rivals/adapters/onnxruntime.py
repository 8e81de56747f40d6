"""ONNX Runtime as it comes, on torch's export as it comes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from rivals.adapters.graphs import Graphs


class Rival(Graphs):
    """A session for each tower, with the default options."""

    packages = ("numpy", "onnxruntime", "pillow", "tokenizers", "transformers")

    def open(self, path: Path) -> Any:
        """As `Graphs.open` says."""
        return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(self, graph: Any, feeds: dict[str, NDArray[Any]]) -> NDArray[Any]:
        """As `Graphs.run` says."""
        return graph.run(None, feeds)[0]
