"""What callers of the front are told: OpenAI's form of errors, and cliprt's errors in it.

Every sentence here may be read by strangers: none holds an address, a path or a stack trace.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from cliprt import (
    CliprtError,
    ClosedError,
    DeadlineExceeded,
    ImageTooLarge,
    InvalidInput,
    ModelUnavailable,
    Overloaded,
    ServerUnavailable,
)

RETRY_AFTER_S = 1
"""When those who were refused because of load may come back."""

_LATER = {"retry-after": str(RETRY_AFTER_S)}


class Refusal(Exception):
    """An answer other than 200.

    Attributes:
        status: HTTP status.
        message: what was wrong, which limit, and the way out.
        kind: OpenAI's ``type``.
        param: the field at fault, ``input[3]``, or None.
        code: OpenAI's ``code``, for programs, or None.
        headers: further headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def body(self) -> bytes:
        """The JSON that is sent."""
        error = {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }
        return msgspec.json.encode({"error": error})


def invalid(message: str, param: str | None = None, code: str | None = None) -> Refusal:
    """The caller has to send something else."""
    return Refusal(400, message, param=param, code=code)


def busy(message: str) -> Refusal:
    """The caller has to come back later."""
    return Refusal(429, message, kind="server_error", code="overloaded", headers=_LATER)


def not_ready() -> Refusal:
    """The server should get no requests now."""
    return Refusal(
        503,
        "the model is not ready, or does not give the answers it should; the log says why",
        kind="server_error",
        code="not_ready",
        headers=_LATER,
    )


def internal() -> Refusal:
    """Something that nobody foresaw; the log has it."""
    return Refusal(
        500,
        "the server failed on this request; its log says why, under the request id",
        kind="server_error",
        code="internal_error",
    )


def refusal_for(error: CliprtError) -> Refusal:
    """What a failure of the towers looks like over HTTP.

    Args:
        error: its index, where it has one, is that in the caller's ``input``.
    """
    if isinstance(error, InvalidInput):
        param = "input" if error.index is None else f"input[{error.index}]"
        code = "image_too_large" if isinstance(error, ImageTooLarge) else "invalid_input"
        return invalid(f"{param}: {error.reason}", param, code)
    if isinstance(error, Overloaded):
        return busy("the server has more requests than it can queue; wait before trying again")
    if isinstance(error, DeadlineExceeded):
        return Refusal(
            504,
            "the server did not answer in time; try again, or send fewer items at once",
            kind="server_error",
            code="deadline_exceeded",
        )
    if isinstance(error, (ServerUnavailable, ClosedError)):
        return Refusal(
            503,
            "the model server is not there at the moment; try again",
            kind="server_error",
            code="server_unavailable",
            headers=_LATER,
        )
    if isinstance(error, ModelUnavailable):
        return Refusal(
            503,
            "the model is not served at the moment; whoever runs the server finds the reason in "
            "its log",
            kind="server_error",
            code="model_unavailable",
            headers=_LATER,
        )
    return internal()
