"""Starting a tritonserver again that crashed."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cliprt._errors import ServerStartError
from cliprt_triton._processes import wait_for_end

_log = logging.getLogger("cliprt")

# Asked for by somebody; every other signal that ends a server is a crash. SIGKILL is one, too: it
# is how the kernel ends who has taken too much memory.
_ASKED_FOR = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True)
class Restarts:
    """How often a server that crashed is started again.

    A crash is an end by a signal that is no request to end. That of a process in which the server
    runs a model is one, too: Triton does not start it again. Ports, models and log stay the same;
    requests that were under way are lost, unless their clients try again
    (``cliprt.Retry(wait_for_server=True)``).

    Attributes:
        most: crashes that are survived within a time; one more ends the service.
        within_s: that time, in seconds.
        tell: gets one line about each crash, from a thread of its own; None logs a warning.

    Raises:
        ValueError: a number is out of its range.
    """

    most: int = 5
    within_s: float = 60.0
    tell: Callable[[str], object] | None = None

    def __post_init__(self) -> None:
        if self.most < 1:
            raise ValueError(f"most must be at least 1, got {self.most}")
        if not self.within_s > 0:
            raise ValueError(f"within_s must be positive, got {self.within_s}")

    def report(self, line: str) -> None:
        """Passes a line on."""
        (self.tell or _log.warning)(line)


class Supervisor:
    """A process that is started again when it crashes, from a thread of this object's own.

    The kernel ends the process when the thread that started it dies. So all of them are started by
    this one, which lives as long as it is needed or the program lasts.
    """

    def __init__(
        self,
        restarts: Restarts,
        *,
        start: Callable[[], subprocess.Popen[bytes]],
        wait_until_ready: Callable[[], None],
        models: Callable[[], Mapping[int, str]],
        clear: Callable[[], object],
        log: object,
    ) -> None:
        """Starts nothing yet.

        Args:
            restarts: how often.
            start: starts the process, which leads a group of its own.
            wait_until_ready: returns when it is, or raises ServerStartError.
            models: numbers of the processes that it runs models in, with the models' names.
            clear: removes what a crashed one left.
            log: where its output is, for messages.
        """
        self._restarts = restarts
        self._start = start
        self._wait_until_ready = wait_until_ready
        self._models = models
        self._clear = clear
        self._log = log
        self._crashes: deque[float] = deque()
        self._lock = threading.Lock()
        self._stopping = False
        self._ready = threading.Event()
        self._over = threading.Event()
        self._failure: BaseException | None = None
        self._status = 0
        self._thread = threading.Thread(target=self._run, name="cliprt-supervisor", daemon=True)
        self.reason = ""

    def begin(self) -> None:
        """Starts the process and returns when it is ready.

        Raises:
            ServerStartError: it did not become ready.
        """
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure

    def wait(self) -> int:
        """Waits until the process has ended and is not started again; returns its status."""
        self._over.wait()
        return self._status

    def forbid(self) -> None:
        """From now on nothing is started any more; what runs goes on."""
        with self._lock:
            self._stopping = True

    def join(self) -> None:
        """Waits for the thread, once the process was ended for good."""
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            self._supervise()
        except BaseException as error:  # noqa: BLE001 - whoever waits must hear of it
            self._failure = error
            self.reason = str(error)
        finally:
            self._ready.set()
            self._over.set()

    def _supervise(self) -> None:
        while (process := self._next()) is not None:
            crash = self._serve(process)
            self._status = process.returncode
            if self._stopping:
                return
            if crash is None:
                self.reason = f"tritonserver ended by itself with status {self._status}"
                return
            now, within_s = time.monotonic(), self._restarts.within_s
            self._crashes.append(now)
            while self._crashes[0] < now - within_s:
                self._crashes.popleft()
            count = len(self._crashes)
            if count > self._restarts.most:
                self.reason = (
                    f"tritonserver crashed {count} times within {within_s:g} s, the last time by "
                    f"{crash}, and is not started again"
                )
                return
            self._restarts.report(
                f"tritonserver crashed by {crash} and is started again (crash {count} of at most "
                f"{self._restarts.most} within {within_s:g} s); see {self._log}"
            )

    def _next(self) -> subprocess.Popen[bytes] | None:
        """Starts the process, unless that is forbidden."""
        with self._lock:
            return None if self._stopping else self._start()

    def _serve(self, process: subprocess.Popen[bytes]) -> str | None:
        """Lets a process run to its end; says what crashed it, if anything did."""
        try:
            self._wait_until_ready()
        except ServerStartError:
            # One that crashes while it loads after a crash may yet succeed; the first does not.
            if not (self._ready.is_set() and process.poll() is not None and _crashed(process)):
                _end(process)
                raise
        self._ready.set()
        # Its number stays taken until its group, the backend's stubs, is gone as well.
        lost = wait_for_end(process.pid, self._models)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self._clear()
        if lost is None and _crashed(process):
            return signal.Signals(-process.returncode).name
        return lost


def _crashed(process: subprocess.Popen[bytes]) -> bool:
    status = process.returncode
    return status < 0 and -status not in _ASKED_FOR


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
