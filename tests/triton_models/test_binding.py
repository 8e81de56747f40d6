"""Servers listen on this machine alone unless it was said that others may come."""

from __future__ import annotations

import ast
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trustme
from click.testing import CliRunner
from conftest import ROOT
from patience import until
from wire_models import write_wire_repository

from cliprt import Bundle, ServerStartError
from cliprt_triton import ServerTls, TritonServer
from cliprt_triton._binding import is_remote, warn_of_open_front
from cliprt_triton._cli import serve
from cliprt_triton._front._process import FrontServer

# TEST-NET-1, which no machine has: to be refused for what it is, not because it cannot be had.
ELSEWHERE = "192.0.2.7"
WIDE = ["0.0.0.0", "::", "0", "", ELSEWHERE, "2001:db8::1", "::ffff:192.0.2.7"]


@pytest.mark.parametrize("host", WIDE)
def test_what_others_reach_is_refused(host: str, tmp_path: Path) -> None:
    assert is_remote(host)
    for start in (
        lambda: TritonServer(tmp_path, host=host),
        lambda: FrontServer(host=host, port=0),
    ):
        with pytest.raises(ServerStartError, match=r"other machines.*--allow-remote.*SECURITY\.md"):
            start()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "localhost", "::1"])
def test_this_machine_is_not_remote(host: str) -> None:
    assert not is_remote(host)


def test_a_name_is_what_it_stands_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def answers(*addresses: str) -> None:
        found = [(0, 0, 0, "", (address, 0)) for address in addresses]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)

    answers("127.0.0.1", "::1")
    assert not is_remote("own.example")
    answers("127.0.0.1", ELSEWHERE)
    assert is_remote("own.example")
    # Named like an address of this machine, and none.
    answers(ELSEWHERE)
    assert is_remote("127.0.0.1.example")


@pytest.mark.parametrize("front", [[], ["--http"]])
def test_the_command_refuses_before_it_opens_anything(front: list[str], tmp_path: Path) -> None:
    found = CliRunner().invoke(serve, [str(tmp_path / "no bundle"), "--host", "0.0.0.0", *front])
    assert isinstance(found.exception, ServerStartError)
    assert "0.0.0.0 can be reached from other machines" in str(found.exception)


def test_so_it_does_where_too_few_files_may_be_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (40, 40))
    found = CliRunner().invoke(serve, [str(tmp_path / "no bundle")])
    assert isinstance(found.exception, ServerStartError)
    assert "a process may open 40 files here" in str(found.exception)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "cliprt"]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wire_repository(tmp_path_factory.mktemp("models") / "models")


def test_where_it_is_allowed_what_stands_open_is_said(
    repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with TritonServer(repository, host="0.0.0.0", http_port=0, allow_remote=True) as server:
        grpc, http, metrics = told(caplog)
        assert f"gRPC on {server.address} is open to other machines, in plain text" in grpc
        assert "--tls-certificate" in grpc
        assert f"HTTP on {server.http_url} is open" in http
        assert f"metrics on {server.metrics_url} can be read" in metrics
        port = int(server.address.rsplit(":", 1)[1])
        # Where an IPv4 socket listens on every address, any of this machine's will do.
        socket.create_connection(("127.9.9.9", port), 20).close()


def test_tls_says_less_and_mutual_tls_still_less(
    repository: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ca = trustme.CA()
    leaf = ca.issue_cert("localhost", "127.0.0.1")
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    leaf.cert_chain_pems[0].write_to_path(tmp_path / "server.pem")
    (tmp_path / "server.key").touch(mode=0o600)
    leaf.private_key_pem.write_to_path(tmp_path / "server.key")
    files = (tmp_path / "server.pem", tmp_path / "server.key")
    with TritonServer(repository, host="0.0.0.0", allow_remote=True, tls=ServerTls(*files)):
        grpc, metrics = told(caplog)
        assert "is open to whoever comes from other machines; --tls-client-ca closes it" in grpc
    caplog.clear()
    tls = ServerTls(*files, client_ca=tmp_path / "ca.pem")
    with TritonServer(repository, host="0.0.0.0", allow_remote=True, tls=tls):
        (metrics,) = told(caplog)
        assert "the metrics on" in metrics


def test_nothing_is_said_of_what_only_this_machine_reaches(
    repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with TritonServer(repository, http_port=0):
        assert not told(caplog)


def test_an_open_front_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for host, keys in (("127.0.0.1", False), ("0.0.0.0", True), ("0.0.0.0", False)):
            warn_of_open_front(f"http://{host}:1/v1", host=host, keys=keys)
    with_keys, without = told(caplog)
    assert with_keys == "HTTP on http://0.0.0.0:1/v1 is open to other machines, in plain text"
    assert without.endswith("and to whoever comes; --api-key-file closes it")


def test_the_command_listens_where_it_is_told_and_warns(small_bundle: Bundle) -> None:
    ports = [f"--{port}-port=0" for port in ("grpc", "metrics", "openai")]
    command = [sys.executable, "-m", "cliprt", "serve", str(small_bundle.path), "--http", *ports]
    running = subprocess.Popen(
        [*command, "--host=0.0.0.0", "--allow-remote"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "CLIPRT_CPU_CHOICE": "default"},
    )  # fmt: skip
    try:
        assert running.stdout is not None
        lines: list[str] = []
        until(lambda: lines.append(running.stdout.readline()) or lines[-1].startswith("log"))  # type: ignore[func-returns-value,union-attr]
        running.send_signal(signal.SIGTERM)
        _, error = running.communicate(timeout=60)
    finally:
        running.kill()
        running.wait()
    assert [line.split(" on ")[0] for line in error.splitlines()] == ["HTTP", "gRPC", "the metrics"]


def test_no_program_of_ours_names_a_wide_address() -> None:
    """Neither Ray's driver nor a server of a benchmark: all that listens goes through one check."""
    exempt = {"triton_models/cliprt_triton/_binding.py"}
    for folder in ("client", "export", "engines", "triton_models", "bench", "demo"):
        for path in (ROOT / folder).rglob("*.py"):
            if str(path.relative_to(ROOT)) in exempt:
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    assert node.value not in ("0.0.0.0", "[::]", "::0"), path
