"""Whatever is sent to the HTTP front: an error in OpenAI's form, and the next request works."""

from __future__ import annotations

import base64
import json
import socket
import time
from collections.abc import Iterator

import openai
import pytest
from cases import demo_pictures
from http_front import Front, ask, data_uri, post, running_front
from hypothesis import given, settings
from hypothesis import strategies as st
from patience import until

from cliprt import (
    ClosedError,
    DeadlineExceeded,
    ImageTooLarge,
    InvalidInput,
    ModelUnavailable,
    Overloaded,
    ServerError,
    ServerUnavailable,
)
from cliprt_triton import TritonServer
from cliprt_triton._front._errors import Refusal, refusal_for
from cliprt_triton._front._inputs import EmbeddingsRequest, parse_request

MIB = 2**20
PICTURE = demo_pictures()[0].read_bytes()
B64 = base64.b64encode(PICTURE).decode()
FINE = {"model": "clip", "input": "a"}


@pytest.fixture(scope="module")
def front(demo_server: TritonServer) -> Iterator[Front]:
    with running_front(demo_server.address, max_body_bytes=MIB, body_timeout_s=1.0) as front:
        yield front


def parsed(body: object) -> EmbeddingsRequest:
    encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
    return parse_request(encoded, model="clip", dim=64, max_items=2048)


BODIES = {
    "empty": (b"", "not valid JSON"),
    "no JSON": (b"input=a&model=clip", "not valid JSON"),
    "cut": (b'{"model":"clip","input":["a"', "not valid JSON"),
    "an array": (b"[]", "must be a JSON object"),
    "a number": (b"1", "must be a JSON object"),
    "not UTF-8": (b'{"model":"clip","input":"\xff"}', "not UTF-8"),
    "a lone surrogate": (b'{"model":"clip","input":"\\ud800"}', "not valid JSON"),
    "NaN": (b'{"model":"clip","input":NaN}', "not valid JSON"),
    "deep": (b'{"model":"clip","input":' + b"[" * 250_000, "nested too deeply"),
    "deep and whole": (
        b'{"model":"clip","input":' + b"[" * 99_999 + b"]" * 99_999 + b"}",
        "nested too deeply",
    ),
    "deep in what is unknown": (b'{"x":' + b"[" * 250_000, "nested too deeply"),
    "no input": (b'{"model":"clip"}', "you must provide the parameter 'input'"),
    "no model": (b'{"input":"a"}', "you must provide the parameter 'model'"),
    "null": (b'{"model":"clip","input":null}', "must be a string"),
    "an object": (b'{"model":"clip","input":{"image":"x"}}', "must be a string"),
    "objects": (b'{"model":"clip","input":["a",{}]}', "input[1] must be a string"),
    "no items": (b'{"model":"clip","input":[]}', "'input' is empty"),
    "a format": (
        b'{"model":"clip","input":"a","encoding_format":"hex"}',
        "'encoding_format' must be",
    ),
    "dimensions": (b'{"model":"clip","input":"a","dimensions":6.4}', "'dimensions' must be"),
    "great dimensions": (
        b'{"model":"clip","input":"a","dimensions":1e999}',
        "'dimensions' must be",
    ),
    "a user": (b'{"model":"clip","input":"a","user":[]}', "'user' must be"),
    "too many": (json.dumps({"model": "clip", "input": ["a"] * 2049}).encode(), "has 2,049 items"),
}

URIS = {
    "no comma": "data:image/jpeg;base64",
    "no base64": "data:image/jpeg,abc",
    "another type": f"data:text/plain;base64,{B64}",
    "no type": f"data:;base64,{B64}",
    "a space": f"data: image/jpeg;base64,{B64}",
    "spaces before": f"  data:image/jpeg;base64,{B64}",
    "no padding": f"data:image/jpeg;base64,{B64.rstrip('=')}A",
    "URL-safe letters": "data:image/jpeg;base64,_-8=",
    "line breaks": f"data:image/jpeg;base64,{B64[:76]}\n{B64[76:]}",
    "other letters": "data:image/jpeg;base64,ÄÖÜß",
    "percent signs": "data:image/jpeg;base64,%2F9j%2F",
    "nothing": "data:image/jpeg;base64,",
    "a cut picture": data_uri(PICTURE[:300]),
    "a drawing": data_uri(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"),
}


@pytest.mark.parametrize("name", BODIES)
def test_bodies(name: str, front: Front) -> None:
    body, message = BODIES[name]
    answer = post(front, body)
    assert answer.status == 400
    assert message in answer.error()["message"]
    assert post(front, FINE).status == 200


@pytest.mark.parametrize("name", URIS)
def test_what_begins_like_a_picture_is_never_taken_for_a_text(name: str, front: Front) -> None:
    answer = post(front, {"model": "clip", "input": ["a", URIS[name]]})
    assert answer.status == 400
    assert answer.error()["param"] == "input[1]"
    assert post(front, FINE).status == 200


@pytest.mark.parametrize("text", ["https://example.com/cat.jpg", "/etc/passwd", "file:///a", ""])
def test_addresses_and_paths_are_texts_like_any_other(text: str) -> None:
    assert parsed({"model": "clip", "input": text}).texts == (text,)


@pytest.mark.parametrize(
    "head", ["data:image/jpeg;base64,", "DATA:IMAGE/JPEG;BASE64,", "data:image/x;charset=a;base64,"]
)
def test_ways_to_write_a_data_uri(head: str) -> None:
    assert parsed({"model": "clip", "input": head + B64}).pictures == (PICTURE,)


def test_other_types_of_body(front: Front) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        answer = post(front, FINE, **{"Content-Type": kind})
        assert (answer.status, answer.error()["code"]) == (415, "unsupported_media_type")
    assert post(front, FINE, **{"Content-Encoding": "gzip"}).status == 415
    assert post(front, FINE, **{"Content-Type": "application/json; charset=utf-8"}).status == 200


def test_a_body_that_is_too_long_is_refused_before_it_is_read(front: Front) -> None:
    began = (
        "POST /v1/embeddings HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        f"Content-Length: {10 * 2**30}\r\n\r\n{{"
    )
    with socket.create_connection((front.host, front.port), timeout=20) as sending:
        sending.sendall(began.encode())
        answer = sending.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 413")
    assert b'"code":"request_too_large"' in answer
    assert post(front, FINE).status == 200


def test_openais_client_learns_that_its_body_is_too_long(front: Front) -> None:
    """Although it is still sending when the answer comes."""
    with openai.OpenAI(base_url=front.url, api_key="any", max_retries=0) as api:
        for _ in range(3):
            with pytest.raises(openai.APIStatusError, match="longer than 1,048,576 bytes"):
                api.embeddings.create(model="clip", input="a" * 30 * MIB)


def test_a_body_of_unknown_length_is_refused_where_it_becomes_too_long(front: Front) -> None:
    def pieces() -> Iterator[bytes]:
        yield b'{"model":"clip","input":"'
        for _ in range(19):
            yield b"a" * (MIB // 10)

    answer = ask(front, "POST", "/v1/embeddings", pieces(), {"Content-Type": "application/json"})
    assert (answer.status, answer.error()["code"]) == (413, "request_too_large")
    assert post(front, FINE).status == 200


def test_a_body_that_is_a_little_too_long_is_refused_with_the_reason(front: Front) -> None:
    """This client reads only when it has sent everything."""
    for _ in range(5):
        answer = post(front, {"model": "clip", "input": "a" * (2 * MIB - 100)})
        assert (answer.status, answer.error()["code"]) == (413, "request_too_large")


def test_a_body_in_chunks_of_a_byte_is_read(front: Front) -> None:
    body = json.dumps(FINE).encode()
    chunks = (body[place : place + 1] for place in range(len(body)))
    headers = {"Content-Type": "application/json"}
    assert ask(front, "POST", "/v1/embeddings", chunks, headers).status == 200


def test_a_body_that_dawdles_is_given_up(front: Front) -> None:
    head = "POST /v1/embeddings HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    with socket.create_connection((front.host, front.port), timeout=20) as dawdling:
        dawdling.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        # Others are served meanwhile.
        assert post(front, FINE).status == 200
        answer = dawdling.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"code":"request_timeout"' in answer


def test_what_is_no_http_does_no_harm(front: Front) -> None:
    for sent in (b"\x00\xff" * 100, b"GET / HTTP/9.9\r\n\r\n", b"A" * 100_000, b""):
        with socket.create_connection((front.host, front.port), timeout=20) as sending:
            sending.sendall(sent)
            sending.shutdown(socket.SHUT_WR)
        assert post(front, FINE).status == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1/embeddings", 405),
        ("POST", "/v1/embeddings/", 404),
        ("POST", "/v1/models", 405),
        ("POST", "/v1/chat/completions", 404),
        ("GET", "/v1/models/..%2f..%2fetc", 404),
        ("GET", "/v1/models/", 404),
        ("DELETE", "/metrics", 405),
    ],
)
def test_paths_and_methods_that_there_are_not(
    method: str, path: str, status: int, front: Front
) -> None:
    answer = ask(front, method, path)
    assert answer.status == status
    assert answer.error()["type"] == "invalid_request_error"


def test_request_ids_that_could_forge_a_log_are_replaced(front: Front) -> None:
    for given_id in ("a b", '{"x":1}', "a" * 200, ""):
        answer = post(front, FINE, **{"X-Request-Id": given_id})
        assert answer.headers["x-request-id"].startswith("req_")


def test_one_connection_carries_errors_and_answers_in_turn(front: Front) -> None:
    import http.client

    connection = http.client.HTTPConnection(front.host, front.port, timeout=20)
    headers = {"Content-Type": "application/json"}
    statuses = []
    for body in (FINE, {"model": "no"}, FINE, {"model": "clip", "input": "data:x"}, FINE):
        connection.request("POST", "/v1/embeddings", json.dumps(body), headers)
        response = connection.getresponse()
        response.read()
        statuses.append(response.status)
        socket_of = connection.sock
        assert socket_of is not None  # kept alive
    connection.close()
    assert statuses == [200, 400, 200, 400, 200]


def test_bodies_of_all_callers_share_a_budget(demo_server: TritonServer) -> None:
    """Eight times the longest body: nine callers who each hold most of one are one too many."""
    head = "POST /v1/embeddings HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    with running_front(demo_server.address, max_body_bytes=100_000, body_timeout_s=20) as front:
        held = []
        try:
            for _ in range(8):
                one = socket.create_connection((front.host, front.port), timeout=20)
                one.sendall(f"{head}Content-Length: 100000\r\n\r\n".encode() + b" " * 99_999)
                held.append(one)
            deadline = time.monotonic() + 60
            while (answer := post(front, FINE)).status == 200:
                assert time.monotonic() < deadline
            assert (answer.status, answer.error()["code"]) == (429, "overloaded")
        finally:
            for one in held:
                one.close()
        until(lambda: post(front, FINE).status == 200)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
BODY = st.fixed_dictionaries(
    {"model": st.just("clip") | JSON, "input": JSON},
    optional=dict.fromkeys(("encoding_format", "dimensions", "user", "else"), JSON),
)


@settings(max_examples=300)
@given(st.binary() | JSON.map(json.dumps).map(str.encode) | BODY.map(json.dumps).map(str.encode))
def test_any_body_is_a_request_or_a_refusal(body: bytes) -> None:
    try:
        found = parsed(body).items
    except Refusal as refused:
        told = refused
    else:
        assert found >= 1
        return
    assert told.status in (400, 404)
    assert set(json.loads(told.body())["error"]) == {"message", "type", "param", "code"}


@settings(max_examples=100)
@given(st.lists(st.binary(min_size=1) | st.text().map("x{}".format), min_size=1, max_size=30))
def test_items_keep_their_places(items: list[bytes | str]) -> None:
    sent = [data_uri(item) if isinstance(item, bytes) else item for item in items]
    try:
        found = parsed({"model": "clip", "input": sent})
    except Refusal:
        # Lone surrogates are no Unicode, and no JSON decoder of ours takes them.
        assert any("\\ud" in json.dumps(item) for item in items if isinstance(item, str))
        return
    placed = dict(zip(found.text_places, found.texts, strict=True))
    placed |= dict(zip(found.picture_places, found.pictures, strict=True))  # type: ignore[arg-type]
    assert [placed[place] for place in range(len(items))] == items


def test_every_error_of_the_client_has_its_status() -> None:
    secret = "10.1.2.3:8001 /home/someone"
    expected = {
        InvalidInput: 400, ImageTooLarge: 400, Overloaded: 429, DeadlineExceeded: 504,
        ServerUnavailable: 503, ModelUnavailable: 503, ServerError: 500, ClosedError: 503,
    }  # fmt: skip
    for kind, status in expected.items():
        refusal = refusal_for(kind(secret))
        assert refusal.status == status
        if not issubclass(kind, InvalidInput):
            assert secret not in refusal.message
        assert ("retry-after" in refusal.headers) == (status in (429, 503))
