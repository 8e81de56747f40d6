"""The HTTP front as something to measure: its connections, and answers that are none."""

from __future__ import annotations

import base64
import json
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trustme

from cliprt import DeploymentError, InvalidInput, Overloaded, ServerError
from cliprt._connection import Tls
from cliprt_bench._front import OpenAiFront

DIM = 4
ROW = base64.b64encode(np.zeros(DIM, "<f4").tobytes()).decode()
MODELS = {"data": [{"id": "m", "name": "m", "space": "0", "dimensions": DIM, "inputs": ["text"]}]}


class Stand:
    """A front that answers zeros, and counts who comes."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.tokens: list[str | None] = []
        self.models: Any = MODELS
        self.refusal: Any = None
        self.hangs_up = False
        self.connections = 0
        self.together: threading.Barrier | None = None
        stand = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                stand.connections += 1
                super().setup()

            def do_GET(self) -> None:
                stand.tokens.append(self.headers["authorization"])
                self.answer(200, stand.models)

            def do_POST(self) -> None:
                stand.tokens.append(self.headers["authorization"])
                asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
                if stand.together is not None:
                    stand.together.wait()
                if stand.refusal is not None:
                    self.answer(429, stand.refusal)
                    return
                self.answer(200, {"data": [{"embedding": ROW} for _ in asked["input"]]})
                # As a front does after some idle time, without a word.
                self.close_connection = stand.hangs_up

            def answer(self, status: int, content: Any) -> None:
                body = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if tls is not None:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        scheme = "http" if tls is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self.server.server_address[1]}/v1"


@pytest.fixture
def stand() -> Iterator[Stand]:
    with standing(Stand()) as stand:
        yield stand


@contextmanager
def standing(stand: Stand) -> Iterator[Stand]:
    thread = threading.Thread(target=stand.server.serve_forever, args=(0.01,))
    thread.start()
    yield stand
    stand.server.shutdown()
    thread.join()
    stand.server.server_close()


@pytest.fixture
def front(stand: Stand) -> Iterator[OpenAiFront]:
    front = OpenAiFront(stand.url)
    yield front
    front.close()


def test_connections_serve_whatever_thread_comes(stand: Stand, front: OpenAiFront) -> None:
    """Every loop of a measurement starts threads of its own."""
    for _ in range(5):
        thread = threading.Thread(target=front.texts, args=(["a cat"],))
        thread.start()
        thread.join()
    assert stand.connections == 1


def test_requests_at_once_have_a_connection_each(stand: Stand, front: OpenAiFront) -> None:
    stand.together = threading.Barrier(3, timeout=20)
    for _ in range(2):
        with ThreadPoolExecutor(3) as pool:
            found = list(pool.map(lambda text: front.texts([text]).shape, "abc"))
        assert found == [(1, DIM)] * 3
    assert stand.connections == 3


def test_a_connection_that_was_closed_meanwhile_is_no_error(
    stand: Stand, front: OpenAiFront
) -> None:
    stand.hangs_up = True
    for _ in range(3):
        assert front.texts(["a cat", "a dog"]).shape == (2, DIM)


def test_a_front_that_ends_is_an_error(stand: Stand, front: OpenAiFront) -> None:
    stand.hangs_up = True
    front.texts(["a cat"])
    front._port = 1
    with pytest.raises(DeploymentError, match="127.0.0.1:1 did not answer: ConnectionRefused"):
        front.texts(["a cat"])


@pytest.mark.parametrize("models", [[], {}, {"data": []}, {"data": [{"id": "m"}]}, None])
def test_what_is_no_front_is_refused(stand: Stand, models: Any) -> None:
    stand.models = models
    with pytest.raises(ServerError, match="is no front of cliprt"):
        OpenAiFront(stand.url)


def test_what_is_no_json_is_refused(stand: Stand) -> None:
    stand.models = b"<html>"
    with pytest.raises(ServerError, match="answered no JSON"):
        OpenAiFront(stand.url)


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        ({"error": {"message": "too busy"}}, "status 429: too busy"),
        ({"error": "too busy"}, "status 429: without a reason"),
        ([], "status 429: without a reason"),
    ],
)
def test_refusals_are_told(stand: Stand, front: OpenAiFront, refusal: Any, said: str) -> None:
    stand.refusal = refusal
    with pytest.raises(Overloaded, match=said):
        front.texts(["a cat"])


def test_the_precision_is_what_was_said_of_it(stand: Stand) -> None:
    front = OpenAiFront(stand.url, precision="int8-cpu")
    front.close()
    assert front.target.precision == "int8-cpu"
    assert front.target.precisions == {"text": "int8-cpu"}


@pytest.mark.parametrize(
    "url", ["https://", "http://", "ftp://host", "http://host:port", "http://[host"]
)
def test_addresses_that_are_no_fronts(url: str) -> None:
    with pytest.raises(InvalidInput, match="the address of a front is http://host:port"):
        OpenAiFront(url)


def test_a_key_goes_with_every_request(stand: Stand) -> None:
    front = OpenAiFront(stand.url, token="sk-1")
    front.texts(["a cat"])
    front.close()
    assert stand.tokens == ["Bearer sk-1"] * 2


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


def server_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def secured(authority: trustme.CA) -> Iterator[Stand]:
    """A front that speaks HTTPS."""
    context = server_context(authority)
    with standing(Stand(context)) as stand:
        yield stand


@pytest.mark.parametrize("named", [True, False])
def test_https(secured: Stand, authority: trustme.CA, tmp_path: Path, named: bool) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    url = secured.url if named else secured.url.removeprefix("https://")
    front = OpenAiFront(url, tls=Tls(ca=tmp_path / "ca.pem"), token="sk-1")
    assert front.texts(["a cat"]).shape == (1, DIM)
    front.close()
    assert secured.tokens == ["Bearer sk-1"] * 2
    assert secured.connections == 1


def test_a_certificate_of_an_unknown_authority_is_refused(secured: Stand) -> None:
    with pytest.raises(DeploymentError, match="did not answer: SSLCertVerificationError"):
        OpenAiFront(secured.url, token="sk-1")
    assert secured.tokens == []


def test_a_front_that_wants_a_certificate(authority: trustme.CA, tmp_path: Path) -> None:
    context = server_context(authority)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    ca, own, other = (tmp_path / name for name in ("ca.pem", "own.pem", "other.pem"))
    authority.cert_pem.write_to_path(str(ca))
    issued = authority.issue_cert("client")
    issued.private_key_and_cert_chain_pem.write_to_path(str(own))
    authority.issue_cert("other").private_key_pem.write_to_path(str(other))
    with standing(Stand(context)) as stand:
        OpenAiFront(stand.url, tls=Tls(ca=ca, certificate=own, key=own)).close()
        with pytest.raises(DeploymentError, match="did not answer"):
            OpenAiFront(stand.url, tls=Tls(ca=ca))
        with pytest.raises(InvalidInput, match="TLS: "):
            OpenAiFront(stand.url, tls=Tls(ca=ca, certificate=own, key=other))
        assert stand.connections == 1


@pytest.mark.parametrize(
    ("url", "tls", "token", "said"),
    [
        ("http://host", None, "sk-1", "would travel to host in plain text; use https"),
        ("http://host", Tls(), None, "options of TLS are for https"),
        ("https://host", Tls(server_name="name"), None, "--tls-server-name is for gRPC"),
        ("https://host", None, "sk-1\nsk-2", "the token is not one word"),
        ("https://host", None, "sk-\N{SNOWMAN}", "the token is not one word"),
    ],
)
def test_what_would_be_lost_or_seen_is_refused(
    url: str, tls: Tls | None, token: str | None, said: str
) -> None:
    with pytest.raises(InvalidInput, match=said):
        OpenAiFront(url, tls=tls, token=token)
