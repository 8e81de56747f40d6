"""Asking Triton without the client, as callers in other languages do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import serialize_byte_tensor

from cliprt_triton._server_flags import ADMIN_HEADER

DTYPES = {"FP32": np.float32, "UINT8": np.uint8, "INT32": np.int32}
DATATYPES = {np.dtype(dtype).name: name for name, dtype in DTYPES.items()}


@contextmanager
def stub_of(address: str) -> Iterator[Any]:
    """Triton's gRPC service."""
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(address, options=options) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def load_anew(address: str, model: str, *, secret: str, timeout_s: float) -> str | None:
    """Has a server load a model again that has changed; says why it refuses, if it does.

    Args:
        address: of its gRPC.
        model: what to load.
        secret: of who administrates.
        timeout_s: how long that may take, in seconds.
    """
    request = service_pb2.RepositoryModelLoadRequest(model_name=model)
    with stub_of(address) as stub:
        try:
            stub.RepositoryModelLoad(request, timeout=timeout_s, metadata=[(ADMIN_HEADER, secret)])
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"
    return None


def request_of(model: str, inputs: Mapping[str, Sequence[bytes] | NDArray[Any]]) -> Any:
    """A request of tensors; a list of bytes is a column of strings."""
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, value in inputs.items():
        if isinstance(value, np.ndarray):
            request.inputs.add(name=name, datatype=DATATYPES[value.dtype.name], shape=value.shape)
            request.raw_input_contents.append(value.tobytes())
            continue
        column = np.array([[item] for item in value], dtype=np.object_).reshape(-1, 1)
        request.inputs.add(name=name, datatype="BYTES", shape=column.shape)
        packed = serialize_byte_tensor(column)
        request.raw_input_contents.append(packed.item() if packed.size else b"")
    return request


def tensors_of(response: Any) -> dict[str, NDArray[Any]]:
    """The tensors of a response, by name."""
    return {
        tensor.name: np.frombuffer(raw, DTYPES[tensor.datatype]).reshape(tensor.shape)
        for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }


def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    """Status and text of a call that fails; OK and nothing if it does not."""
    try:
        call()
    except grpc.RpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""
