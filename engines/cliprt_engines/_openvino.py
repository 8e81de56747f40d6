"""A tower in process with OpenVINO, on CPUs where that is faster than ONNX Runtime."""

from __future__ import annotations

import contextlib
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliprt._errors import BundleError, ClosedError
from cliprt._external import external_files
from cliprt._extras import require
from cliprt_engines._tower import Inputs, TowerInfo

_DTYPES = {"u8": "uint8", "i32": "int32"}

_first = Lock()


class OpenVinoTower:
    """One tower of a bundle, computed by OpenVINO on the CPU. Many threads may run it."""

    def __init__(
        self,
        model: Path,
        *,
        threads: int | None = None,
        streams: int = 1,
        bfloat16: bool = False,
    ) -> None:
        """Loads a tower.

        Args:
            model: an ONNX file.
            threads: threads of all streams together; None leaves the choice to OpenVINO.
            streams: how many batches are computed at once; others wait.
            bfloat16: whether what is float32 in the graph may be computed with the 8 bits of
                bfloat16. Only where the graph has been quantised anyway does that lose little.

        Raises:
            MissingExtra: openvino is not installed.
            BundleError: OpenVINO cannot load the graph, or its weights lie outside its folder.
        """
        openvino = require("openvino", extra="openvino")
        external_files(model)
        options: dict[str, Any] = {
            "NUM_STREAMS": streams,
            "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
            # Pinned threads of two processes would share cores while others idle.
            "ENABLE_CPU_PINNING": False,
        }
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        try:
            compiled = openvino.Core().compile_model(str(model), "CPU", options)
        except Exception as error:  # noqa: BLE001 - the library raises bare RuntimeErrors
            raise BundleError(f"OpenVINO cannot load the tower: {error}") from None
        # Its first look into a tensor makes a table, and lets go of the GIL meanwhile. A second
        # thread that looks then waits for the table with the GIL in hand, and both wait forever.
        with _first:
            _ = openvino.Tensor(openvino.Type.u8, openvino.Shape([1])).data
        self._info = _info(compiled, f"openvino {str(openvino.__version__).split('-')[0]} CPU")
        self._closed, self._lock = False, Lock()
        # A request computes one batch at a time. None says that there will be no other.
        self._requests: SimpleQueue[Any] = SimpleQueue()
        for _ in range(streams):
            self._requests.put(compiled.create_infer_request())

    @property
    def info(self) -> TowerInfo:
        """What the tower takes and gives; OpenVINO sets no limit on a batch."""
        return self._info

    def run(self, batch: Inputs) -> NDArray[np.float32]:
        """Embeds a batch.

        Args:
            batch: uint8 pixels [batch, height, width, 3], or int32 tokens [batch, length].

        Returns:
            float32 [batch, dim], rows of length 1.

        Raises:
            ClosedError: the tower was closed.
        """
        if (request := self._requests.get()) is None:
            self._requests.put(None)  # for whoever waits behind this one
            raise ClosedError("the tower is closed; load it again")
        try:
            # The request's own memory is written again by the next batch.
            return np.array(request.infer([batch])[0], dtype=np.float32)
        finally:
            with self._lock:
                if not self._closed:
                    self._requests.put(request)

    def close(self) -> None:
        """Gives back the weights and OpenVINO's memory. A second call does nothing."""
        with self._lock:
            self._closed = True
            with contextlib.suppress(Empty):
                while True:
                    self._requests.get_nowait()
            self._requests.put(None)


def _info(compiled: Any, runtime: str) -> TowerInfo:
    """What a compiled model takes and gives; nothing of it holds the model."""
    tensor, output = compiled.input(0), compiled.output(0)
    sizes = list(tensor.partial_shape)[1:]
    kind = str(tensor.element_type.get_type_name())
    return TowerInfo(
        input=str(tensor.any_name),
        dtype=_DTYPES.get(kind, kind),
        shape=tuple(size.get_length() if size.is_static else None for size in sizes),
        dim=list(output.partial_shape)[-1].get_length(),
        max_batch=None,
        max_length=None,
        runtime=runtime,
    )


def computes_bfloat16() -> bool:
    """Whether the processor has instructions for bfloat16, as OpenVINO sees it.

    Raises:
        MissingExtra: openvino is not installed.
    """
    core = require("openvino", extra="openvino").Core()
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
