"""Requests whose bodies or headers are the attack, and what is promised for each on each way in."""

from __future__ import annotations

import gzip
import socket

import grpc
import numpy as np
from http_front import ask, post
from input_tensors import of_pixels, over_grpc
from input_tensors import post as post_to_triton
from input_world import SAME, World
from wire import refusal, request_of

MIB = 2**20


def compressed(world: World, way: str) -> None:
    """What is small on the wire and large behind it."""
    if way == "OpenAI":
        body = gzip.compress(bytes(80 * MIB))
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        assert ask(world.front, "POST", "/v1/embeddings", body, headers).status == 415
        return
    if way == "tower gRPC":
        good = of_pixels()
        found = over_grpc(world.stub, good, compression=grpc.Compression.Gzip)
        np.testing.assert_allclose(found, world.right_of(good), atol=SAME)
        bomb = request_of("clip_image_file", {"image": [bytes(64 * MIB)]})
        code, text = refusal(lambda: world.stub.ModelInfer(bomb, compression=grpc.Compression.Gzip))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "max_image_bytes" in text
        return
    place, fields = "/v2/models/clip_text_string/infer", {"Content-Encoding": "gzip"}
    bomb = gzip.compress(bytes(80 * MIB))
    # Neither form of it meets a limit: both come as far as the parser of JSON.
    for body, said in ((bomb, fields), (bytes(80 * MIB), {})):
        status, content = post_to_triton(world.host, place, body, said)
        assert (status, b"failed to parse the request JSON" in content) == (500, True)
    # What Triton cannot unpack counts as nothing, and nothing as the bytes of the only input.
    status, content = post_to_triton(world.host, place, b"broken", fields)
    assert (status, content) == post_to_triton(world.host, place, b"", {})
    place = "/v2/models/clip_image_file/infer"
    status, content = post_to_triton(world.host, place, b"broken", fields)
    assert (status, b"the image is empty" in content) == (400, True)


def deep_json(world: World, way: str) -> None:
    """JSON within JSON.

    Triton 24.10 reads it with a stack, and ends where that does: the whole server with it, so it
    gets a depth that it can bear. See tests/reliability/test_faults_killed.py::
    test_json_that_ends_triton_costs_callers_who_wait_nothing.
    """
    depth = 250_000 if way == "OpenAI" else 10_000
    for body, status in (
        (b'{"inputs":' + b"[" * depth, 500),
        (b'{"inputs":' + b"[" * depth + b"]" * depth + b"}", 400),
        (b'{"input":' + b'{"a":' * depth + b"1" + b"}" * (depth + 1), 500),
    ):
        if way == "OpenAI":
            assert post(world.front, body).status == 400
        else:
            path = "/v2/models/clip_text_string/infer"
            assert post_to_triton(world.host, path, body, {})[0] == status


def long_headers(world: World, way: str) -> None:
    if way == "tower gRPC":
        request = request_of("clip_text", {"tokens": np.ones((1, 3), np.int32)})
        code, _ = refusal(lambda: world.stub.ModelInfer(request, metadata=[("x-long", "a" * MIB)]))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        return
    if way == "tower HTTP":
        for length in ("-1", "99999999999999999999", "5", "words"):
            fields = {"Inference-Header-Content-Length": length}
            status, _ = post_to_triton(world.host, "/v2/models/clip_text/infer", b"{}", fields)
            assert status == 400, length
    host, port = _place(world, way)
    long = b"POST /v1/embeddings HTTP/1.1\r\nHost: a\r\nX-Long: " + b"a" * MIB + b"\r\n\r\n"
    with socket.create_connection((host, port), timeout=60) as sending:
        try:
            sending.sendall(long)
            answer = sending.recv(12)
        except ConnectionError:
            answer = b""  # hung up upon
    assert answer in (b"", b"HTTP/1.1 400", b"HTTP/1.1 431", b"HTTP/1.1 404")


def _place(world: World, way: str) -> tuple[str, int]:
    """Host and port of HTTP."""
    if way == "OpenAI":
        return world.front.host, world.front.port
    host, _, port = world.host.partition(":")
    return host, int(port)


def chunked(world: World, way: str) -> None:
    """White space in chunks of one byte: 1.2 MB on the wire to the front, 3 MB to Triton.

    Triton 24.10 ends where there are more. See tests/reliability/test_inputs_to_tritons_http.py.
    """
    host, port = _place(world, way)
    if way == "OpenAI":
        answer = in_chunks(host, port, "/v1/embeddings", 200_000)
        assert answer == b"HTTP/1.1 400"
    else:
        answer = in_chunks(host, port, "/v2/models/clip_text_string/infer", 500_000)
        assert answer == b"HTTP/1.1 500"


def in_chunks(host: str, port: int, path: str, count: int) -> bytes:
    """Sends so many chunks of one byte; the beginning of the answer, nothing if there is none."""
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    head += "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    with socket.create_connection((host, port), timeout=120) as sending:
        try:
            sending.sendall(head.encode() + b"1\r\n \r\n" * count + b"0\r\n\r\n")
            return sending.recv(12)
        except ConnectionError:
            return b""
