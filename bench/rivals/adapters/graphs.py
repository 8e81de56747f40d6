"""What runtimes of ONNX graphs share: transformers' processor and tokenizer, without torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import CLIPImageProcessorPil, CLIPTokenizer

from rivals.adapters import Adapter, rgb


class Graphs(Adapter):
    """Two graphs, ``image.onnx`` and ``text.onnx``, as `rivals.export_plain` writes them."""

    threads = True

    def __init__(self, *, checkpoint: str, graphs: str, padding: str = "max_length") -> None:
        """Loads both graphs.

        Args:
            checkpoint: the folder whose processor and tokenizer prepare the inputs.
            graphs: the folder of the graphs.
            padding: of texts, as in transformers.
        """
        self._padding = padding
        self._processor = CLIPImageProcessorPil.from_pretrained(checkpoint)
        self._tokenizer = CLIPTokenizer.from_pretrained(checkpoint)
        configuration = json.loads(Path(checkpoint, "config.json").read_text())
        self._context = configuration["text_config"]["max_position_embeddings"]
        self._graphs = {kind: self.open(Path(graphs, f"{kind}.onnx")) for kind in ("image", "text")}

    def open(self, path: Path) -> Any:
        """A graph, ready to be run."""
        raise NotImplementedError

    def run(self, graph: Any, feeds: dict[str, NDArray[Any]]) -> NDArray[Any]:
        """The graph's only output."""
        raise NotImplementedError

    def embed(self, kind: str, items: Sequence[Any]) -> NDArray[Any]:
        """As `Adapter.embed` says."""
        if kind == "image":
            pixels = self._processor(rgb(items), return_tensors="np")["pixel_values"]
            feeds = {"pixel_values": np.asarray(pixels, np.float32)}
        else:
            tokens = self._tokenizer(
                list(items),
                padding=self._padding,
                truncation=True,
                max_length=self._context,
                return_tensors="np",
            )
            names = ("input_ids", "attention_mask")
            feeds = {name: np.asarray(tokens[name], np.int64) for name in names}
        rows = self.run(self._graphs[kind], feeds)
        return rows / np.linalg.norm(rows, axis=-1, keepdims=True)
