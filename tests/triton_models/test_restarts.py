"""A tritonserver that crashes is started again, up to a limit; who waits loses nothing."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import numpy as np
import pytest
from http_front import Front, post
from patience import until
from processes import servers_at, shared_memory
from tritonclient.grpc import service_pb2, service_pb2_grpc

from cliprt import Bundle, Client, Connection, Retry, ServerStartError
from cliprt_triton import Restarts, TritonServer, write_repository
from cliprt_triton._processes import model_processes
from cliprt_triton._server_flags import ADMIN_HEADER

SECRET = "only for who administrates"

LIMIT_S = 60.0


@pytest.fixture
def repository(small_bundle: Bundle, tmp_path: Path) -> Path:
    return write_repository(small_bundle, tmp_path / "repository", link=True)


def patient(address: str) -> Client:
    connection = Connection(address, retry=Retry(attempts=5, wait_for_server=True))
    return Client(connection, timeout_s=LIMIT_S)


def crash(pid: int) -> None:
    """As Triton's own bugs do it; nothing can be done about the signal."""
    os.kill(pid, signal.SIGSEGV)


def test_a_waiting_client_loses_nothing(repository: Path) -> None:
    before = shared_memory()
    told: queue.Queue[str] = queue.Queue()
    texts = [f"a picture of {number}" for number in range(600)]
    with TritonServer(repository, restarts=Restarts(tell=told.put)) as server:
        first = server.pid
        with patient(server.address) as client:
            expected = client.encode_text(texts)
            killer = threading.Timer(0.05, crash, [first])
            killer.start()
            found = [client.encode_text(text)[0] for text in texts]
            killer.join()
            line = told.get(timeout=LIMIT_S)
            # Ready again: the client's request waited for that.
            found.append(client.encode_text(texts[0])[0])
        np.testing.assert_allclose(found, [*expected, expected[0]], atol=1e-5)
        assert server.pid != first
        assert line == (
            "tritonserver crashed by SIGSEGV and is started again (crash 1 of at most 5 within "
            f"60 s); see {server.log}"
        )
        assert "Signal (11) received" in server.log.read_text()
    assert not servers_at(server.address)
    assert shared_memory() <= before


def test_a_model_whose_process_dies_is_served_again(repository: Path) -> None:
    """Triton itself would refuse everything that the model is asked, and call itself ready."""
    told: queue.Queue[str] = queue.Queue()
    with TritonServer(repository, restarts=Restarts(tell=told.put)) as server:
        before = model_processes(server._regions)
        with patient(server.address) as client:
            expected = client.encode_text("a")
            (killed,) = (pid for pid, model in before.items() if model == "clip_text")
            os.kill(killed, signal.SIGKILL)
            found = [client.encode_text("a") for _ in range(20)]
        assert told.get(timeout=LIMIT_S) == (
            "tritonserver crashed by the end of a process of clip_text (SIGKILL) and is started "
            f"again (crash 1 of at most 5 within 60 s); see {server.log}"
        )
        after = model_processes(server._regions)
        assert sorted(after.values()) == sorted(before.values())
        assert not after.keys() & before.keys()
    np.testing.assert_allclose(np.concatenate(found), np.repeat(expected, 20, 0), atol=1e-5)


def awaited() -> set[int]:
    """Processes for whose end this one waits."""
    found = set()
    for file in Path("/proc/self/fdinfo").iterdir():
        with suppress(OSError):
            found |= {int(pid) for pid in re.findall(r"^Pid:\s+(\d+)", file.read_text(), re.M)}
    return found


def regions_of(server: TritonServer) -> dict[str, int]:
    """Shared memory of the processes of a server's models, and who may read it."""
    found = {}
    for path in Path("/dev/shm").glob(f"{server._regions}*"):
        with suppress(OSError):  # it has gone meanwhile
            found[path.name] = path.stat().st_mode & 0o777
    return found


def test_so_is_one_that_was_loaded_anew(repository: Path) -> None:
    told: queue.Queue[str] = queue.Queue()
    with TritonServer(repository, admin_secret=SECRET, restarts=Restarts(tell=told.put)) as server:
        before = regions_of(server)
        (script,) = (repository / "clip_text").glob("*/model.py")
        os.utime(script)  # nothing is loaded anew that has not changed
        with grpc.insecure_channel(server.address) as channel:
            service_pb2_grpc.GRPCInferenceServiceStub(channel).RepositoryModelLoad(
                service_pb2.RepositoryModelLoadRequest(model_name="clip_text"),
                metadata=((ADMIN_HEADER, SECRET),),
                timeout=LIMIT_S,
            )

        def processes() -> list[int]:
            found = model_processes(server._regions)
            return [pid for pid, model in found.items() if model == "clip_text"]

        until(lambda: len(processes()) == 1)  # the old one ends when it has answered
        until(lambda: processes()[0] in awaited())
        assert regions_of(server).keys() - before.keys()
        until(lambda: set(regions_of(server).values()) == {0o600})
        os.kill(processes()[0], signal.SIGKILL)
        assert "the end of a process of clip_text (SIGKILL)" in told.get(timeout=LIMIT_S)


def test_too_many_crashes_are_the_end(repository: Path) -> None:
    told: queue.Queue[str] = queue.Queue()
    with TritonServer(repository, restarts=Restarts(2, within_s=600, tell=told.put)) as server:
        with patient(server.address) as client:
            for _ in range(2):
                crash(server.pid)
                told.get(timeout=LIMIT_S)
                client.encode_text("a")
        crash(server.pid)
        assert server.wait() == -signal.SIGSEGV
        assert server.reason == (
            "tritonserver crashed 3 times within 600 s, the last time by SIGSEGV, and is not "
            "started again"
        )
        assert not servers_at(server.address)
    assert told.empty()


def test_crashes_of_long_ago_do_not_count(repository: Path) -> None:
    told: queue.Queue[str] = queue.Queue()
    with (
        TritonServer(repository, restarts=Restarts(1, within_s=0.001, tell=told.put)) as server,
        patient(server.address) as client,
    ):
        for _ in range(2):
            crash(server.pid)
            assert "(crash 1 of at most 1 " in told.get(timeout=LIMIT_S)
            client.encode_text("a")


def test_one_that_was_asked_to_end_stays_ended(repository: Path) -> None:
    told: queue.Queue[str] = queue.Queue()
    with TritonServer(repository, restarts=Restarts(tell=told.put)) as server:
        os.kill(server.pid, signal.SIGTERM)
        assert server.wait() == 0
        assert server.reason == "tritonserver ended by itself with status 0"
    assert told.empty()


def test_a_first_start_that_fails_is_not_tried_again(tmp_path: Path) -> None:
    script = tmp_path / "tritonserver"
    script.write_text("#!/bin/sh\nkill -SEGV $$\n")
    script.chmod(0o755)
    with pytest.raises(ServerStartError, match="ended with status -11 while starting"):
        TritonServer(tmp_path, tritonserver=script, restarts=Restarts())


def test_a_model_that_no_longer_loads_is_the_reason(repository: Path) -> None:
    with TritonServer(repository, restarts=Restarts(tell=lambda _: None)) as server:
        graph = next((repository / "clip_text").glob("*/model.onnx"))
        graph.unlink()
        graph.write_bytes(b"garbage")
        crash(server.pid)
        server.wait()
        assert re.search("the model clip_text failed: .*no readable ONNX graph", server.reason)


# Starts a server that is started again, and waits to be killed. The thread that made it is gone.
OWNER = """
import sys, threading, time
from cliprt_triton import Restarts, TritonServer
def start():
    server = TritonServer(sys.argv[1], restarts=Restarts(tell=lambda _: print("again", flush=True)))
    print(server.pid, server.address, flush=True)
thread = threading.Thread(target=start)
thread.start()
thread.join()
time.sleep(1000)
"""


def test_a_restarted_one_does_not_outlive_its_owner(repository: Path) -> None:
    command = [sys.executable, "-c", OWNER, str(repository)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        try:
            pid, address = owner.stdout.readline().split()
            with patient(address) as client:
                crash(int(pid))
                assert owner.stdout.readline() == "again\n"
                client.encode_text("a")
        finally:
            owner.kill()
    until(lambda: not servers_at(address), 30)


@contextmanager
def served(bundle: Bundle, *options: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    command = [sys.executable, "-m", "cliprt", "serve", str(bundle.path), "--http"]
    ports = ["--grpc-port", "0", "--metrics-port", "0", "--openai-port", "0"]
    with subprocess.Popen(
        [*command, *ports, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline().strip() for _ in range(5)]
            yield process, dict(line.split(maxsplit=1) for line in lines[1:])
        finally:
            process.kill()


def triton_of(process: subprocess.Popen[str]) -> int:
    """The number of the tritonserver that a command runs."""
    lines = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(process.pid)],
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = [line for line in lines.stdout.splitlines() if "--model-repository" in line]
    return int(line.split()[0])


def test_the_command_survives_a_crash_and_goes_on_over_http(small_bundle: Bundle) -> None:
    with served(small_bundle) as (process, told):
        host, port = told["openai"].removeprefix("http://").removesuffix("/v1").split(":")
        body = {"model": "clip", "input": "a"}
        with patient(told["grpc"]) as client:
            expected = client.encode_text("a")
            assert post(Front(host, int(port)), body).status == 200
            crash(triton_of(process))
            assert process.stderr is not None
            line = process.stderr.readline()
            np.testing.assert_allclose(client.encode_text("a"), expected, atol=1e-5)
        assert line.startswith("Warning: tritonserver crashed by SIGSEGV and is started again")
        until(lambda: post(Front(host, int(port)), body).status == 200, LIMIT_S)
        process.send_signal(signal.SIGTERM)
        out, error = process.communicate(timeout=30)
        assert (process.returncode, out, error) == (0, "", "")
    assert not servers_at(told["grpc"])


def test_the_command_ends_when_crashes_do_not(small_bundle: Bundle) -> None:
    with served(small_bundle, "--restarts", "1") as (process, told):
        with patient(told["grpc"]) as client:
            crash(triton_of(process))
            assert process.stderr is not None
            assert "is started again" in process.stderr.readline()
            client.encode_text("a")
        crash(triton_of(process))
        _, error = process.communicate(timeout=60)
        assert process.returncode == 1
        assert error.splitlines()[-1] == (
            "Error: tritonserver crashed 2 times within 60 s, the last time by SIGSEGV, and is not "
            f"started again; see {told['log']}"
        )
