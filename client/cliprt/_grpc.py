"""The wire: Triton's gRPC protocol (KServe v2), over one channel.

Requests are built straight from the protocol's messages. That keeps tensors as raw bytes, gives
every call a finite deadline, and leaves the status code of a failure readable.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import grpc
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc

from cliprt._channel import open_channel
from cliprt._connection import Connection, checked_token
from cliprt._errors import CliprtError, ClosedError, ServerError, closed
from cliprt._forks import begin_call, call_under_way, end_call, keep_in_children
from cliprt._grpc_errors import translate
from cliprt._pending import DATATYPES, Payload, PendingTensor
from cliprt._shared_memory import SharedInputs
from cliprt._sparing import QUEUE_GRACE_S, Deadlines, needs_sparing
from cliprt._statistics import ModelStatistics, read_statistics

__all__ = ["PendingTensor", "TritonChannel"]

# A connection that is gone is known to be at once; a server that is there need not hurry.
_SIGN_OF_LIFE_S = 0.2

_VERSION_TIMEOUT_S = 10.0


class TritonChannel:
    """A connection to one Triton server, or to several that serve the same.

    Safe to use from many threads, also while one of them closes it. A process that was forked off
    cannot use it and is told so.

    Attributes:
        connection: how the server is reached.
        address: its endpoints as text, for messages.
        deadlines: those that are kept here and not by the server.
    """

    def __init__(self, connection: Connection | str) -> None:
        """Makes the channel; it connects when it is first used.

        Raises:
            ValueError: the address is malformed, or a TLS file cannot be read.
            ServerUnavailable: a name in a list of endpoints cannot be looked up.
        """
        if isinstance(connection, str):
            connection = Connection(connection)
        self.connection = connection
        self.address = connection.address
        self._closed = False
        self._answered = False
        self._asked = False
        self._spares = True
        self.deadlines = Deadlines()
        self._process = os.getpid()
        with call_under_way():
            self._channel = open_channel(connection)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._shared = SharedInputs(self._shared_memory_call) if connection.shared_memory else None
        keep_in_children(self)

    @property
    def foreign(self) -> bool:
        """Whether it belongs to the process from which this one was forked off."""
        return self._process != os.getpid()

    @property
    def waits_for_server(self) -> bool:
        """Whether requests outlast a server that is gone for a while."""
        retry = self.connection.retry
        return retry is not None and retry.wait_for_server and self._answered

    @property
    def spares_server(self) -> bool:
        """Whether the server must not see deadlines and cancellations; until it is known, yes."""
        return self._spares

    def close(self) -> None:
        """Closes the connection; calls under way are cancelled. A second call does nothing."""
        if self._closed or self.foreign:
            self._closed = True
            return
        # First, so that what fails from now on is known to fail for this reason.
        self._closed = True
        if self._shared is not None:
            self._shared.close()
        with call_under_way():
            self._channel.close()
        self.deadlines.close()

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

    def statistics(self, model: str, timeout_s: float) -> ModelStatistics:
        """What the server has counted for a model since it was loaded.

        Of several endpoints one answers for itself.

        Raises:
            ModelUnavailable: there is no such model.
        """
        request = service_pb2.ModelStatisticsRequest(name=model)
        return read_statistics(self._call(self._stub.ModelStatistics, request, timeout_s))

    def infer(
        self,
        model: str,
        inputs: Mapping[str, NDArray[Any]],
        output: str,
        timeout_s: float,
        *,
        version: int | None = None,
        priority: int | None = None,
        queue_timeout_s: float | None = None,
    ) -> PendingTensor:
        """Sends one request and returns at once.

        The first request with shared memory waits until the server has answered whether it may.

        Args:
            model: name of the model.
            inputs: tensors by name; dtype uint8, int32 or float32.
            output: name of the tensor to return.
            timeout_s: deadline of this request and all attempts at it, in seconds from now.
            version: version of the model that must answer; None takes the one that is served.
            priority: 1 is served first, greater numbers later; None is the model's default.
                Models without priority levels take no notice.
            queue_timeout_s: how long it may wait in the server's queue, in seconds; if it waits
                longer it is refused. None leaves that to the queue and the deadline.

        Raises:
            ClosedError: the channel is closed, or belongs to the parent of this process.
        """
        self.check_process()
        if self._closed:
            raise self.translate(None, timeout_s)
        request = service_pb2.ModelInferRequest(
            model_name=model,
            model_version="" if version is None else str(version),
            outputs=[service_pb2.ModelInferRequest.InferRequestedOutputTensor(name=output)],
            inputs=[
                service_pb2.ModelInferRequest.InferInputTensor(
                    name=name, datatype=DATATYPES[array.dtype.name], shape=array.shape
                )
                for name, array in inputs.items()
            ],
        )
        if priority is not None:
            request.parameters["priority"].uint64_param = priority
        if self._spares and queue_timeout_s is None:
            # In the queue it is dropped all the same, where the model's policy permits.
            queue_timeout_s = timeout_s + QUEUE_GRACE_S
        if queue_timeout_s is not None:
            request.parameters["timeout"].int64_param = math.ceil(queue_timeout_s * 1e6)
        payload = self._shared.place(request, inputs, timeout_s) if self._shared else None
        return PendingTensor(self, payload or _Inline(request, inputs), output, timeout_s)

    # What follows is for PendingTensor and for this class.

    def start(self, request: Any, timeout_s: float) -> Any:
        """Starts a call of inference and returns gRPC's future."""
        try:
            metadata = self._metadata()
            if not self._asked:
                self._asked = True
                version = self._stub.ServerMetadata.future(
                    service_pb2.ServerMetadataRequest(),
                    timeout=_VERSION_TIMEOUT_S,
                    metadata=metadata,
                )
                begin_call(within_another=True)
                version.add_done_callback(self._learn_version)
            return self._stub.ModelInfer.future(
                request,
                timeout=timeout_s,
                metadata=metadata,
                wait_for_ready=self.waits_for_server,
            )
        except ValueError as error:
            raise self.translate(error, timeout_s) from None

    def _learn_version(self, call: Any) -> None:
        end_call()
        if call.code() == grpc.StatusCode.OK:
            self._spares = needs_sparing(str(call.result().version))

    def has_answered(self) -> None:
        """The server is the right one: from now on it may be waited for."""
        self._answered = True

    def check_process(self) -> None:
        """Refuses to work in a process that was forked off.

        Raises:
            ClosedError: this is not the process that made the channel.
        """
        if self.foreign:
            raise ClosedError(
                "this client was made before the process was forked and works in the parent alone; "
                "make a new one in the child"
            )

    def translate(self, error: Any, timeout_s: float) -> CliprtError:
        """The error of cliprt that a failed call stands for."""
        # Once closed, gRPC fails in many ways: ValueError, CANCELLED, a cancelled future.
        if self._closed:
            return closed()
        if isinstance(error, grpc.FutureCancelledError):
            return ClosedError("the request was cancelled before it was answered")
        if isinstance(error, ValueError):
            return ServerError(f"the request could not be sent: {error}")
        return translate(error, self.connection, timeout_s, lost=self._lost(error))

    def _call(self, method: Any, request: Any, timeout_s: float) -> Any:
        self.check_process()
        try:
            metadata = self._metadata()
            with call_under_way():
                answer = method(
                    request,
                    timeout=timeout_s,
                    metadata=metadata,
                    wait_for_ready=self.waits_for_server,
                )
        except (grpc.RpcError, ValueError) as error:
            raise self.translate(error, timeout_s) from None
        self._answered = True
        return answer

    def _lost(self, error: Any) -> bool:
        """Whether a call that ran out of time was waiting for a server that is gone.

        gRPC does not say, so the server is asked for a sign of life.
        """
        if not self.waits_for_server or error.code() != grpc.StatusCode.DEADLINE_EXCEEDED:
            return False
        try:
            with call_under_way():
                self._stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=_SIGN_OF_LIFE_S)
        except grpc.RpcError as failed:
            return bool(failed.code() == grpc.StatusCode.UNAVAILABLE)
        except ValueError:
            return False  # closed meanwhile
        return False

    def _shared_memory_call(self, method: str, request: Any, timeout_s: float) -> Any:
        return self._call(getattr(self._stub, method), request, timeout_s)

    def _metadata(self) -> list[tuple[str, str]]:
        pairs = [*self.connection.metadata]
        auth = self.connection.auth
        if auth is not None:
            token = auth if isinstance(auth, str) else checked_token(auth())
            pairs.append(("authorization", f"Bearer {token}"))
        return pairs


class _Inline(Payload):
    """A request that carries its inputs."""

    def __init__(self, request: Any, inputs: Mapping[str, NDArray[Any]]) -> None:
        request.raw_input_contents.extend(array.tobytes() for array in inputs.values())
        self.request = request

    def on_wire(self, error: Any) -> None:
        return None

    def release(self) -> None:
        # Retries are over; the inputs need not live as long as the answer.
        self.request = None
