"""A tower in process with ONNX Runtime."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cliprt._errors import BundleError, DeploymentError
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
            self._session = onnxruntime.InferenceSession(
                source, options, providers=providers, enable_fallback=0
            )
        except Exception as error:  # noqa: BLE001 - the library raises many types
            if provider != "cpu":
                raise DeploymentError(
                    f"ONNX Runtime cannot load the tower with {provider}: {error}"
                ) from None
            raise BundleError(f"ONNX Runtime cannot load the tower: {error}") from None
        check_used(self._session, provider)
        (self._input,) = self._session.get_inputs()
        (self._output,) = self._session.get_outputs()
        self._runtime = f"onnxruntime {onnxruntime.__version__} {provider.upper()}"

    @property
    def info(self) -> TowerInfo:
        """What the tower takes and gives; ONNX Runtime sets no limit on a batch."""
        dtypes = {"tensor(uint8)": "uint8", "tensor(int32)": "int32"}
        sizes = tuple(size if isinstance(size, int) else None for size in self._input.shape[1:])
        return TowerInfo(
            input=self._input.name,
            dtype=dtypes[self._input.type],
            shape=sizes,
            dim=self._output.shape[-1],
            max_batch=None,
            max_length=None,
            runtime=self._runtime,
        )

    def run(self, batch: Inputs) -> NDArray[np.float32]:
        """Embeds a batch.

        Args:
            batch: uint8 pixels [batch, height, width, 3], or int32 tokens [batch, length].

        Returns:
            float32 [batch, dim], rows of length 1.
        """
        (embeddings,) = self._session.run(None, {self._input.name: batch})
        return np.asarray(embeddings, dtype=np.float32)

    def close(self) -> None:
        """Nothing to give back before the object itself goes."""
