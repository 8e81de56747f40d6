"""A process that works for this one, at the other end of a socket."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from multiprocessing.connection import Connection
from multiprocessing.spawn import get_executable

# A picture within the limits takes seconds at most; a start takes a few on a busy machine.
_PATIENCE_S = 120.0

# The GNU allocator hands freed pictures back to the system and asks for them again, page by page,
# for every picture; a process that does nothing else may keep them. Others do not read these.
_KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(64 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(64 * 2**20),
}

_PROGRAM = (
    "import sys; sys.path[:] = {path!r}; from {module} import {function} as serve; "
    "serve(*{descriptors})"
)


class WorkerProcess:
    """One process and this end of its socket.

    It is started like any other program rather than forked (this process may hold threads of gRPC)
    or spawned by multiprocessing (which runs the caller's main module again), and ends when its
    socket does, so also with a parent that is killed.
    """

    def __init__(self, serve: str, *shared: int, patience_s: float | None = _PATIENCE_S) -> None:
        """Starts it.

        Args:
            serve: ``module:function``; called with the descriptor of the other end of the socket,
                and with those that are shared.
            shared: file descriptors that it gets.
            patience_s: to answer, in seconds; None means without end.

        Raises:
            OSError: it cannot be started.
        """
        mine, theirs = socket.socketpair()
        module, _, function = serve.partition(":")
        descriptors = [theirs.fileno(), *shared]
        program = _PROGRAM.format(
            path=sys.path, module=module, function=function, descriptors=descriptors
        )
        try:
            # In a session of its own, Ctrl-C on the terminal reaches this process alone.
            self.process = subprocess.Popen(
                [os.fsdecode(get_executable() or sys.executable), "-c", program],
                stdin=subprocess.DEVNULL,
                env={**_KEEP_MEMORY, **os.environ},
                pass_fds=descriptors,
                start_new_session=True,
            )
        except OSError:
            mine.close()
            raise
        finally:
            theirs.close()
        self._socket = Connection(mine.detach())
        self._patience_s = patience_s
        self._ending = threading.Lock()

    def ask(self, data: bytes) -> bytes:
        """Sends something and waits for the answer.

        Raises:
            EOFError: the process ended.
            OSError: likewise, or it did not answer in time.
        """
        self.tell(data)
        return self.answer()

    def tell(self, data: bytes) -> None:
        """Sends something."""
        self._socket.send_bytes(data)

    def answer(self) -> bytes:
        """Waits for an answer; raises as ``ask`` does."""
        if not self._socket.poll(self._patience_s):
            raise TimeoutError
        return self._socket.recv_bytes()

    def dismiss(self, patience_s: float) -> str:
        """Lets the process end by itself, which it sees at its socket; says how it ended."""
        with self._ending:
            self._socket.close()
        return self.end(patience_s)

    def end(self, patience_s: float = 0.1) -> str:
        """Ends the process and says how it had ended."""
        with self._ending:
            # One that died by itself may take a moment to be seen as dead.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(patience_s)
            self.process.kill()
            code = self.process.wait()
            if not self._socket.closed:
                self._socket.close()
        return f"by signal {-code}" if code < 0 else f"with status {code}"

    def stop(self) -> None:
        """Ends the process; a thread that waits for its answer sees the end of the socket."""
        self.process.kill()
        self.process.wait()
