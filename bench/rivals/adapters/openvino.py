"""OpenVINO as it comes, on torch's export, converted by OpenVINO."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import openvino
from numpy.typing import NDArray

from rivals.adapters.graphs import Graphs


class Rival(Graphs):
    """``openvino.convert_model`` and ``compile_model`` for the CPU with the default settings.

    On a processor with bfloat16 units OpenVINO computes in bfloat16 by itself.
    """

    packages = ("numpy", "openvino", "pillow", "tokenizers", "transformers")

    def open(self, path: Path) -> Any:
        """As `Graphs.open` says."""
        compiled = openvino.Core().compile_model(openvino.convert_model(path), "CPU")
        return compiled, threading.local()

    def run(self, graph: Any, feeds: dict[str, NDArray[Any]]) -> NDArray[Any]:
        """As `Graphs.run` says."""
        compiled, own = graph
        # A compiled model may be used by many threads, an infer request by one.
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        return own.request.infer(feeds)[0].copy()
