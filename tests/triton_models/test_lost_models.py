"""Processes of models that die before anybody has looked for them.

A process of Python stands for the tritonserver, and its child for the process of a model.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from cliprt_triton import _processes
from cliprt_triton._processes import wait_for_end

STUB = "triton_python_backend_stub"

# Its child calls itself what the first argument says, and ends as the second does; it lies there
# until a line comes. With the next line the parent ends, too.
PARENT = """
import ctypes, os, sys
name, end = sys.argv[1:]
child = os.fork()
if not child:
    ctypes.CDLL(None).prctl(15, name.encode(), 0, 0, 0)
    kind, number = end.split()
    os._exit(int(number)) if kind == "exit" else os.kill(os.getpid(), int(number))
os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
print("dead", flush=True)
sys.stdin.readline()
os.waitpid(child, 0)
sys.stdin.readline()
"""

Server = subprocess.Popen[str]


@contextmanager
def server_of(name: str, end: str) -> Iterator[Server]:
    """A parent whose child is dead and not buried."""
    command = [sys.executable, "-c", PARENT, name, end]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "dead\n"
        try:
            yield server
        finally:
            server.kill()


def say(server: Server) -> None:
    assert server.stdin is not None
    server.stdin.write("\n")
    server.stdin.flush()


def looking(*at_looks: Callable[[], object]) -> Callable[[], dict[int, str]]:
    """Finds no process, and does something at each look, the last thing at all that follow."""
    looks = iter(at_looks)

    def models() -> dict[int, str]:
        if (at_look := next(looks, None)) is not None:
            at_look()
        return {}

    return models


@pytest.mark.parametrize(("end", "told"), [("signal 9", "SIGKILL"), ("exit 3", "status 3")])
def test_one_that_was_never_seen_alive_is_lost(
    end: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_processes, "_LOADING_BURIAL_S", 0.1)
    with server_of(STUB, end) as server:
        assert wait_for_end(server.pid, dict) == f"the end of a process of a model ({told})"


@pytest.mark.parametrize(("name", "end"), [(STUB, "exit 0"), ("another", "signal 9")])
def test_others_are_not(name: str, end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_processes, "_LOADING_BURIAL_S", 0.1)
    with server_of(name, end) as server:

        def end_it() -> None:
            say(server)
            say(server)

        assert wait_for_end(server.pid, looking(lambda: None, end_it)) is None


def test_nor_is_one_that_the_server_buries(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it does with those that die while they load: nobody was served by them yet."""
    monkeypatch.setattr(_processes, "_LOADING_BURIAL_S", 60.0)
    with server_of(STUB, "signal 9") as server:
        burial = threading.Timer(0.2, say, [server])
        assert wait_for_end(server.pid, looking(burial.start, lambda: say(server))) is None
        burial.join()


def test_nor_is_that_of_another_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_processes, "_LOADING_BURIAL_S", 0.1)
    with server_of(STUB, "signal 9"), server_of("another", "exit 0") as server:

        def end_it() -> None:
            say(server)
            say(server)

        assert wait_for_end(server.pid, looking(lambda: None, end_it)) is None
