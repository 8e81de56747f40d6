"""TLS against a real Triton: what works, and what each failure is called."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from click.testing import CliRunner
from wire_models import ONE, write_wire_repository

from cliprt import (
    AsyncClient,
    Bundle,
    Client,
    CliprtError,
    Connection,
    ServerError,
    ServerUnavailable,
    Tls,
)
from cliprt._grpc import TritonChannel
from cliprt._health_cli import health
from cliprt_triton import ServerTls, TritonServer

HOSTS = ("localhost", "127.0.0.1")
PAST = {
    "not_before": datetime.datetime(2019, 1, 1, tzinfo=datetime.timezone.utc),
    "not_after": datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc),
}

FUTURE = {
    "not_before": datetime.datetime(2090, 1, 1, tzinfo=datetime.timezone.utc),
    "not_after": datetime.datetime(2091, 1, 1, tzinfo=datetime.timezone.utc),
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


@pytest.mark.parametrize(
    ("dates", "told"),
    [(PAST, "certificate has expired; renew it"), (FUTURE, "certificate is not valid yet")],
)
def test_a_certificate_of_another_time(
    dates: dict[str, datetime.datetime], told: str, repository: Path, tmp_path: Path
) -> None:
    tls = server_tls(tmp_path, ours.issue_cert(*HOSTS, **dates))
    with (
        TritonServer(repository, tls=tls) as server,
        pytest.raises(ServerError, match=told),
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


class Relay:
    """A way to a server on which all is noted that clients say.

    Attributes:
        address: where it listens.
        said: of each connection, in their order.
    """

    def __init__(self, to: str | None) -> None:
        """Listens; without a server it hangs up once something was said."""
        self._to = to
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self.said: list[bytearray] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._accepting.join(20)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                said = bytearray()
                self.said.append(said)
                threading.Thread(target=self._serve, args=(client, said), daemon=True).start()

    def _serve(self, client: socket.socket, said: bytearray) -> None:
        with client, contextlib.suppress(OSError):
            if self._to is None:
                said += client.recv(65536)
                return
            host, _, port = self._to.rpartition(":")
            with socket.create_connection((host, int(port))) as server:
                back = threading.Thread(target=_pump, args=(server, client), daemon=True)
                back.start()
                _pump(client, server, said)
                back.join(20)


def _pump(source: socket.socket, sink: socket.socket, said: bytearray | None = None) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            if said is not None:
                said += data
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


TOKEN = "a-token-that-nobody-overhears"


def overheard(address: str | None, tls: Tls | None) -> list[bytes]:
    """What is said on the way to a server by a client that tries again and again."""
    relay = Relay(address)
    options = Connection(relay.address, tls=tls, auth=TOKEN, metadata={"x-own": TOKEN})
    channel = TritonChannel(options)
    try:
        for _ in range(3):
            with contextlib.suppress(CliprtError):
                channel.infer("echo", ONE, "value", 10).result()
    finally:
        channel.close()
        relay.close()
    return [bytes(each) for each in relay.said]


def test_the_relay_hears_what_is_said_in_plain_text(wire_server: TritonServer) -> None:
    """So that its silence below means something."""
    said = b"".join(overheard(wire_server.address, None))
    assert said.startswith(b"PRI * HTTP/2.0")
    assert TOKEN.encode() in said


@pytest.mark.parametrize("what", ["a good one", "an unknown issuer", "another name", "hangs up"])
def test_nothing_is_ever_said_in_plain_text(what: str, server: TritonServer) -> None:
    """Whatever becomes of the handshake, no attempt falls back."""
    tls = {
        "another name": Tls(ca=OURS, server_name="other.example"),
        "an unknown issuer": Tls(ca=OTHERS),
    }.get(what, Tls(ca=OURS))
    connections = overheard(None if what == "hangs up" else server.address, tls)
    assert connections
    for said in connections:
        assert not said or said.startswith(b"\x16\x03")  # a handshake of TLS
        assert b"PRI * HTTP/2.0" not in said
        assert TOKEN.encode() not in said


def test_the_command_serves_over_mutual_tls(small_bundle: Bundle, tmp_path: Path) -> None:
    """From the command line to an embedding, by both clients; and nobody without a certificate."""
    server_tls(tmp_path, ours.issue_cert(*HOSTS))
    files = {"certificate": "server.pem", "key": "server.key", "client-ca": "ca.pem"}
    command = [sys.executable, "-m", "cliprt", "serve", str(small_bundle.path)]
    command += ["--grpc-port=0", "--metrics-port=0"]
    command += [f"--tls-{option}={tmp_path / file}" for option, file in files.items()]
    environment = {**os.environ, "CLIPRT_CPU_CHOICE": "default"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as running:
        try:
            assert running.stdout is not None
            running.stdout.readline()
            address = running.stdout.readline().split()[1]
            certificate, key = pair(ours.issue_cert("client.example"))
            known = Connection(address, tls=Tls(ca=OURS, certificate=certificate, key=key))
            with Client(known) as client:
                found = client.encode_text("a")

            async def awaited() -> Any:
                async with AsyncClient(known) as client:
                    return await client.encode_text("a")

            assert (asyncio.run(awaited()) == found).all()
            for tls, told in (
                (Tls(ca=OURS), r"pass Tls\(certificate=\.\.\., key=\.\.\.\)"),
                (None, "want TLS; pass tls=Tls"),
            ):
                with pytest.raises(CliprtError, match=told), Client(Connection(address, tls=tls)):
                    pass
        finally:
            running.terminate()
