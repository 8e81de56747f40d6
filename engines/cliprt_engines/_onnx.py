"""A tower in process with ONNX Runtime."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliprt._cores import saturates_bytes
from cliprt._errors import BundleError, ClosedError, DeploymentError
from cliprt._external import external_files, locations
from cliprt._extras import require
from cliprt_engines._providers import (
    ProviderKind,
    check_available,
    check_used,
    load_libraries,
    provider_options,
)
from cliprt_engines._tower import Inputs, TowerInfo


class OnnxTower:
    """One tower of a bundle, computed by ONNX Runtime. Many threads may run it."""

    def __init__(
        self,
        model: Path | bytes,
        *,
        threads: int | None = None,
        spinning: bool = True,
        fuse_quantised: bool = True,
        provider: ProviderKind = "cpu",
        device: int = 0,
    ) -> None:
        """Loads a tower.

        Args:
            model: an ONNX file, or the content of one that holds its weights itself.
            threads: threads of one computation; None leaves the choice to ONNX Runtime.
            spinning: whether threads wait for the next piece of work in a busy loop. It is quicker
                where they have a core each, and takes that core from everything else.
            fuse_quantised: whether products between DequantizeLinear and QuantizeLinear become
                products of integers; ONNX Runtime has none for float8 and refuses such graphs
                unless this is False.
            provider: what computes: ``cpu``, ``cuda``, or ``tensorrt`` inside ONNX Runtime.
            device: which GPU, as CUDA counts them.

        Raises:
            DeploymentError: ONNX Runtime cannot use the provider.
            MissingExtra: onnxruntime is not installed.
            BundleError: ONNX Runtime cannot load the graph, or its weights lie outside its folder.
        """
        onnxruntime = require("onnxruntime", extra="engines")
        providers = provider_options(provider, device=device)
        check_available(onnxruntime, provider)
        load_libraries(onnxruntime, provider)
        options = onnxruntime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
        if not spinning:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if not fuse_quantised:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        if saturates_bytes():
            # Turns weights into unsigned bytes, whose kernels are right there. Not elsewhere: they
            # are slower, and ONNX Runtime would take them on processors with VNNI, too.
            options.add_session_config_entry("session.x64quantprecision", "1")
        # Not every version of ONNX Runtime refuses graphs that open files somewhere else.
        if not isinstance(model, bytes):
            external_files(model)
        elif locations(BytesIO(model)):
            raise BundleError(
                "the tower's weights lie in another file; load it from its path instead of its "
                "content"
            )
        source = model if isinstance(model, bytes) else str(model)
        try:
            session = onnxruntime.InferenceSession(
                source, options, providers=providers, enable_fallback=0
            )
        except Exception as error:  # noqa: BLE001 - the library raises many types
            if provider != "cpu":
                raise DeploymentError(
                    f"ONNX Runtime cannot load the tower with {provider}: {error}"
                ) from None
            raise BundleError(f"ONNX Runtime cannot load the tower: {error}") from None
        check_used(session, provider)
        self._session: Any = session
        self._info = _info(session, f"onnxruntime {onnxruntime.__version__} {provider.upper()}")

    @property
    def info(self) -> TowerInfo:
        """What the tower takes and gives; ONNX Runtime sets no limit on a batch."""
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
        # A batch under way holds the session until it ends.
        if (session := self._session) is None:
            raise ClosedError("the tower is closed; load it again")
        (embeddings,) = session.run(None, {self._info.input: batch})
        return np.asarray(embeddings, dtype=np.float32)

    def close(self) -> None:
        """Gives back the weights and ONNX Runtime's memory. A second call does nothing."""
        self._session = None


def _info(session: Any, runtime: str) -> TowerInfo:
    """What a session takes and gives; nothing of it holds the session."""
    dtypes = {"tensor(uint8)": "uint8", "tensor(int32)": "int32"}
    (tensor,), (output,) = session.get_inputs(), session.get_outputs()
    return TowerInfo(
        input=str(tensor.name),
        dtype=dtypes.get(tensor.type, tensor.type),
        shape=tuple(size if isinstance(size, int) else None for size in tensor.shape[1:]),
        dim=output.shape[-1],
        max_batch=None,
        max_length=None,
        runtime=runtime,
    )
