"""A rival's process, seen from the load generator."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rivals.environments import Refusal, worker_environment
from rivals.protocol import ProtocolError, pack_request, receive_frame, send_frame, unpack_answer
from rivals.reasons import reason_in

# A request that takes longer has failed; a process that is told to end has so long.
ANSWER_S, END_S = 300.0, 15.0


class NotStarted(Exception):
    """A worker did not come up.

    Attributes:
        refusal: why.
    """

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal


class Worker:
    """A worker process and connections to it, one for each thread that asks.

    Attributes:
        versions: what the rival consists of, by package.
        threads: whether it computes several requests at once.
    """

    def __init__(
        self,
        python: Path,
        adapter: str,
        settings: Mapping[str, Any],
        folder: Path,
        *,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """Starts the process and waits until it can be asked.

        Args:
            python: the interpreter of the rival's environment.
            adapter: a file of ``adapters`` without ``.py``.
            settings: keyword arguments of its class.
            folder: an empty one, which exists: for the socket and the log. Its path must be short
                (a socket's has at most 107 bytes).
            variables: environment variables beside those of `worker_environment`.

        Raises:
            NotStarted: the adapter could not be loaded.
        """
        self._path, log = folder / "socket", folder / "log"
        self._own, self._streams = threading.local(), list[socket.socket]()
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [
                    *(str(python), "-W", "ignore", "-m", "rivals.worker"),
                    *(adapter, str(self._path), json.dumps(dict(settings))),
                ],
                cwd=folder,
                env={**worker_environment(), **(variables or {})},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        assert self._process.stdout is not None
        try:
            line = self._process.stdout.readline()
            report = json.loads(line) if line else {}
        except BaseException:
            self.close()
            raise
        if "versions" not in report:
            self.close()
            output = log.read_text(errors="replace")
            reason = report.get("failed") or reason_in(output, "it ended and wrote nothing")
            raise NotStarted(Refusal("start", reason))
        self.versions: dict[str, str] = report["versions"]
        self.threads: bool = report["threads"]

    def ask(self, kind: str, items: Sequence[bytes] | Sequence[str]) -> NDArray[np.float32]:
        """Embeddings of length 1, float32 [n, dim].

        Raises:
            RivalError: the rival failed on this request.
            ProtocolError: the worker ended.
        """
        return unpack_answer(self.exchange(pack_request(kind, items)))

    def exchange(self, request: bytes) -> bytes:
        """Sends a packed request and returns the packed answer: what is measured.

        Raises:
            ProtocolError: the worker ended.
        """
        stream = self._stream()
        send_frame(stream, request)
        answer = receive_frame(stream)
        if answer is None:
            raise ProtocolError("the worker ended")
        return answer

    def close(self) -> None:
        """Ends the process: by the end of its input, by force if that does not help."""
        for stream in self._streams:
            stream.close()
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _stream(self) -> socket.socket:
        if not hasattr(self._own, "stream"):
            stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            stream.settimeout(ANSWER_S)
            self._streams.append(stream)
            stream.connect(str(self._path))
            self._own.stream = stream
        stream = self._own.stream
        assert isinstance(stream, socket.socket)
        return stream
