"""How things are timed, and what is computed meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliprt_bench import Latency, measure_latency
from cliprt_engines import TowerInfo


def timed(call: Callable[[], object], samples: int) -> Latency:
    """Latency of a call that returns when its result is there.

    The warm-up is long enough for a shape's graph to be captured and its kernels to be compiled.
    """
    return measure_latency(call, samples=max(samples, 20), warmup=10)


def pictures(info: TowerInfo, batch: int) -> NDArray[np.uint8]:
    """Noise, uint8 [batch, height, width, 3]: matrix units take longer with it than with zeros."""
    size = tuple(int(each or 0) for each in info.shape)
    return np.random.default_rng(batch).integers(0, 256, (batch, *size), dtype=np.uint8)


def largest_error(reference: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """1 minus the least cosine of rows of length 1; NaN stays."""
    difference = reference.astype(np.float64) - found.astype(np.float64)
    return float((difference**2).sum(axis=1).max() / 2)


@cache
def operations(graph: Path) -> float:
    """Operations of a ViT's published forward pass for one picture, a product and a sum as two.

    Counted from the weights, with all tokens in the last block, which the bundle's tower spares.
    """
    import onnx

    found = {
        tensor.name: tuple(tensor.dims)
        for tensor in onnx.load(str(graph), load_external_data=False).graph.initializer
    }
    patches, width = found["positions"]
    tokens = patches + 1
    _, channels, rows, columns = found["patch.weight"]
    blocks = len({name.split(".")[1] for name in found if name.startswith("blocks.")})
    hidden = found["blocks.0.mlp.up.weight"][1]
    products = 4 * width * width + 2 * width * hidden
    attention = 2 * tokens * width
    return float(
        2 * blocks * tokens * (products + attention)
        + 2 * patches * channels * rows * columns * width
        + 2 * width * found["projection.weight"][1]
    )


class Bound:
    """A tower in ONNX Runtime whose input and output stay on the GPU."""

    def __init__(self, graph: Path, batch: NDArray[np.uint8], *, graphs: bool) -> None:
        """Loads it and copies the batch.

        Args:
            graph: the tower.
            batch: uint8 [batch, height, width, 3].
            graphs: whether ONNX Runtime captures a CUDA graph.

        Raises:
            RuntimeError: ONNX Runtime would compute with something else than CUDA.
        """
        import onnxruntime

        cuda = {"device_id": "0", "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
        if graphs:
            cuda["enable_cuda_graph"] = "1"
        self._session: Any = onnxruntime.InferenceSession(
            str(graph), providers=[("CUDAExecutionProvider", cuda)], enable_fallback=0
        )
        if self._session.get_providers()[0] != "CUDAExecutionProvider":
            raise RuntimeError(f"ONNX Runtime uses {self._session.get_providers()}")
        (output,) = self._session.get_outputs()
        self._input = onnxruntime.OrtValue.ortvalue_from_numpy(batch, "cuda", 0)
        self._output = onnxruntime.OrtValue.ortvalue_from_shape_and_type(
            (len(batch), output.shape[-1]), np.float32, "cuda", 0
        )
        self._binding = self._session.io_binding()
        self._binding.bind_ortvalue_input("pixels", self._input)
        self._binding.bind_ortvalue_output("embedding", self._output)

    def run(self) -> None:
        """Embeds the batch; returns when the answers are on the GPU."""
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()

    def answers(self) -> NDArray[np.float32]:
        """Embeds the batch and fetches the answers, float32 [batch, dim]."""
        self.run()
        found: NDArray[np.float32] = self._output.numpy()
        return found
