"""infinity's server with its torch engine, asked over HTTP as its users ask it."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rivals.adapters import Adapter
from rivals.reasons import reason_in

START_S, ANSWER_S = 300, 300


class Rival(Adapter):
    """A server process; pictures go as data URIs, embeddings come back in base64.

    The bytes cross one socket more than those of rivals in process: the server is what infinity is.
    """

    threads = True
    packages = ("infinity-emb", "numpy", "pillow", "tokenizers", "torch", "transformers")

    def __init__(self, *, checkpoint: str, dtype: str = "float32") -> None:
        self._port = _free_port()
        # The one that was used last is taken first: the others may have been closed meanwhile.
        self._idle: deque[http.client.HTTPConnection] = deque()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        command = [
            *(str(Path(sys.executable).parent / "infinity_emb"), "v2"),
            *("--model-id", checkpoint, "--served-model-name", "clip"),
            *("--engine", "torch", "--device", "cpu", "--dtype", dtype),
            *("--no-bettertransformer", "--no-model-warmup"),
            *("--host", "127.0.0.1", "--port", str(self._port), "--log-level", "warning"),
        ]
        # It tells of its use on the network unless it is asked not to.
        quiet = {"DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0", "HF_HUB_OFFLINE": "1"}
        self._server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **quiet},
        )
        try:
            self._await_start()
        except BaseException:
            self.close()
            raise

    def embed(self, kind: str, items: Sequence[Any]) -> NDArray[Any]:
        """As `Adapter.embed` says."""
        if kind == "image":
            items = ["data:image/jpeg;base64," + base64.b64encode(item).decode() for item in items]
        body = {"model": "clip", "input": list(items), "modality": kind}
        answer = self._post({**body, "encoding_format": "base64"})
        rows = sorted(answer["data"], key=lambda row: row["index"])
        return np.stack([np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in rows])

    def close(self) -> None:
        """Ends what was started."""
        while self._idle:
            self._idle.pop().close()
        self._server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._server.wait(10)
        self._server.kill()
        self._server.wait()
        self._log.close()

    def _post(self, body: dict[str, Any]) -> Any:
        """Sends a request over an idle connection; over a new one, if there is none that lives.

        The server closes what was idle for five seconds, which it is while others have their turns.
        """
        content = json.dumps(body).encode()
        try:
            status, answer = self._send(self._idle.pop(), content)
        except (IndexError, ConnectionError):
            new = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_S)
            status, answer = self._send(new, content)
        if status != 200:
            raise RuntimeError(f"HTTP {status}: {answer[:200].decode(errors='replace')}")
        return json.loads(answer)

    def _send(self, connection: http.client.HTTPConnection, content: bytes) -> tuple[int, bytes]:
        try:
            connection.request("POST", "/embeddings", content, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = response.read()
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)
        return response.status, answer

    def _await_start(self) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self._server.poll() is not None:
                self._log.seek(0)
                output = self._log.read().decode(errors="replace")
                raise RuntimeError(reason_in(output, "the server ended and wrote nothing"))
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
                with contextlib.closing(connection):
                    connection.request("GET", "/health")
                    if connection.getresponse().status == 200:
                        return
            time.sleep(0.2)
        raise TimeoutError(f"the server was not ready after {START_S} s")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
