"""The wire: Triton's gRPC protocol (KServe v2), and its failures as cliprt's errors.

Requests are built straight from the protocol's messages. That keeps tensors as raw bytes, gives
every call a finite deadline, and leaves the status code of a failure readable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc

from cliprt._errors import (
    CliprtError,
    ClosedError,
    DeadlineExceeded,
    ModelUnavailable,
    Overloaded,
    ServerError,
    ServerUnavailable,
)

_DATATYPES = {"uint8": "UINT8", "int32": "INT32", "float32": "FP32"}
_DTYPES = {datatype: np.dtype(dtype) for dtype, datatype in _DATATYPES.items()}

_CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Proxies that the environment names are for HTTP; they would break even loopback.
    ("grpc.enable_http_proxy", 0),
    # After a restart of the server a client is back within a second, not within two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)

# What Triton says when it refuses work it could do later. The status is the same UNAVAILABLE as
# for a dead server, only the text differs.
_OVERLOAD_TEXTS = ("exceeds maximum queue size", "request timeout expired")
_MODEL_TEXTS = ("unknown model", "no available versions", "is not ready")


class PendingTensor:
    """An answer that is under way."""

    def __init__(self, future: Any, output: str, channel: TritonChannel, timeout_s: float) -> None:
        self._future = future
        self._output = output
        self._channel = channel
        self._timeout_s = timeout_s

    def result(self) -> NDArray[Any]:
        """Waits for the answer.

        Raises:
            CliprtError: the error that the failure stands for.
        """
        try:
            response = self._future.result()
        except (grpc.RpcError, grpc.FutureCancelledError) as error:
            raise self._channel.translate(error, self._timeout_s) from None
        for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True):
            if tensor.name == self._output and tensor.datatype in _DTYPES:
                return np.frombuffer(raw, dtype=_DTYPES[tensor.datatype]).reshape(tensor.shape)
        raise ServerError(
            f"the server at {self._channel.address} sent no usable output {self._output!r}"
        )

    def done(self) -> bool:
        """Whether the answer, or its failure, is there: ``result`` would not wait."""
        return bool(self._future.done())

    def cancel(self) -> None:
        """Tells the server that nobody waits any more; what it still has queued is dropped."""
        self._future.cancel()

    def add_done_callback(self, callback: Callable[[PendingTensor], object]) -> None:
        """Has a function called once, as soon as ``result`` would not wait.

        Args:
            callback: gets this object. It is called exactly once, also after a failure, after
                ``cancel`` and after the channel was closed: from a thread of gRPC, which it must
                not keep, or at once from the calling thread where the answer is there already.
        """
        self._future.add_done_callback(lambda _: callback(self))


class TritonChannel:
    """A connection to one Triton server. Safe to use from many threads.

    Attributes:
        address: host and port.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._closed = False
        self._channel = grpc.insecure_channel(address, options=_CHANNEL_OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def close(self) -> None:
        """Closes the connection; calls under way are cancelled."""
        self._closed = True
        self._channel.close()

    def server_version(self, timeout_s: float) -> str:
        """Triton's version, for instance ``2.51.0``."""
        request = service_pb2.ServerMetadataRequest()
        return str(self._call(self._stub.ServerMetadata, request, timeout_s).version)

    def server_ready(self, timeout_s: float) -> bool:
        """Whether the server and all its models are ready."""
        return bool(
            self._call(self._stub.ServerReady, service_pb2.ServerReadyRequest(), timeout_s).ready
        )

    def model_config(self, model: str, timeout_s: float) -> Any:
        """The ``ModelConfig`` message of a model."""
        request = service_pb2.ModelConfigRequest(name=model)
        return self._call(self._stub.ModelConfig, request, timeout_s).config

    def infer(
        self,
        model: str,
        inputs: Mapping[str, NDArray[Any]],
        output: str,
        timeout_s: float,
        *,
        version: int | None = None,
        priority: int | None = None,
    ) -> PendingTensor:
        """Sends one request and returns at once.

        Args:
            model: name of the model.
            inputs: tensors by name; dtype uint8, int32 or float32.
            output: name of the tensor to return.
            timeout_s: deadline of this request, in seconds from now.
            version: version of the model that must answer; None takes the one that is served.
            priority: 1 is served first, greater numbers later; None is the model's default.
                Models without priority levels take no notice.
        """
        request = service_pb2.ModelInferRequest(
            model_name=model,
            model_version="" if version is None else str(version),
            outputs=[service_pb2.ModelInferRequest.InferRequestedOutputTensor(name=output)],
            inputs=[
                service_pb2.ModelInferRequest.InferInputTensor(
                    name=name, datatype=_DATATYPES[array.dtype.name], shape=array.shape
                )
                for name, array in inputs.items()
            ],
            raw_input_contents=[array.tobytes() for array in inputs.values()],
        )
        if priority is not None:
            request.parameters["priority"].uint64_param = priority
        try:
            future = self._stub.ModelInfer.future(request, timeout=timeout_s)
        except ValueError as error:
            raise self.translate(error, timeout_s) from None
        return PendingTensor(future, output, self, timeout_s)

    def _call(self, method: Any, request: Any, timeout_s: float) -> Any:
        try:
            return method(request, timeout=timeout_s)
        except (grpc.RpcError, ValueError) as error:
            raise self.translate(error, timeout_s) from None

    def translate(self, error: Any, timeout_s: float) -> CliprtError:
        """The error of cliprt that a failed call stands for."""
        # Once closed, gRPC fails in many ways: ValueError, CANCELLED, a cancelled future.
        if self._closed:
            return ClosedError("the client is closed; make a new one")
        if isinstance(error, grpc.FutureCancelledError):
            return ClosedError("the request was cancelled before it was answered")
        if isinstance(error, ValueError):
            return ServerError(f"the request could not be sent: {error}")
        return _translate(error, self.address, timeout_s)


def _translate(error: Any, address: str, timeout_s: float) -> CliprtError:
    code, details = error.code(), error.details() or ""
    text = details.lower()
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(
            f"{address} did not answer within {timeout_s:g} s; try again, pass a longer timeout_s, "
            "or send smaller batches"
        )
    if any(sign in text for sign in _OVERLOAD_TEXTS):
        return Overloaded(
            f"{address} has more requests than it can queue ({details}); "
            "wait before trying again, or send fewer at once"
        )
    if code == grpc.StatusCode.NOT_FOUND or any(sign in text for sign in _MODEL_TEXTS):
        return ModelUnavailable(
            f"{address} does not serve the model: {details}; "
            "check the model's name and the server's log"
        )
    if code == grpc.StatusCode.CANCELLED:
        return ServerUnavailable(f"{address} cancelled the request, it is probably shutting down")
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNIMPLEMENTED):
        return ServerUnavailable(
            f"no Triton gRPC server answers at {address}; check that it runs and that this is its "
            f"gRPC port (8001 by default, not the HTTP port 8000 or the metrics port 8002). "
            f"Cause: {details}"
        )
    return ServerError(f"{address} failed on the request ({code.name}): {details}")
