"""The HTTP front of a model, as something to measure."""

from __future__ import annotations

import base64
import http.client
import json
from collections import deque
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from cliprt import Bundle
from cliprt._errors import DeploymentError, InvalidInput, ServerError
from cliprt._texts import TextTokenizer
from cliprt_bench._bench_card import Model, Target, Tower
from cliprt_bench._targets import TIMEOUT_S, check_bundle, process_of, tokenizer_of


class OpenAiFront:
    """``cliprt serve --http``, asked as OpenAI's clients do, over connections that stay open.

    There are as many connections as requests were under way at once, whatever thread sent them.
    """

    def __init__(
        self,
        url: str,
        *,
        bundle: Bundle | None = None,
        precision: str | None = None,
        process_ids: tuple[int, ...] = (),
    ) -> None:
        """Reads what it serves.

        Args:
            url: with or without ``/v1``, of plain HTTP.
            bundle: the one that is served, if it is at hand; captions of a given number of tokens
                need it.
            precision: of the towers that are served, which a front does not tell.
            process_ids: of front and server, if they are on this machine.

        Raises:
            InvalidInput: the address is malformed.
            CliprtError: nobody answers there, or not as a front does.
        """
        self._host, self._port, path = _address_of(url)
        self._path = path.rstrip("/").removesuffix("/v1")
        # The one that was used last is taken first: the others may have been closed meanwhile.
        self._idle: deque[http.client.HTTPConnection] = deque()
        self.bundle, self.process_ids = bundle, process_ids
        try:
            self._read(self._ask("GET", "/v1/models", None))
        except BaseException:
            self.close()
            raise
        self.target = Target(
            kind="openai",
            name="cliprt OpenAI front",
            runtime=None,
            precision=precision,
            settings={},
            process=process_of(self._host),
            precisions={} if precision is None else dict.fromkeys(self.towers, precision),
        )

    def _read(self, listed: Any) -> None:
        """Takes what the front says of its first model."""
        try:
            served = listed["data"][0]
            self._id = served["id"]
            self.model = Model(name=served["name"], space=served["space"], dim=served["dimensions"])
            towers: tuple[Tower, ...] = ("image", "text")
            self.towers = tuple(tower for tower in towers if tower in served["inputs"])
        except (LookupError, TypeError):
            raise ServerError(f"{self._host}:{self._port} is no front of cliprt") from None
        check_bundle(self.bundle, self.model.space)

    def images(self, files: Sequence[bytes]) -> NDArray[np.float32]:
        return self._embed(
            [f"data:image/jpeg;base64,{base64.b64encode(file).decode()}" for file in files]
        )

    def texts(self, strings: Sequence[str]) -> NDArray[np.float32]:
        return self._embed(list(strings))

    def tokenizer(self) -> TextTokenizer | None:
        return None if self.bundle is None else tokenizer_of(self.bundle)

    def close(self) -> None:
        """Closes the connections, which no thread may be using."""
        while self._idle:
            self._idle.pop().close()

    def _embed(self, items: list[str]) -> NDArray[np.float32]:
        body = {"model": self._id, "input": items, "encoding_format": "base64"}
        answer = self._ask("POST", "/v1/embeddings", json.dumps(body).encode())
        rows = [base64.b64decode(item["embedding"]) for item in answer["data"]]
        return np.frombuffer(b"".join(rows), "<f4").reshape(len(items), -1)

    def _ask(self, method: str, path: str, body: bytes | None) -> Any:
        try:
            status, content = self._exchange(method, path, body)
        except (OSError, http.client.HTTPException) as cause:
            raise DeploymentError(
                f"{self._host}:{self._port} did not answer: {type(cause).__name__}"
            ) from None
        try:
            answer = json.loads(content)
        except ValueError:
            raise ServerError(f"{self._host}:{self._port} answered no JSON") from None
        if status != 200:
            try:
                reason = answer["error"]["message"]
            except (LookupError, TypeError):
                reason = "without a reason"
            raise ServerError(f"status {status}: {reason}")
        return answer

    def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        """Sends a request over an idle connection; over a new one, if there is none that lives."""
        try:
            return self._send(self._idle.pop(), method, path, body)
        except (IndexError, ConnectionError):  # the front closes what was idle for long
            return self._send(self._new_connection(), method, path, body)

    def _new_connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT_S)

    def _send(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None
    ) -> tuple[int, bytes]:
        try:
            connection.request(
                method, self._path + path, body, {"content-type": "application/json"}
            )
            response = connection.getresponse()
            content = response.read()
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)
        return response.status, content


def _address_of(url: str) -> tuple[str, int, str]:
    """Host, port and path of a front.

    Raises:
        InvalidInput: it is no address of plain HTTP.
    """
    try:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme == "http" and parts.hostname:
            return parts.hostname, parts.port or 80, parts.path
    except ValueError:  # of the port, or of brackets
        pass
    raise InvalidInput(f"the address of a front is http://host:port, got {url!r}")
