"""A real tritonserver: found, started, watched, stopped, and honest when it cannot start."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import pytest
from patience import until
from processes import processes_with, servers_at, shared_memory

from cliprt import Bundle, Client, ServerStartError, ServerUnavailable
from cliprt_triton import TritonServer, _install, _ports, write_repository
from cliprt_triton._ports import free_ports
from cliprt_triton._server import _why


@pytest.fixture
def repository(small_bundle: Bundle, tmp_path: Path) -> Path:
    return write_repository(small_bundle, tmp_path / "repository")


def stand_in(folder: Path, commands: str) -> Path:
    """An executable that is no tritonserver, for what goes wrong before one would matter."""
    script = folder / "tritonserver"
    script.write_text(f"#!/bin/sh\n{commands}\n")
    script.chmod(0o755)
    return script


def test_it_serves_and_leaves_nothing_behind(repository: Path) -> None:
    before = shared_memory()
    with TritonServer(repository, http_port=0) as server:
        with Client(server.address) as client:
            assert client.encode_text("a").shape == (1, 24)
        with urllib.request.urlopen(server.metrics_url, timeout=30) as answer:
            assert b"nv_inference_count" in answer.read()
        with urllib.request.urlopen(f"{server.http_url}/v2/health/ready", timeout=30) as answer:
            assert answer.status == 200
        assert servers_at(server.address)
    assert not servers_at(server.address)
    assert shared_memory() <= before


def test_without_being_asked_it_serves_no_http(repository: Path) -> None:
    with TritonServer(repository) as server:
        assert server.http_url is None
        assert "HTTPService" not in server.log.read_text()


def test_a_client_survives_a_restart(repository: Path) -> None:
    first = TritonServer(repository)
    with Client(first.address) as client:
        expected = client.encode_text("a")
        first.stop()
        with pytest.raises(ServerUnavailable):
            client.encode_text("a")
        port = int(first.address.rsplit(":", 1)[1])
        with TritonServer(repository, grpc_port=port):
            deadline = time.monotonic() + 60
            while True:
                try:
                    assert (client.encode_text("a") == expected).all()
                    break
                except ServerUnavailable:
                    assert time.monotonic() < deadline
                    time.sleep(0.1)


def test_two_servers_live_side_by_side(repository: Path) -> None:
    with (
        TritonServer(repository) as first,
        TritonServer(repository) as second,
        Client(first.address) as one,
        Client(second.address) as two,
    ):
        assert (one.encode_text("a") == two.encode_text("a")).all()


def test_free_ports_are_different_ones() -> None:
    ports = free_ports("127.0.0.1", *[0] * 500)
    assert len(set(ports)) == 500


def test_free_ports_are_none_that_the_system_lends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection could take such a one before Triton listens."""
    (tmp_path / "range").write_text("20500\t60999\n")
    monkeypatch.setattr(_ports, "_LENT_PORTS", tmp_path / "range")
    assert all(20_000 <= port < 20_500 for port in free_ports("127.0.0.1", *[0] * 50))


@pytest.mark.parametrize("lent", ["1024\t65535\n", None])
def test_a_free_port_is_found_where_the_system_lends_all(
    lent: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if lent is not None:
        (tmp_path / "range").write_text(lent)
    monkeypatch.setattr(_ports, "_LENT_PORTS", tmp_path / "range")
    (port,) = free_ports("127.0.0.1", 0)
    assert port > 0


def test_taken_ports_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (held,) = free_ports("127.0.0.1", 0)
    with socket.create_server(("127.0.0.1", held)):
        monkeypatch.setattr(_ports, "_unlent_ports", lambda: [held])
        (port,) = free_ports("127.0.0.1", 0)
    assert port not in (0, held)


def test_a_taken_port_is_named(repository: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerStartError, match=f"cannot listen on 127.0.0.1:{port}"):
            TritonServer(repository, grpc_port=port)


def test_a_model_that_does_not_load_is_named_in_a_paragraph(repository: Path) -> None:
    next((repository / "clip_text").glob("*/model.onnx")).write_bytes(b"garbage")
    with pytest.raises(
        ServerStartError, match="the model clip_text failed: .*no readable ONNX graph"
    ) as caught:
        TritonServer(repository)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1500


def test_an_empty_repository_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ServerStartError, match="tritonserver ended with status 1"):
        TritonServer(tmp_path / "nothing")


def test_any_folder_name_will_do(small_bundle: Bundle, tmp_path: Path) -> None:
    repository = write_repository(small_bundle, tmp_path / "with spaces & ümlauts")
    with TritonServer(repository) as server, Client(server.address) as client:
        assert client.encode_text("a").shape == (1, 24)


def test_temporary_folders_may_have_spaces(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sp ace").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "sp ace"))
    with TritonServer(repository) as server, Client(server.address) as client:
        assert client.encode_text("a").shape == (1, 24)


def test_a_home_that_cannot_be_written_costs_only_the_log(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CLIPRT_HOME", str(tmp_path / "file" / "below"))
    with TritonServer(repository) as server:
        assert server.log.is_file()
        assert server.log.stat().st_mode & 0o777 == 0o600
    server.log.unlink()


def test_proxies_in_the_environment_do_not_matter(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with TritonServer(repository, ready_timeout_s=60) as server, Client(server.address) as client:
        assert client.encode_text("a").shape == (1, 24)


def test_the_wheels_own_binary_may_be_given(repository: Path) -> None:
    package = _install._wheel_package()
    assert package is not None
    binary = package / "tritonserver" / "bin" / "tritonserver"
    with TritonServer(repository, tritonserver=binary) as server:
        assert servers_at(server.address)


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 70000), ("::1", 0), ("no.such.host", 0)])
def test_an_address_that_cannot_be_listened_on(repository: Path, host: str, port: int) -> None:
    with pytest.raises(ServerStartError, match="cannot listen on"):
        TritonServer(repository, host=host, grpc_port=port)


def test_a_given_server_must_be_executable(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ServerStartError, match="is no executable file"):
        TritonServer(repository, tritonserver=tmp_path / "file")


def test_a_server_that_dies_at_once_is_quoted(repository: Path, tmp_path: Path) -> None:
    script = stand_in(tmp_path, "echo libcuda.so.1: cannot open shared object file\nexit 127")
    with pytest.raises(
        ServerStartError, match=r"status 127 while starting: libcuda\.so\.1: cannot"
    ):
        TritonServer(repository, tritonserver=script)


def test_a_server_that_is_never_ready_is_stopped(repository: Path, tmp_path: Path) -> None:
    script = stand_in(tmp_path, "exec sleep 1000")
    with pytest.raises(ServerStartError, match=r"not ready after 0\.5 s"):
        TritonServer(repository, tritonserver=script, ready_timeout_s=0.5)


def test_the_one_on_path_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = stand_in(tmp_path, "")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert _install.find_tritonserver(None, tmp_path).binary == script


def test_none_at_all_names_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_install.shutil, "which", lambda name: None)
    monkeypatch.setattr(_install.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ServerStartError, match=r"pip install 'cliprt\[serve\]'"):
        _install.find_tritonserver(None, tmp_path)


def test_a_stub_without_its_run_bit_is_mended(tmp_path: Path) -> None:
    install = _install.find_tritonserver(None, tmp_path)
    stub = tmp_path / "backends" / "python" / "triton_python_backend_stub"
    assert stub.stat().st_mode & 0o111 == 0o111
    assert install.arguments == (f"--backend-directory={tmp_path / 'backends'}",)


def test_the_log_is_condensed_to_its_reason(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        'I1121 09:00:00.1 5 a.cc:1] "fine"\nE1121 09:00:00.2 5 b.cc:2] "port in use"\nx\n'
    )
    assert _why(log) == "port in use"
    log.write_text("W1121 a.cc:1] CudaDriverHelper has not been initialized.\n  what():  stol\nx\n")
    assert _why(log) == "stol"
    log.write_text("")
    assert _why(log) == "it printed nothing"


# Starts a server, tells its address, and waits to be killed.
OWNER = """
import sys, time
from cliprt_triton import TritonServer
server = TritonServer(sys.argv[1])
print(server.address, flush=True)
time.sleep(1000)
"""


def test_no_orphan_outlives_a_killed_owner(repository: Path) -> None:
    command = [sys.executable, "-c", OWNER, str(repository)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        address = owner.stdout.readline()
        assert servers_at(address)
        owner.send_signal(signal.SIGKILL)
    until(lambda: not servers_at(address), 30)


def test_no_stub_outlives_a_killed_server(repository: Path) -> None:
    with TritonServer(repository) as server:
        stubs = processes_with(server._regions) - {server.pid}
        assert stubs
        for stub in stubs:  # so that they cannot notice by themselves
            os.kill(stub, signal.SIGSTOP)
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
    until(lambda: not stubs & processes_with(server._regions), 30)
    assert not {name for name in shared_memory() if name.startswith(server._regions)}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_command_serves_until_it_is_told_to_stop(
    number: signal.Signals, small_bundle: Bundle
) -> None:
    command = [sys.executable, "-m", "cliprt", "serve", str(small_bundle.path), "--name", "shop"]
    ports = ["--grpc-port", "0", "--metrics-port", "0"]
    with subprocess.Popen(
        [*command, *ports], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(4)]
        told = dict(line.split(maxsplit=1) for line in lines[1:])
        assert lines[0].endswith("is ready\n")
        assert set(told) == {"grpc", "metrics", "log"}
        with Client(told["grpc"].strip(), model="shop") as client:
            assert client.encode_text("a").shape == (1, 24)
        process.send_signal(number)
        out, error = process.communicate(timeout=30)
        assert (process.returncode, out, error) == (0, "", "")
    assert not servers_at(told["grpc"])


def test_the_command_says_why_it_cannot_serve(small_bundle: Bundle, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cliprt", "serve"]
    nothing = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=False)
    assert nothing.returncode == 1
    assert nothing.stderr.startswith(f"Error: {tmp_path} is no bundle")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        busy = subprocess.run(
            [*command, str(small_bundle.path), "--grpc-port", port],
            capture_output=True,
            text=True,
            check=False,
        )
    assert busy.returncode == 1
    assert busy.stderr.startswith(f"Error: cannot listen on 127.0.0.1:{port}")
    assert len(busy.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("victim", "reason"),
    [
        ("--model-repository", "tritonserver ended by itself with status -9"),
        ("clip_text", "tritonserver crashed by the end of a process of clip_text (SIGKILL)"),
    ],
)
def test_without_restarts_a_server_that_dies_ends_the_command(
    victim: str, reason: str, small_bundle: Bundle
) -> None:
    command = [sys.executable, "-m", "cliprt", "serve", str(small_bundle.path)]
    ports = ["--grpc-port", "0", "--metrics-port", "0", "--restarts", "0"]
    with subprocess.Popen(
        [*command, *ports], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for _ in range(4):
            process.stdout.readline()
        (pid,) = processes_with(victim) & processes_with(f"cliprt-{process.pid}-")
        os.kill(pid, signal.SIGKILL)
        _, error = process.communicate(timeout=30)
        assert process.returncode == 1
        assert reason in error
