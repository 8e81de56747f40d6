"""What goes between the load generator and a rival's process: frames on a stream.

A frame is its length (4 bytes, little endian) and a payload. A request is a letter, ``i`` for
encoded pictures or ``t`` for UTF-8 texts, the number of items, and each item with its length before
it. An answer is ``e``, rows, columns and float32 values, or ``x`` and a text that says what failed.

This file needs the standard library and NumPy alone: it runs in the rivals' environments too.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

IMAGES, TEXTS = "image", "text"
# The largest payload in bytes: far above a batch of pictures, far below the memory at hand.
MOST_BYTES = 1 << 28

_LETTERS = {IMAGES: b"i", TEXTS: b"t"}
_KINDS = {letter: kind for kind, letter in _LETTERS.items()}
_LENGTH = struct.Struct("<I")
_SHAPE = struct.Struct("<II")


class ProtocolError(Exception):
    """What came is no frame, request or answer."""


class RivalError(Exception):
    """The rival was asked and failed; the message is its own."""


def pack_request(kind: str, items: Sequence[bytes] | Sequence[str]) -> bytes:
    """The payload of a request.

    Args:
        kind: ``image`` (items are encoded pictures) or ``text`` (items are strings).
        items: what to embed.
    """
    coded = [item.encode() if isinstance(item, str) else item for item in items]
    parts = [_LETTERS[kind], _LENGTH.pack(len(coded))]
    for item in coded:
        parts += [_LENGTH.pack(len(item)), item]
    return b"".join(parts)


def unpack_request(payload: bytes) -> tuple[str, list[bytes] | list[str]]:
    """Kind and items of a request.

    Raises:
        ProtocolError: the payload is no request.
    """
    kind = _KINDS.get(payload[:1])
    if kind is None:
        raise ProtocolError(f"a request begins with i or t, got {payload[:1]!r}")
    count, at = _number(payload, 1), 1 + _LENGTH.size
    items = []
    for _ in range(count):
        length = _number(payload, at)
        at += _LENGTH.size
        if at + length > len(payload):
            raise ProtocolError(f"an item of {length} bytes ends after the request's end")
        items.append(payload[at : at + length])
        at += length
    if at != len(payload):
        raise ProtocolError(f"{len(payload) - at} bytes follow the request's last item")
    if kind == IMAGES:
        return kind, items
    try:
        return kind, [item.decode() for item in items]
    except UnicodeDecodeError as error:
        raise ProtocolError(f"a text is no UTF-8: {error}") from None


def pack_embeddings(rows: NDArray[np.float32]) -> bytes:
    """The payload of an answer.

    Args:
        rows: embeddings, float32 [n, dim].
    """
    return b"e" + _SHAPE.pack(*rows.shape) + np.ascontiguousarray(rows, "<f4").tobytes()


def pack_error(message: str) -> bytes:
    """The payload of an answer that says what failed."""
    return b"x" + message.encode(errors="replace")


def unpack_answer(payload: bytes) -> NDArray[np.float32]:
    """The embeddings of an answer, float32 [n, dim].

    Raises:
        RivalError: the answer says that the rival failed.
        ProtocolError: the payload is no answer.
    """
    letter, at = payload[:1], 1 + _SHAPE.size
    if letter == b"x":
        raise RivalError(payload[1:].decode(errors="replace"))
    if letter != b"e" or len(payload) < at:
        raise ProtocolError(f"an answer begins with e and a shape or with x, got {payload[:at]!r}")
    rows, columns = _SHAPE.unpack_from(payload, 1)
    if len(payload) - at != 4 * rows * columns:
        raise ProtocolError(
            f"an answer of {rows} x {columns} float32 has {4 * rows * columns} bytes, "
            f"got {len(payload) - at}"
        )
    if not rows * columns and (rows or columns) > MOST_BYTES:
        raise ProtocolError(f"an empty answer has {rows} rows and {columns} columns")
    return np.frombuffer(payload, "<f4", offset=at).reshape(rows, columns)


def send_frame(stream: socket.socket, payload: bytes) -> None:
    """Sends a payload with its length before it.

    Raises:
        ProtocolError: it is larger than ``MOST_BYTES``.
    """
    if len(payload) > MOST_BYTES:
        raise ProtocolError(f"a frame has at most {MOST_BYTES} bytes, this one {len(payload)}")
    stream.sendall(_LENGTH.pack(len(payload)) + payload)


def receive_frame(stream: socket.socket) -> bytes | None:
    """The next payload, or None where the stream ended between two frames.

    Raises:
        ProtocolError: the stream ended within a frame, or the frame is larger than ``MOST_BYTES``.
    """
    head = _receive(stream, _LENGTH.size)
    if not head:
        return None
    if len(head) < _LENGTH.size:
        raise ProtocolError("the stream ended within the length of a frame")
    (length,) = _LENGTH.unpack(head)
    if length > MOST_BYTES:
        raise ProtocolError(f"a frame has at most {MOST_BYTES} bytes, this one says {length}")
    payload = _receive(stream, length)
    if len(payload) < length:
        raise ProtocolError(f"the stream ended after {len(payload)} of a frame's {length} bytes")
    return payload


def _receive(stream: socket.socket, count: int) -> bytes:
    """So many bytes, or fewer where the stream ends."""
    buffer = bytearray(count)
    view, got = memoryview(buffer), 0
    while got < count:
        more = stream.recv_into(view[got:])
        if not more:
            break
        got += more
    return bytes(view[:got])


def _number(payload: bytes, at: int) -> int:
    if at + _LENGTH.size > len(payload):
        raise ProtocolError("the request ended within a length")
    return int(_LENGTH.unpack_from(payload, at)[0])
