"""TLS against a real Triton: what works, and what each failure is called."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from click.testing import CliRunner
from wire_models import ONE, write_wire_repository

from cliprt import Connection, ServerError, ServerUnavailable, Tls
from cliprt._grpc import TritonChannel
from cliprt._health_cli import health
from cliprt_triton import ServerTls, TritonServer

HOSTS = ("localhost", "127.0.0.1")
PAST = {
    "not_before": datetime.datetime(2019, 1, 1, tzinfo=datetime.timezone.utc),
    "not_after": datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc),
}

ours, others = trustme.CA(), trustme.CA()
OURS, OTHERS = ours.cert_pem.bytes(), others.cert_pem.bytes()


def pair(certificate: trustme.LeafCert) -> tuple[bytes, bytes]:
    chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
    return chain, certificate.private_key_pem.bytes()


def server_tls(folder: Path, certificate: trustme.LeafCert, *, mutual: bool = False) -> ServerTls:
    (folder / "ca.pem").write_bytes(OURS)
    chain, key = pair(certificate)
    (folder / "server.pem").write_bytes(chain)
    (folder / "server.key").write_bytes(key)
    ca = folder / "ca.pem" if mutual else None
    return ServerTls(folder / "server.pem", folder / "server.key", client_ca=ca)


def ask(endpoints: str | list[str], tls: Tls | None) -> bool:
    channel = TritonChannel(Connection(endpoints, tls=tls))
    try:
        return channel.server_ready(10)
    finally:
        channel.close()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wire_repository(tmp_path_factory.mktemp("models") / "models")


@pytest.fixture(scope="module")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    tls = server_tls(tmp_path_factory.mktemp("tls"), ours.issue_cert(*HOSTS))
    with TritonServer(repository, tls=tls) as server:
        yield server


def test_a_trusted_server_is_used(server: TritonServer, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(OURS)
    options = Connection(server.address, tls=Tls(ca=tmp_path / "ca.pem"), auth="token")
    channel = TritonChannel(options)
    assert channel.infer("echo", ONE, "value", 20).result().tolist() == [[1, 2, 3]]
    channel.close()


@pytest.mark.parametrize("form", ["localhost:{}", "dns:///localhost:{}", "list"])
def test_names_are_checked_however_the_server_is_named(server: TritonServer, form: str) -> None:
    port = server.address.rsplit(":", 1)[1]
    endpoints = [f"localhost:{port}"] if form == "list" else form.format(port)
    assert ask(endpoints, Tls(ca=OURS))
    with pytest.raises(ServerError, match="certificate is for another name"):
        ask(endpoints, Tls(ca=OURS, server_name="other.example"))


@pytest.mark.parametrize("ca", [OTHERS, None])
def test_an_authority_that_is_not_trusted(server: TritonServer, ca: bytes | None) -> None:
    with pytest.raises(ServerError, match=r"none of the authorities .* Tls\(ca=\.\.\.\)"):
        ask(server.address, Tls(ca=ca))


def test_plain_text_to_a_server_with_tls(server: TritonServer) -> None:
    with pytest.raises(ServerUnavailable, match=r"hung up.*want TLS; pass tls=Tls"):
        ask(server.address, None)


def test_tls_to_a_server_without(wire_server: TritonServer) -> None:
    with pytest.raises(ServerError, match="it speaks plain text, not TLS; leave tls out"):
        ask(wire_server.address, Tls(ca=OURS))


def test_a_command_asks_over_tls(server: TritonServer, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(OURS)
    (tmp_path / "token").write_text("secret")
    tls = ["--tls-ca", str(tmp_path / "ca.pem"), "--token-file", str(tmp_path / "token")]
    found = CliRunner().invoke(health, [server.address, *tls])
    assert found.exit_code == 1
    # It was asked, and has no such model.
    assert "serves neither clip_image nor clip_text" in found.output
    assert "serves neither" not in CliRunner().invoke(health, [server.address]).output


def test_tls_to_nobody() -> None:
    with pytest.raises(ServerUnavailable, match="no Triton gRPC server answers"):
        ask("127.0.0.1:1", Tls(ca=OURS))


def test_a_certificate_for_another_name(repository: Path, tmp_path: Path) -> None:
    tls = server_tls(tmp_path, ours.issue_cert("other.example"))
    with TritonServer(repository, tls=tls) as server:
        with pytest.raises(ServerError, match=r"another name; .* Tls\(server_name=\.\.\.\)"):
            ask(server.address, Tls(ca=OURS))
        assert ask(server.address, Tls(ca=OURS, server_name="other.example"))


def test_a_certificate_that_has_expired(repository: Path, tmp_path: Path) -> None:
    tls = server_tls(tmp_path, ours.issue_cert(*HOSTS, **PAST))
    with (
        TritonServer(repository, tls=tls) as server,
        pytest.raises(ServerError, match="certificate has expired; renew it"),
    ):
        ask(server.address, Tls(ca=OURS))


def test_clients_that_must_show_a_certificate(repository: Path, tmp_path: Path) -> None:
    tls = server_tls(tmp_path, ours.issue_cert(*HOSTS), mutual=True)
    with TritonServer(repository, tls=tls) as server:
        certificate, key = pair(ours.issue_cert("client.example"))
        assert ask(server.address, Tls(ca=OURS, certificate=certificate, key=key))
        with pytest.raises(ServerError, match=r"pass Tls\(certificate=\.\.\., key=\.\.\.\)"):
            ask(server.address, Tls(ca=OURS))
        for bad in (
            others.issue_cert("client.example"),
            ours.issue_cert("client.example", **PAST),
        ):
            certificate, key = pair(bad)
            with pytest.raises(ServerError, match="do not accept the client's certificate"):
                ask(server.address, Tls(ca=OURS, certificate=certificate, key=key))
