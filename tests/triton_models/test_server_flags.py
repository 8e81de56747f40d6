"""What a server is told about TLS, its cache, and calls that are not for everybody."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import pytest
import trustme
from patience import settled
from tritonclient.grpc import service_pb2, service_pb2_grpc
from wire_models import ONE, write_wire_repository

from cliprt import Bundle, Client, ModelUnavailable, ServerStartError
from cliprt._grpc import TritonChannel
from cliprt_triton import ServerTls, TritonServer, write_repository
from cliprt_triton._front._keys import read_api_keys

SECRET = "triton-grpc-protocol-cliprt-secret"


@pytest.fixture
def issued(tmp_path: Path) -> tuple[Path, Path]:
    leaf = trustme.CA().issue_cert("localhost")
    leaf.cert_chain_pems[0].write_to_path(tmp_path / "server.pem")
    leaf.private_key_pem.write_to_path(tmp_path / "server.key")
    return tmp_path / "server.pem", tmp_path / "server.key"


def status_of_repository(address: str, *metadata: tuple[str, str]) -> grpc.StatusCode:
    """How the server answers someone who wants to see which models could be loaded."""
    with grpc.insecure_channel(address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            stub.RepositoryIndex(
                service_pb2.RepositoryIndexRequest(), timeout=20, metadata=metadata
            )
        except grpc.RpcError as error:
            return error.code()  # type: ignore[no-any-return,attr-defined]
    return grpc.StatusCode.OK


def test_administration_is_for_nobody_by_default(small_bundle: Bundle, tmp_path: Path) -> None:
    repository = write_repository(small_bundle, tmp_path / "repository")
    with TritonServer(repository, http_port=0) as server:
        assert status_of_repository(server.address) == grpc.StatusCode.UNAVAILABLE
        assert status_of_repository(server.address, (SECRET, "")) == grpc.StatusCode.UNAVAILABLE
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{server.http_url}/v2/repository/index", data=b"", timeout=20)
        caught.value.close()
        # All that a client needs is open.
        with Client(server.address) as client:
            assert client.encode_text("a").shape == (1, 24)
            assert client.server_version()
        channel = TritonChannel(server.address)
        assert channel.statistics("clip_text", 20).requests > 0
        channel.close()


def test_who_knows_the_secret_loads_models(small_bundle: Bundle, tmp_path: Path) -> None:
    repository = write_repository(small_bundle, tmp_path / "repository")
    load = service_pb2.RepositoryModelLoadRequest(model_name="clip_text")
    unload = service_pb2.RepositoryModelUnloadRequest(model_name="clip_text")
    asked = {"metadata": ((SECRET, "open sesame, please"),), "timeout": 60}
    with (
        TritonServer(repository, admin_secret="open sesame, please") as server,
        Client(server.address) as client,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        before = client.encode_text("a")
        stub.RepositoryModelUnload(unload, **asked)
        with pytest.raises(ModelUnavailable):
            client.encode_text("a")
        stub.RepositoryModelLoad(load, **asked)
        assert (client.encode_text("a") == before).all()
        with pytest.raises(grpc.RpcError, match="restricted"):
            stub.RepositoryModelUnload(unload, timeout=60)


def test_every_port_is_served_when_a_server_is_up(tmp_path: Path) -> None:
    # Triton starts gRPC some milliseconds before HTTP; who asks at once must not be refused.
    repository = write_wire_repository(tmp_path / "models")
    for _ in range(3):
        with TritonServer(repository, http_port=0) as server:
            with urllib.request.urlopen(f"{server.http_url}/v2/health/ready", timeout=20) as answer:
                assert answer.status == 200
            started = re.findall(r"Started (\w+) ", server.log.read_text())
        assert started == ["GRPCInferenceService", "HTTPService", "Metrics"]


def test_answers_are_cached_where_a_model_asks_for_it(tmp_path: Path) -> None:
    repository = write_wire_repository(tmp_path / "models")
    config = repository / "echo" / "config.pbtxt"
    config.write_text(config.read_text() + "response_cache { enable: true }\n")
    with TritonServer(repository, response_cache_bytes=2**20) as server:
        channel = TritonChannel(server.address)
        for _ in range(3):
            channel.infer("echo", ONE, "value", 20).result()
        counted = settled(lambda: channel.statistics("echo", 20))
        assert (counted.cache_hits, counted.cache_misses, counted.inferences) == (2, 1, 1)
        channel.close()


def test_a_cache_without_room_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ServerStartError, match="must have bytes, got 0"):
        TritonServer(write_wire_repository(tmp_path / "models"), response_cache_bytes=0)


def test_files_of_tls_are_read_before_a_server_starts(
    issued: tuple[Path, Path], tmp_path: Path
) -> None:
    certificate, key = issued
    assert ServerTls(certificate, key).arguments()
    trustme.CA().issue_cert("localhost").private_key_pem.write_to_path(tmp_path / "other.key")
    with pytest.raises(ServerStartError, match="with its own key"):
        ServerTls(certificate, tmp_path / "other.key")
    with pytest.raises(ServerStartError, match="No such file"):
        ServerTls(certificate, tmp_path / "nothing.key")
    (tmp_path / "garbage.pem").write_text("garbage")
    with pytest.raises(ServerStartError, match=r"no TLS with .*garbage\.pem"):
        ServerTls(certificate, key, client_ca=tmp_path / "garbage.pem")


def test_a_key_with_a_passphrase_is_refused_and_not_asked_for(
    issued: tuple[Path, Path], tmp_path: Path
) -> None:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(issued[1].read_bytes(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    (tmp_path / "locked.key").write_bytes(locked)
    with pytest.raises(ServerStartError, match="the key has a passphrase"):
        ServerTls(issued[0], tmp_path / "locked.key")


def test_secrets_that_everybody_can_read_are_said(
    issued: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("sixteen-letters-or-more\n", encoding="utf-8")
    for mode, expected in ((0o600, 0), (0o640, 0), (0o644, 2)):
        caplog.clear()
        for path in (issued[1], keys):
            path.chmod(mode)
        ServerTls(*issued)
        read_api_keys(keys)
        assert len(caplog.records) == expected
    key, api = (record.getMessage() for record in caplog.records)
    assert f"can read the private key in {issued[1]}; chmod it to 600" in key
    assert "can read the API keys" in api
    assert "sixteen" not in api


@pytest.mark.parametrize("option", ["--tls-certificate", "--tls-key", "--tls-client-ca"])
def test_the_command_wants_certificate_and_key(option: str, small_bundle: Bundle) -> None:
    command = [sys.executable, "-m", "cliprt", "serve", str(small_bundle.path), option, "file"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "TLS needs --tls-certificate and --tls-key" in run.stderr


def test_the_arguments_keep_pings_welcome(tmp_path: Path) -> None:
    with TritonServer(write_wire_repository(tmp_path / "models")) as server:
        assert server._process is not None
        arguments = Path(f"/proc/{server._process.pid}/cmdline").read_text().split("\0")
    assert "--grpc-http2-min-recv-ping-interval-without-data=5000" in arguments
    assert "--grpc-keepalive-time=20000" in arguments
    assert json.dumps(arguments).count("--allow-client-shm") == 0  # this one does not know it
