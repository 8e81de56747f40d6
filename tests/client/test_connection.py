"""Options of a connection are checked when they are written down; failures are put into words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from cliprt import (
    CliprtError,
    Connection,
    InvalidInput,
    ModelUnavailable,
    Overloaded,
    Retry,
    ServerError,
    ServerUnavailable,
    Tls,
)
from cliprt._grpc_errors import translate

REMOTE = "host.example:8001"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"endpoints": "host"}, "must look like host:8001"),
        ({"endpoints": []}, "endpoints is empty"),
        ({"endpoints": [REMOTE, REMOTE]}, "stands twice"),
        ({"endpoints": "dns:///host"}, "must look like host:8001"),
        ({"endpoints": ["dns:///host:8001"]}, "must look like host:8001"),
        ({"endpoints": REMOTE, "keepalive_s": 0.1}, "keepalive_s must lie in"),
        ({"endpoints": REMOTE, "metadata": {"Upper": "x"}}, "header 'Upper' cannot be sent"),
        ({"endpoints": REMOTE, "metadata": {"grpc-timeout": "x"}}, "cannot be sent"),
        ({"endpoints": REMOTE, "metadata": {"x": "a\nb"}}, "value of the header 'x'"),
        ({"endpoints": REMOTE, "auth": "token"}, "would travel to host.example:8001 in plain"),
        ({"endpoints": "127.example:1", "auth": "token"}, "would travel to 127.example:1 in plain"),
        ({"endpoints": "localhost.example:1", "auth": "token"}, "would travel to localhost.exam"),
        ({"endpoints": REMOTE, "auth": "", "tls": Tls()}, "must be printable ASCII and not empty"),
        ({"endpoints": REMOTE, "auth": 5, "tls": Tls()}, "must be a token or a function, got int"),
        (
            {"endpoints": "localhost:1", "auth": "x", "metadata": {"authorization": "y"}},
            "pass one of them",
        ),
        ({"endpoints": ["a:1", "b:1"], "tls": Tls()}, "needs Tls\\(server_name=...\\)"),
        ({"endpoints": ["a:1", "b:1"], "shared_memory": True}, "needs one server"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Connection(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"endpoints": "localhost:1", "auth": "token"},
        {"endpoints": "[::1]:1", "auth": "token"},
        {"endpoints": "127.8.9.1:1", "auth": "token"},
        {"endpoints": REMOTE, "auth": "token", "tls": Tls()},
        {"endpoints": REMOTE, "auth": lambda: "token", "auth_over_plaintext": True},
        {"endpoints": ["a:1", "b:1"], "tls": Tls(server_name="c")},
        {"endpoints": ["a:1", "a:2"], "tls": Tls()},
    ],
)
def test_options_that_can(options: dict[str, Any]) -> None:
    assert Connection(**options).address


def test_secrets_are_not_shown() -> None:
    text = repr(Connection("localhost:1", auth="secret-1", metadata={"x": "secret-2"}))
    assert "secret" not in text


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"attempts": 1}, "2 to 5, which is gRPC's own bound"),
        ({"attempts": 6}, "2 to 5"),
        ({"first_pause_s": 2, "greatest_pause_s": 1}, "pauses must satisfy"),
        ({"first_pause_s": 0}, "pauses must satisfy"),
    ],
)
def test_retries_that_cannot_be_meant(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Retry(**options)


def test_files_of_tls_must_hold_what_they_should(tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("host.example")
    certificate = issued.cert_chain_pems[0].bytes()
    key = issued.private_key_pem.bytes()
    assert Tls(ca=authority.cert_pem.bytes(), certificate=certificate, key=key)
    with pytest.raises(ValueError, match="belong together"):
        Tls(certificate=certificate)
    with pytest.raises(ValueError, match="key must be PEM with a PRIVATE KEY"):
        Tls(certificate=certificate, key=certificate)
    with pytest.raises(ValueError, match="ca cannot be read: .*nothing: No such file"):
        Tls(ca=tmp_path / "nothing")
    with pytest.raises(ValueError, match="server_name must not be empty"):
        Tls(server_name="")
    assert key.decode() not in repr(Tls(certificate=certificate, key=key))


@dataclass
class Failed:
    """A failed call as gRPC describes it, with words that Triton used."""

    status: grpc.StatusCode
    words: str

    def code(self) -> grpc.StatusCode:
        return self.status

    def details(self) -> str:
        return self.words


ENSEMBLE = "in ensemble 'clip_image_file', "
REQUEST = "[request id: <id_unknown>] "


@pytest.mark.parametrize(
    ("status", "words", "kind", "told"),
    [
        (
            grpc.StatusCode.INVALID_ARGUMENT,
            ENSEMBLE + REQUEST + "item 12: too wide",
            InvalidInput,
            "item 12: too wide",
        ),
        (
            grpc.StatusCode.INVALID_ARGUMENT,
            "in ensemble 'a', in ensemble 'b', label 0: empty",
            InvalidInput,
            "label 0: empty",
        ),
        (
            grpc.StatusCode.INVALID_ARGUMENT,
            REQUEST + "unexpected shape for input 'pixels'",
            ServerError,
            "(INVALID_ARGUMENT): unexpected shape for input 'pixels'",
        ),
        (
            grpc.StatusCode.UNAVAILABLE,
            ENSEMBLE + REQUEST + "Exceeds maximum queue size",
            Overloaded,
            "can queue (Exceeds maximum queue size)",
        ),
        (grpc.StatusCode.NOT_FOUND, "no", ModelUnavailable, "shutting down"),
        (
            grpc.StatusCode.UNAVAILABLE,
            "clip is not healthy: image answers: Exceeds maximum queue size",
            ServerError,
            "localhost:1 says: clip is not healthy: image answers: Exceeds",
        ),
        (
            grpc.StatusCode.UNAVAILABLE,
            REQUEST + "the tower is being warmed",
            ServerError,
            "localhost:1 is there and refuses the request: the tower is being warmed",
        ),
        (
            grpc.StatusCode.INTERNAL,
            ENSEMBLE + "Stub process 'clip_text_0_0' is not healthy.",
            ServerUnavailable,
            "lost the process of a model (Stub process 'clip_text_0_0' is not healthy.)",
        ),
        (
            grpc.StatusCode.UNAVAILABLE,
            "Server is stopping, scheduler for model has stopped accepting new inference requests",
            ServerUnavailable,
            "wait before trying again",
        ),
        *(
            (grpc.StatusCode.UNAVAILABLE, words, ServerUnavailable, "no Triton gRPC server")
            for words in (
                "",
                "failed to connect to all addresses; last error: UNKNOWN: ipv4:10.0.0.1:8001: "
                "Failed to connect to remote host: Connection refused",
                "recvmsg:Connection reset by peer",
                "Socket closed",
                "GOAWAY received",
                "keepalive timeout",
                "Broken pipe",
                "Received http2 header with status: 503",
                "upstream connect error or disconnect/reset before headers",
                "no healthy upstream",
            )
        ),
        (grpc.StatusCode.UNAUTHENTICATED, "no", ServerError, "check auth and metadata"),
    ],
)
def test_words_of_the_server(
    status: grpc.StatusCode, words: str, kind: type[CliprtError], told: str
) -> None:
    error = translate(Failed(status, words), Connection("localhost:1"), 1.0, lost=False)
    assert type(error) is kind
    assert told in str(error)
