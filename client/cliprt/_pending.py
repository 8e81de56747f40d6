"""An answer that is under way, and what is tried before it counts as failed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol, cast

import grpc
import numpy as np
from numpy.typing import NDArray

from cliprt._errors import ServerError
from cliprt._forks import begin_call, end_call
from cliprt._grpc_errors import lost_process
from cliprt._sparing import GRACE_S, Expired

if TYPE_CHECKING:
    from cliprt._grpc import TritonChannel

DATATYPES = {"uint8": "UINT8", "int32": "INT32", "float32": "FP32"}
_DTYPES = {datatype: np.dtype(dtype) for dtype, datatype in DATATYPES.items()}

# How a server is told that is gone or about to go: its models go first.
_GONE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND)


class Payload(Protocol):
    """A request whose inputs may lie in a place that must be given back."""

    request: Any

    def on_wire(self, error: Any) -> Any | None:
        """The same request with its inputs inside, if the error says that it needs them."""

    def release(self) -> None:
        """Nobody will read the inputs any more."""


class PendingTensor:
    """An answer that is under way. Its methods may be called from any thread."""

    def __init__(
        self, channel: TritonChannel, payload: Payload, output: str, timeout_s: float
    ) -> None:
        """Sends the request.

        Raises:
            CliprtError: the channel is closed.
        """
        self._channel = channel
        self._payload = payload
        self._output = output
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        # A plain future of its own, because one answer may take more than one call.
        self._outcome: Future[Any] = Future()
        self._lock = threading.Lock()
        self._cancelled = self._settled = False
        # One answer from the beginning to the end.
        self._sparing = channel.spares_server
        self._may_resend = channel.waits_for_server
        self._call: Any = None
        begin_call()
        try:
            self._send(payload.request)
        except BaseException:
            end_call()
            payload.release()
            raise
        if self._sparing:
            channel.deadlines.add(self._deadline, self._expire)

    def result(self) -> NDArray[Any]:
        """Waits for the answer.

        Returns:
            The tensor, read-only.

        Raises:
            CliprtError: the error that the failure stands for.
        """
        self._channel.check_process()
        # Not raised and caught here: it would hold this frame, and that one this object.
        error = self._outcome.exception()
        if isinstance(error, (grpc.RpcError, grpc.FutureCancelledError, ValueError)):
            raise self._channel.translate(error, self._timeout_s)
        response = self._outcome.result()
        for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True):
            if tensor.name == self._output and tensor.datatype in _DTYPES:
                return np.frombuffer(raw, dtype=_DTYPES[tensor.datatype]).reshape(tensor.shape)
        raise ServerError(
            f"the server at {self._channel.address} sent no usable output {self._output!r}"
        )

    def exception(self) -> BaseException | None:
        """Waits for the answer; None if there is one, else the failure in the words of gRPC."""
        return self._outcome.exception()

    def done(self) -> bool:
        """Whether the answer, or its failure, is there: ``result`` would not wait."""
        return self._outcome.done()

    def cancel(self) -> None:
        """Tells the server that nobody waits any more; what it still has queued is dropped.

        A server that this can crash is not told, and answers nobody.
        """
        if self._channel.foreign:
            return
        with self._lock:
            self._cancelled = True
            call = self._call
        if self._sparing:
            self._settle(None, grpc.FutureCancelledError())
        elif call is not None:
            call.cancel()

    def add_done_callback(self, callback: Callable[[PendingTensor], object]) -> None:
        """Has a function called once, as soon as ``result`` would not wait.

        Args:
            callback: gets this object. It is called exactly once, also after a failure, after
                ``cancel`` and after the channel was closed: from a thread of gRPC, which it must
                not keep, or at once from the calling thread where the answer is there already.
        """
        self._outcome.add_done_callback(lambda _: callback(self))

    def _send(self, request: Any) -> None:
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:  # nobody would wait for it, and the server may only learn so late
            self._end(None, Expired())
            return
        # Not under the lock: a call that has ended already calls back from here.
        call = self._channel.start(request, remaining + GRACE_S if self._sparing else remaining)
        with self._lock:
            self._call, cancelled = call, self._cancelled
        if cancelled and not self._sparing:
            call.cancel()
        call.add_done_callback(self._ended)

    def _ended(self, call: Any) -> None:
        """A call has ended; runs in a thread of gRPC."""
        try:
            if call.code() == grpc.StatusCode.OK:
                self._channel.has_answered()
                self._end(call.result(), None)
                return
            request = None if self._cancelled else self._another(call)
            if request is None:
                self._end(None, _failure(call))
            else:
                self._send(request)
        except BaseException as error:  # noqa: BLE001 - whoever waits must hear of it
            self._end(None, error)

    def _another(self, call: Any) -> Any | None:
        """What to send once more, or None: first what the server could not find, then a lost one.

        gRPC tries again by itself, but not when the connection broke inside an answer. An
        embedding may be computed twice, so that is tried once more, too.
        """
        if time.monotonic() >= self._deadline:
            return None
        request = self._payload.on_wire(call)
        if request is None and self._may_resend and (call.code() in _GONE or lost_process(call)):
            self._may_resend = False
            return self._payload.request
        return request

    def _expire(self) -> None:
        """Nobody waits any longer, though the server may not know."""
        self._settle(None, Expired())

    def _end(self, response: Any, error: BaseException | None) -> None:
        """The last call has ended: the server reads the inputs no more."""
        end_call()
        self._payload.release()
        self._settle(response, error)

    def _settle(self, response: Any, error: BaseException | None) -> None:
        with self._lock:
            if self._settled:
                return
            self._settled = True
        if error is None:
            self._outcome.set_result(response)
        else:
            self._outcome.set_exception(error)


def _failure(call: Any) -> BaseException:
    """The error with which a call ended."""
    try:
        return cast("BaseException", call.exception())
    except grpc.FutureCancelledError as cancelled:
        return cast("BaseException", cancelled)
