"""Calls that are not for everybody: each is refused without the secret, and works with it."""

from __future__ import annotations

import re
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import raw_http2
from tritonclient.grpc import service_pb2 as messages
from tritonclient.grpc import service_pb2_grpc
from wire_models import ONE, write_wire_repository

from cliprt import ServerStartError
from cliprt._grpc import TritonChannel
from cliprt_triton import TritonServer

# With what separates the parts of tritonserver's argument.
SECRET = "a=b:c,d;open sesame"
HEADER = "triton-grpc-protocol-cliprt-secret"
INDEX = "/inference.GRPCInferenceService/RepositoryIndex"

# What the server says of each once the door is open. None: it does it.
CLOSED: dict[str, tuple[Any, str | None]] = {
    "RepositoryIndex": (messages.RepositoryIndexRequest(), None),
    "RepositoryModelLoad": (messages.RepositoryModelLoadRequest(model_name="echo"), None),
    # Nothing is there to be unloaded, and Triton has no objection.
    "RepositoryModelUnload": (messages.RepositoryModelUnloadRequest(model_name="no-such"), None),
    "LogSettings": (messages.LogSettingsRequest(), None),
    "TraceSetting": (messages.TraceSettingRequest(), None),
    "SystemSharedMemoryStatus": (messages.SystemSharedMemoryStatusRequest(), None),
    "SystemSharedMemoryRegister": (
        messages.SystemSharedMemoryRegisterRequest(name="x", key="/no-such", byte_size=4),
        "Unable to open shared memory region",
    ),
    "SystemSharedMemoryUnregister": (messages.SystemSharedMemoryUnregisterRequest(), None),
    "CudaSharedMemoryStatus": (messages.CudaSharedMemoryStatusRequest(), None),
    "CudaSharedMemoryRegister": (
        messages.CudaSharedMemoryRegisterRequest(name="x", raw_handle=b"x", byte_size=4),
        "",
    ),
    "CudaSharedMemoryUnregister": (messages.CudaSharedMemoryUnregisterRequest(), None),
}

# The same over HTTP: method, path, body, status with the secret.
CLOSED_HTTP = [
    ("POST", "v2/repository/index", b"{}", {200}),
    ("POST", "v2/repository/models/echo/load", b"{}", {200}),
    ("POST", "v2/repository/models/no-such/unload", b"{}", {200}),
    ("GET", "v2/logging", None, {200}),
    ("POST", "v2/logging", b'{"log_verbose_level":0}', {200}),
    ("GET", "v2/trace/setting", None, {200}),
    ("POST", "v2/trace/setting", b'{"trace_level":["OFF"]}', {200}),
    ("GET", "v2/models/echo/trace/setting", None, {200}),
    ("GET", "v2/systemsharedmemory/status", None, {200}),
    (
        "POST",
        "v2/systemsharedmemory/region/x/register",
        b'{"key":"/no-such","offset":0,"byte_size":4}',
        {400, 500},
    ),
    ("POST", "v2/systemsharedmemory/unregister", b"", {200}),
    ("GET", "v2/cudasharedmemory/status", None, {200}),
]

# What clients need is open: models with their cards, and what was counted.
OPEN = {
    "ServerLive": messages.ServerLiveRequest(),
    "ServerReady": messages.ServerReadyRequest(),
    "ServerMetadata": messages.ServerMetadataRequest(),
    "ModelReady": messages.ModelReadyRequest(name="echo"),
    "ModelMetadata": messages.ModelMetadataRequest(name="echo"),
    "ModelConfig": messages.ModelConfigRequest(name="echo"),
    "ModelStatistics": messages.ModelStatisticsRequest(name="echo"),
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wire_repository(tmp_path_factory.mktemp("models") / "models")


@pytest.fixture(scope="module")
def locked(repository: Path) -> Iterator[TritonServer]:
    """A server with a secret."""
    with TritonServer(repository, http_port=0, admin_secret=SECRET) as server:
        yield server


@pytest.fixture(scope="module")
def shut(repository: Path) -> Iterator[TritonServer]:
    """A server that nobody administrates: the default."""
    with TritonServer(repository, http_port=0) as server:
        yield server


def called(address: str, method: str, request: Any, *metadata: tuple[str, str]) -> str | None:
    """What the server says against a call; None if it does it."""
    with grpc.insecure_channel(address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            getattr(stub, method)(request, timeout=20, metadata=metadata)
        except grpc.RpcError as error:
            return str(error.details())  # type: ignore[attr-defined]
    return None


def fetched(
    server: TritonServer, method: str, path: str, body: bytes | None, **headers: str
) -> tuple[int, bytes]:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"{server.http_url}/{path}", body, sent, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


@pytest.mark.parametrize("method", CLOSED)
def test_a_closed_call_over_grpc(method: str, locked: TritonServer, shut: TritonServer) -> None:
    request, done = CLOSED[method]
    for metadata in ((), ((HEADER, "a=b:c,d;open sesam"),), ((HEADER, ""),)):
        assert "This protocol is restricted" in str(
            called(locked.address, method, request, *metadata)
        )
    assert "This protocol is restricted" in str(called(shut.address, method, request))
    said = called(locked.address, method, request, (HEADER, SECRET))
    if done is None:
        assert said is None
    else:
        assert said is not None
        assert done in said
        assert "restricted" not in said


@pytest.mark.parametrize(
    ("method", "path", "body", "statuses"), CLOSED_HTTP, ids=[path for _, path, *_ in CLOSED_HTTP]
)
def test_a_closed_call_over_http(
    method: str,
    path: str,
    body: bytes | None,
    statuses: set[int],
    locked: TritonServer,
    shut: TritonServer,
) -> None:
    for server in (locked, shut):
        for headers in ({}, {"cliprt_secret": "a=b:c,d;open sesam"}, {"cliprt_secret": ""}):
            status, told = fetched(server, method, path, body, **headers)
            assert status == 403, told
            assert b"This API is restricted" in told
    status, told = fetched(locked, method, path, body, cliprt_secret=SECRET)
    assert status in statuses, told


@pytest.mark.parametrize("method", OPEN)
def test_what_clients_need_is_open(method: str, shut: TritonServer) -> None:
    assert called(shut.address, method, OPEN[method]) is None


def arguments(server: TritonServer) -> list[str]:
    """Those of the process, which every user of the machine may read."""
    return Path(f"/proc/{server.pid}/cmdline").read_bytes().decode().split("\0")


def rule(server: TritonServer) -> tuple[str, str]:
    """Name and value of the header that opens the closed calls of a server."""
    (found,) = [each for each in arguments(server) if each.startswith("--grpc-restricted")]
    name, _, value = found.partition("=")[2].partition(":")[2].partition("=")
    return name, value


def test_what_stands_among_the_arguments_opens_nothing(
    shut: TritonServer, locked: TritonServer
) -> None:
    """Without a secret there is none to be read; a header that would fit cannot be sent."""
    name, value = rule(shut)
    header = f"triton-grpc-protocol-{name}"
    # The prober can open the door where there is a key to it.
    known = raw_http2.call(locked.address, INDEX, (HEADER.encode(), SECRET.encode()))
    assert b"echo" in known
    for each in (header, header.lower()):
        for sent in (value, value.replace("\n", ""), value.replace("\n", "\n ")):
            told = raw_http2.call(shut.address, INDEX, (each.encode(), sent.encode()))
            assert b"echo" not in told
    assert raw_http2.call(shut.address, "/inference.GRPCInferenceService/ServerLive")


def test_nor_over_http(shut: TritonServer, locked: TritonServer) -> None:
    name, value = rule(shut)
    assert b"echo" in index_over_http(locked, "cliprt-secret", SECRET)
    for sent in (value, value.replace("\n", "\r\n "), value.replace("\n", "\n "), value[:2]):
        assert b"echo" not in index_over_http(shut, name, sent)
    assert fetched(shut, "GET", "v2/health/ready", None)[0] == 200


def index_over_http(server: TritonServer, name: str, value: str) -> bytes:
    """All that is answered to a request for the index with a header as it stands."""
    assert server.http_url is not None
    host, _, port = server.http_url.removeprefix("http://").rpartition(":")
    request = (
        f"POST /v2/repository/index HTTP/1.1\r\nHost: a\r\n{name}: {value}\r\n"
        "Connection: close\r\nContent-Length: 2\r\n\r\n{}"
    )
    with socket.create_connection((host, int(port)), timeout=20) as wire:
        wire.sendall(request.encode())
        wire.shutdown(socket.SHUT_WR)
        return wire.makefile("rb").read()


def test_files_are_not_written_where_a_caller_says(locked: TritonServer, tmp_path: Path) -> None:
    """Not even for who knows the secret."""
    for path, key in (("v2/logging", "log_file"), ("v2/trace/setting", "trace_file")):
        body = f'{{"{key}":"{tmp_path / "planted"}"}}'.encode()
        status, told = fetched(locked, "POST", path, body, cliprt_secret=SECRET)
        assert status >= 400, told
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "bad", ["", "short", "sixteen or more\n", " sixteen or more and a space", "sechzehn Zeichen: ä"]
)
def test_secrets_that_are_none(bad: str, tmp_path: Path) -> None:
    with pytest.raises(ServerStartError, match="at least 16 characters") as caught:
        TritonServer(write_wire_repository(tmp_path / "models"), admin_secret=bad)
    assert not bad or bad not in str(caught.value)


def test_the_other_doors_of_a_triton_are_shut(shut: TritonServer) -> None:
    """SageMaker's and Vertex AI's, past which restrictions have been walked around."""
    listening = re.findall(r"Started (\w+) ", shut.log.read_text())
    assert set(listening) == {"GRPCInferenceService", "HTTPService", "Metrics"}
    channel = TritonChannel(shut.address)
    assert channel.infer("echo", ONE, "value", 20).result().tolist() == [[1, 2, 3]]
    channel.close()
