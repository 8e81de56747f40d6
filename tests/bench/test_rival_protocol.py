"""What goes between the asker and a rival's process: frames, requests, answers."""

from __future__ import annotations

import socket
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rivals.protocol import (
    MOST_BYTES,
    ProtocolError,
    RivalError,
    pack_embeddings,
    pack_error,
    pack_request,
    receive_frame,
    send_frame,
    unpack_answer,
    unpack_request,
)


@given(st.lists(st.binary()))
def test_pictures_come_as_they_went(items: list[bytes]) -> None:
    assert unpack_request(pack_request("image", items)) == ("image", items)


@given(st.lists(st.text()))
def test_texts_come_as_they_went(items: list[str]) -> None:
    assert unpack_request(pack_request("text", items)) == ("text", items)


@given(st.integers(0, 5), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_embeddings_come_as_they_went(rows: int, columns: int, seed: int) -> None:
    sent = np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)
    np.testing.assert_array_equal(unpack_answer(pack_embeddings(sent)), sent)


@given(st.binary() | st.binary().map(lambda tail: b"i\x02\0\0\0" + tail))
def test_other_bytes_are_no_request(payload: bytes) -> None:
    try:
        kind, items = unpack_request(payload)
    except ProtocolError:
        return
    assert pack_request(kind, items) == payload


@given(st.binary() | st.binary().map(lambda tail: b"e\x01\0\0\0\x01\0\0\0" + tail))
def test_other_bytes_are_no_answer(payload: bytes) -> None:
    try:
        rows = unpack_answer(payload)
    except (ProtocolError, RivalError):
        return
    assert pack_embeddings(rows) == payload


def test_an_error_comes_as_the_rivals_own() -> None:
    with pytest.raises(RivalError, match="out of words"):
        unpack_answer(pack_error("out of words"))


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (b"\x01\0", "within the length"),
        (struct.pack("<I", 9) + b"four", "after 4 of a frame's 9 bytes"),
        (struct.pack("<I", MOST_BYTES + 1), "at most"),
    ],
)
def test_a_broken_frame_is_told(sent: bytes, message: str) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(sent)
        ours.shutdown(socket.SHUT_WR)
        with pytest.raises(ProtocolError, match=message):
            receive_frame(theirs)


def test_a_stream_that_ends_between_frames_has_ended() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send_frame(ours, b"whole")
        ours.shutdown(socket.SHUT_WR)
        assert receive_frame(theirs) == b"whole"
        assert receive_frame(theirs) is None


# --- worker ---
