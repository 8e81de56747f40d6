"""HTTP/2 as nobody's library would send it: headers with any bytes in them."""

from __future__ import annotations

import socket

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS, _PING, _GOAWAY = 0, 1, 4, 6, 7
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1


def call(address: str, method: str, *headers: tuple[bytes, bytes]) -> bytes:
    """Makes a call of gRPC with an empty message.

    Args:
        address: host and port, plain text.
        method: ``/SERVICE/METHOD``.
        headers: besides those that gRPC wants, sent as they are.

    Returns:
        The message that was answered; empty where the call was refused.
    """
    host, _, port = address.rpartition(":")
    fields = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", method.encode()),
        (b":authority", address.encode()),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        *headers,
    ]
    with socket.create_connection((host, int(port)), timeout=20) as wire:
        wire.sendall(
            _PREFACE
            + _frame(_SETTINGS, 0, 0, b"")
            + _frame(_HEADERS, _END_HEADERS, 1, b"".join(_field(*each) for each in fields))
            + _frame(_DATA, _END_STREAM, 1, bytes(5))
        )
        answer = b""
        stream = wire.makefile("rb")
        while len(head := stream.read(9)) == 9:
            kind, flags = head[3], head[4]
            content = stream.read(int.from_bytes(head[:3], "big"))
            if kind == _SETTINGS and not flags & _ACK:
                wire.sendall(_frame(_SETTINGS, _ACK, 0, b""))
            elif kind == _PING and not flags & _ACK:
                wire.sendall(_frame(_PING, _ACK, 0, content))
            elif kind == _DATA:
                answer += content
            if kind == _GOAWAY or (int.from_bytes(head[5:], "big") == 1 and flags & _END_STREAM):
                break
            if kind == 3:  # RST_STREAM
                break
    return answer[5:]


def _field(name: bytes, value: bytes) -> bytes:
    """A literal header that is not indexed, without Huffman's code (RFC 7541, 6.2.2)."""
    return b"\0" + _string(name) + _string(value)


def _string(text: bytes) -> bytes:
    assert len(text) < 127
    return bytes([len(text)]) + text


def _frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    head = len(content).to_bytes(3, "big") + bytes([kind, flags])
    return head + stream.to_bytes(4, "big") + content
