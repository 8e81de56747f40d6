"""The server under test: ``cliprt serve`` with everything on, in processes of its own."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
from wire import load_anew

_STUB = "triton_python_backend_stub"
_RECOVERY_S = 120.0
_STOP_S = 60.0


class NotHealthy(Exception):
    """The server did not become healthy again, or ended."""


class Served:
    """``cliprt serve`` with supervision, shared memory, Triton's HTTP and the OpenAI front.

    Attributes:
        pid: of the command, which holds the front and the supervisor.
        grpc: address of gRPC.
        http: of Triton's HTTP, with its scheme.
        openai: of the front, with its path.
        errors: file with what the command printed on standard error: a line for each crash.
    """

    def __init__(self, bundle: Path, folder: Path) -> None:
        """Starts it and waits until it is ready.

        Args:
            bundle: what is served.
            folder: for logs; ``TMPDIR`` of this process is that of the server, too.

        Raises:
            NotHealthy: it did not start.
        """
        self.errors = folder / "serve.err"
        self._secret = secrets.token_hex(16)
        command = [sys.executable, "-W", "ignore", "-m", "cliprt", "serve", str(bundle)]
        ports = ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"]
        options = ["--http", "--openai-port", "0", "--shared-memory", "--restarts", "1000"]
        with self.errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [*command, *ports, *options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, "CLIPRT_ADMIN_SECRET": self._secret},
                start_new_session=True,  # Ctrl-C reaches the program that asks, which stops it
            )
        self.pid = self._process.pid
        told = self._told()
        self.grpc, self.http, self.openai = told["grpc"], told["http"], told["openai"]
        self._checks: list[Callable[[], object]] = []
        self._roles = sorted(self.members().values())
        self._server = _server_of(self.members())

    def members(self) -> dict[int, str]:
        """Roles of its processes, by number."""
        found = {self.pid: "front"}
        with suppress(psutil.Error):
            for child in psutil.Process(self.pid).children(recursive=True):
                with suppress(psutil.Error, IndexError):
                    command = child.cmdline()
                    if _STUB in command[0]:
                        found[child.pid] = f"stub {_model_of(command)}"
                    elif any("--model-repository=" in one for one in command):
                        found[child.pid] = "tritonserver"
        return found

    def check_also(self, check: Callable[[], object]) -> None:
        """From now on it is only healthy if this raises nothing."""
        self._checks.append(check)

    def processes(self) -> list[psutil.Process]:
        """Its processes, as handles that outlive them."""
        found = []
        for pid in self.members():
            with suppress(psutil.Error):
                found.append(psutil.Process(pid))
        return found

    def crashed(self) -> bool:
        """Whether the tritonserver that was healthy last has ended."""
        return not psutil.pid_exists(self._server)

    def healthy(self) -> bool:
        """Whether all its processes are there, the towers give known answers, and all checks hold.

        Its own health concerns the towers; the models around them are what the checks ask.
        """
        members = self.members()
        if sorted(members.values()) != self._roles:
            return False
        if not _answers("POST", f"{self.http}/v2/models/clip_health/infer"):
            return False
        if not _answers("GET", f"{self.openai}/health/ready"):
            return False
        try:
            for check in self._checks:
                check()
        except Exception:  # noqa: BLE001 - whatever it is, it is not healthy
            return False
        self._server = _server_of(members)
        return True

    def wait_until_healthy(self) -> None:
        """Waits until it answers rightly again.

        Raises:
            NotHealthy: it does not, or the command has ended.
        """
        ends = time.monotonic() + _RECOVERY_S
        while not self.healthy():
            if self._process.poll() is not None:
                raise NotHealthy(f"cliprt serve ended: {self.errors.read_text()[-500:]}")
            if time.monotonic() > ends:
                raise NotHealthy(f"it was not healthy again within {_RECOVERY_S:g} s")
            time.sleep(0.1)

    def kill_server(self) -> None:
        """Kills the tritonserver with SIGKILL."""
        _kill(self._server)

    def kill_stub(self, model: str) -> None:
        """Kills the process that computes a model with SIGKILL."""
        found = [pid for pid, role in self.members().items() if role == f"stub {model}"]
        if not found:
            raise NotHealthy(f"the model {model} has no process")
        _kill(found[0])

    def reload(self, model: str) -> None:
        """Has a model loaded anew while it serves, as if it had been changed.

        Raises:
            NotHealthy: the server refuses.
        """
        command = psutil.Process(self._server).cmdline()
        (folder,) = (one for one in command if one.startswith("--model-repository="))
        for file in (Path(folder.partition("=")[2]) / model).glob("*/model.py"):
            os.utime(file)
        refused = load_anew(self.grpc, model, secret=self._secret, timeout_s=_RECOVERY_S)
        if refused is not None:
            raise NotHealthy(f"{model} cannot be loaded: {refused}")

    def stop(self) -> int:
        """Ends it as Ctrl-C would, and returns its status."""
        self._process.send_signal(signal.SIGINT)
        try:
            return self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
        finally:
            if self._process.stdout is not None:
                self._process.stdout.close()

    def _told(self) -> dict[str, str]:
        """What it prints when it is ready."""
        assert self._process.stdout is not None
        lines = [self._process.stdout.readline() for _ in range(6)]
        if not lines[-1]:
            self._process.wait()
            raise NotHealthy(f"cliprt serve did not start: {self.errors.read_text()[-1000:]}")
        return dict(line.split(maxsplit=1) for line in map(str.strip, lines[1:]))


def _server_of(members: dict[int, str]) -> int:
    (found,) = (pid for pid, role in members.items() if role == "tritonserver")
    return found


def _kill(pid: int) -> None:
    """Kills a process and waits until it is dead: until then a probe might find it healthy."""
    process = psutil.Process(pid)
    process.kill()
    with suppress(psutil.NoSuchProcess):
        while process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)


def _model_of(command: list[str]) -> str:
    """The model of a process that was told ``.../clip_text/1174457520/model.py``."""
    (script,) = re.findall(r"/([^/]+)/\d+/model\.py$", command[1])
    return str(script)


def _answers(method: str, url: str) -> bool:
    request = urllib.request.Request(url, method=method, data=b"" if method == "POST" else None)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
