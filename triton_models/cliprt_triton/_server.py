"""A tritonserver process: started, watched until it is ready, stopped."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType

from cliprt._errors import ServerStartError
from cliprt._extras import QUIET
from cliprt_triton._binding import check_host, warn_of_what_is_open
from cliprt_triton._install import TritonInstall, find_tritonserver
from cliprt_triton._ports import free_ports
from cliprt_triton._processes import check_open_files, model_processes, wait_for_end
from cliprt_triton._server_flags import (
    ServerTls,
    access_arguments,
    cache_arguments,
    keepalive_arguments,
)
from cliprt_triton._server_log import default_log, opened_log
from cliprt_triton._supervision import Restarts, Supervisor

# Triton ends within this time after a SIGTERM; then it is killed.
_GRACE_S = 10

# The kernel ends the server when the thread that started it dies, even by SIGKILL: no orphan keeps
# a port or a GPU. Set in a process that then becomes tritonserver, because running Python between
# fork and exec is not safe with threads; an owner that died before that is noticed by its number.
# Every connection is an open file: those that may be open are as many as the system lets be.
_LAUNCH = """
import ctypes, os, resource, sys
ctypes.CDLL(None).prctl(1, 15)
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65536)), hard))
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""

# Printed on every machine without a GPU; never the reason of a failure.
_BENIGN = ("CudaDriverHelper", "pinned memory", "CUDA memory pool", "No GPU", "cudaGetDevice")


class TritonServer:
    """A running tritonserver. Use it as a context manager.

    Attributes:
        address: host and port of gRPC, what ``cliprt.Client`` takes.
        metrics_url: where Prometheus finds the metrics.
        http_url: where HTTP is served, or None.
        log: file with everything Triton printed.
    """

    def __init__(
        self,
        repository: str | Path,
        *,
        host: str = "127.0.0.1",
        grpc_port: int = 0,
        metrics_port: int = 0,
        http_port: int | None = None,
        tritonserver: str | Path | None = None,
        log: str | Path | None = None,
        ready_timeout_s: float = 300.0,
        prepare: Callable[[TritonInstall, Path], TritonInstall] | None = None,
        tls: ServerTls | None = None,
        shared_memory: bool = False,
        response_cache_bytes: int | None = None,
        admin_secret: str | None = None,
        load_at_start: bool = True,
        restarts: Restarts | None = None,
        allow_remote: bool = False,
    ) -> None:
        """Starts the server and waits until all its models are ready.

        Without restarts the server ends when the calling thread ends; start it from one that lives
        as long. With them it ends with the program.

        Args:
            repository: the model repository.
            host: IPv4 address to listen on; the default is reachable from this machine alone, and
                others are refused unless ``allow_remote`` is set.
            grpc_port: port of gRPC; 0 picks a free one.
            metrics_port: port of the metrics; 0 picks a free one.
            http_port: port of HTTP; 0 picks a free one, None serves no HTTP.
            tritonserver: executable to use; None finds one.
            log: file for Triton's output, which only this user may read where it is made; None
                puts it under ``$CLIPRT_HOME/logs``.
            ready_timeout_s: how long loading may take, in seconds.
            prepare: changes the installation that was found, given a folder for its files; for
                checks that stand in for backends which it lacks.
            tls: of gRPC; None serves plain text. HTTP and metrics are plain text in any case.
            shared_memory: clients on this machine may pass inputs in shared memory. Whoever
                reaches the server may then map and read shared memory of its user.
            response_cache_bytes: size of the cache for models that ask for one; None has none.
            admin_secret: who sends it as the header ``triton-grpc-protocol-cliprt-secret`` may
                load models, trace and change logging (and use shared memory); None lets nobody.
                At least 16 printable characters. Users of this machine can read it among the
                server's arguments, the only place from which tritonserver takes it.
            load_at_start: False leaves it to whoever administrates to load models; none is then
                there at the start.
            restarts: how often a server that crashed is started again; None leaves it ended.
            allow_remote: the host may be an address that other machines reach; what then stands
                open to them is logged as a warning.

        Raises:
            ServerStartError: no tritonserver was found, a port is taken, it did not come up, or
                the host is one that other machines reach and that is not allowed.
        """
        check_host(host, allow_remote=allow_remote)
        check_open_files()
        asked = (grpc_port, metrics_port, *(() if http_port is None else (http_port,)))
        ports = free_ports(host, *asked)
        http = None if http_port is None else ports[2]
        self.address = f"{host}:{ports[0]}"
        self.metrics_url = f"http://{host}:{ports[1]}/metrics"
        self.http_url = None if http is None else f"http://{host}:{http}"
        warn_of_what_is_open(self.address, self.metrics_url, self.http_url, host=host, tls=tls)
        self.log = Path(log) if log else default_log(ports[0])
        self._work = tempfile.TemporaryDirectory(prefix="cliprt-triton-", dir=_plain_folder())
        self._process: subprocess.Popen[bytes] | None = None
        self._supervisor: Supervisor | None = None
        self._regions = ""
        self._lost: str | None = None
        try:
            work = Path(self._work.name)
            install = find_tritonserver(tritonserver, work)
            if prepare is not None:
                install = prepare(install, work)
            # The Python backend cannot take a path with spaces; a link gives any path a plain name.
            (work / "models").symlink_to(Path(repository).resolve())
            # Two servers on one machine must not meet in shared memory.
            self._regions = f"cliprt-{os.getpid()}-{ports[0]}-{secrets.token_hex(4)}-"
            arguments = [
                *_arguments(work / "models", host, ports[0], ports[1], http, self._regions),
                *keepalive_arguments(),
                *cache_arguments(install, response_cache_bytes),
                *access_arguments(
                    install,
                    shared_memory=shared_memory,
                    admin_secret=admin_secret,
                    load_at_start=load_at_start,
                    http=http is not None,
                ),
                *(tls.arguments() if tls else ()),
            ]
            start = partial(self._start, install, arguments)
            wait = partial(self._wait_until_ready, ready_timeout_s)
            if restarts is None:
                start()
                wait()
            else:
                self._supervisor = Supervisor(
                    restarts,
                    start=start,
                    wait_until_ready=wait,
                    models=self._models,
                    clear=partial(_clear_up, self._regions),
                    log=self.log,
                )
                self._supervisor.begin()
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        """Number of the tritonserver process, also after it has ended; each restart changes it."""
        assert self._process is not None
        return self._process.pid

    def wait(self) -> int:
        """Waits until the server ends by itself, for good, and returns its exit status.

        One that has lost the process of a model is ended; Triton would go on without it.
        """
        assert self._process is not None
        if self._supervisor:
            return self._supervisor.wait()
        self._lost = wait_for_end(self._process.pid, self._models)
        if self._lost:
            os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.wait()

    @property
    def reason(self) -> str:
        """Why it ended by itself, once ``wait`` has returned."""
        if self._supervisor:
            return self._supervisor.reason
        assert self._process is not None
        if self._lost:
            return f"tritonserver crashed by {self._lost}"
        return f"tritonserver ended by itself with status {self._process.returncode}"

    def stop(self) -> None:
        """Ends the server: requests under way are answered, then it is gone, within seconds."""
        if self._supervisor:
            self._supervisor.forbid()
        process = self._process
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(_GRACE_S + 2)
            except subprocess.TimeoutExpired:
                # The backend's stubs share the process group and would outlive it.
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if self._supervisor:
            self._supervisor.join()
        if self._regions and process is not None and process.returncode != 0:
            _clear_up(self._regions)
        self._work.cleanup()

    def __enter__(self) -> TritonServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _start(self, install: TritonInstall, arguments: list[str]) -> subprocess.Popen[bytes]:
        launch = [sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid()), str(install.binary)]
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            # What a crashed predecessor said stays.
            with opened_log(self.log, anew=self._process is None) as log:
                self._process = subprocess.Popen(
                    [*launch, *install.arguments, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**QUIET, **os.environ, **install.environment},
                    # Ctrl-C in a terminal reaches this program, which passes it on in order.
                    start_new_session=True,
                    umask=0o077,
                )
                return self._process
        except OSError as error:
            raise ServerStartError(
                f"tritonserver cannot be started: {error}; its output goes to {self.log}, "
                "name another file if that cannot be written"
            ) from None

    def _wait_until_ready(self, timeout_s: float) -> None:
        """Waits until all models are loaded and every port is served."""
        assert self._process is not None
        deadline = time.monotonic() + timeout_s
        while self._process.poll() is None:
            if time.monotonic() > deadline:
                raise ServerStartError(
                    f"tritonserver was not ready after {timeout_s:g} s: {_why(self.log)}. "
                    f"All it printed is in {self.log}"
                )
            if self._metrics_served():
                _close_to_others(self._regions)
                return
            time.sleep(0.05)
        raise ServerStartError(
            f"tritonserver ended with status {self._process.returncode} while starting: "
            f"{_why(self.log)}. All it printed is in {self.log}"
        )

    def _models(self) -> dict[int, str]:
        """As ``model_processes``, for who looks again and again: new ones are closed to others."""
        _close_to_others(self._regions)
        return model_processes(self._regions)

    def _metrics_served(self) -> bool:
        """Whether metrics are served, which Triton starts last: after its models, gRPC and HTTP.

        gRPC cannot be asked instead: it answers before HTTP does, and with TLS the certificate
        is for another name than the address, and a server may want one of this program, too.
        """
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(self.metrics_url, timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def _arguments(
    repository: Path,
    host: str,
    grpc_port: int,
    metrics_port: int,
    http_port: int | None,
    regions: str,
) -> list[str]:
    arguments = [
        f"--model-repository={repository}",
        "--strict-readiness=true",
        # The configurations are complete; what Triton would guess is not wanted.
        "--disable-auto-complete-config",
        f"--exit-timeout-secs={_GRACE_S}",
        f"--grpc-address={host}",
        f"--grpc-port={grpc_port}",
        f"--metrics-address={host}",
        f"--metrics-port={metrics_port}",
        f"--backend-config=python,shm-region-prefix-name={regions}",
    ]
    if http_port is None:
        return [*arguments, "--allow-http=false"]
    return [*arguments, f"--http-address={host}", f"--http-port={http_port}"]


def _close_to_others(regions: str) -> None:
    """Keeps other users from reading requests in the Python backend's shared memory.

    It makes its regions readable for everybody, whatever the umask, while its models load.
    """
    for region in Path("/dev/shm").glob(f"{regions}*"):
        with suppress(OSError):  # it has gone meanwhile
            region.chmod(0o600)


def _clear_up(regions: str) -> None:
    """Removes what a server that crashed has left.

    The backend's stubs notice its end by what they share with it, and some wait for it forever.
    Each has the name of the shared memory on its command line.
    """
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended meanwhile
            if regions.encode() in path.read_bytes():
                os.kill(int(path.parent.name), signal.SIGKILL)
    for region in Path("/dev/shm").glob(f"{regions}*"):
        region.unlink(missing_ok=True)


def _plain_folder() -> str | None:
    """A place for temporary files without spaces in its name; None is the system's choice."""
    return "/tmp" if re.search(r"\s", tempfile.gettempdir()) else None


def _why(log: Path) -> str:
    """The reason in Triton's output: failed models, then crashes, then errors, then its last line.

    Returns:
        At most about 800 characters on one line, without a full stop.
    """
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "it printed nothing"
    lines = [line for line in text.splitlines() if not any(sign in line for sign in _BENIGN)]
    # | clip_text | 1 | UNAVAILABLE: Internal: ... |
    models = re.findall(r"^\| (\S+)\s+\| \S+\s+\| UNAVAILABLE: (.*?)\s*\|$", text, re.M)
    reasons = [f"the model {name} failed: {reason}" for name, reason in models]
    for pattern in (r"\s*what\(\):\s*(.*)", r"error: (.*)", r"E\d{4} .*?\] (.*)"):
        reasons = reasons or [found[1] for line in lines if (found := re.match(pattern, line))][-1:]
    reasons = reasons or [line for line in lines if line.strip()][-1:] or ["it printed nothing"]
    return "; ".join(reasons)[:800].strip('" .')
