"""The HTTP front of a model, as something to measure."""

from __future__ import annotations

import base64
import http.client
import json
import re
import ssl
from collections import deque
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from cliprt import Bundle
from cliprt._connection import Tls
from cliprt._errors import (
    DeadlineExceeded,
    DeploymentError,
    InvalidInput,
    Overloaded,
    ServerError,
    ServerUnavailable,
)
from cliprt._texts import TextTokenizer
from cliprt_bench._bench_card import Model, Target, Tower
from cliprt_bench._targets import TIMEOUT_S, check_bundle, process_of, tokenizer_of

# What a token may be made of: it becomes a part of a header.
_TOKEN = re.compile(r"[\x21-\x7e]+")

# What a front says to those who may come back, as the client calls it.
_ERRORS = {429: Overloaded, 503: ServerUnavailable, 504: DeadlineExceeded}


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
        tls: Tls | None = None,
        token: str | None = None,
    ) -> None:
        """Reads what it serves.

        Args:
            url: with or without ``/v1``; without a scheme it is HTTPS if there is ``tls``.
            bundle: the one that is served, if it is at hand; captions of a given number of tokens
                need it.
            precision: of the towers that are served, which a front does not tell.
            process_ids: of front and server, if they are on this machine.
            tls: authorities and certificate, as files, for HTTPS with others than the usual ones.
            token: the API key, for a front that wants one.

        Raises:
            InvalidInput: the address is malformed or contradicts ``tls``, which cannot be used; or
                the token is no single word, or would travel to another machine in plain text.
            CliprtError: nobody answers there, or not as a front does.
        """
        scheme, self._host, self._port, path = _address_of(url, "http" if tls is None else "https")
        if tls is not None and scheme == "http":
            raise InvalidInput(f"options of TLS are for https://host, got {url!r}")
        self._context = _context(tls) if scheme == "https" else None
        self._headers = {"content-type": "application/json"}
        if token is not None:
            if not _TOKEN.fullmatch(token):
                raise InvalidInput("the token is not one word; its file must hold one, and no more")
            if self._context is None and process_of(self._host) == "remote":
                raise InvalidInput(
                    f"the token would travel to {self._host} in plain text; use https://"
                )
            self._headers["authorization"] = f"Bearer {token}"
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
            raise _ERRORS.get(status, ServerError)(f"status {status}: {reason}")
        return answer

    def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        """Sends a request over an idle connection; over a new one, if there is none that lives."""
        try:
            return self._send(self._idle.pop(), method, path, body)
        except (IndexError, ConnectionError):  # the front closes what was idle for long
            return self._send(self._new_connection(), method, path, body)

    def _new_connection(self) -> http.client.HTTPConnection:
        if self._context is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT_S)
        return http.client.HTTPSConnection(
            self._host, self._port, timeout=TIMEOUT_S, context=self._context
        )

    def _send(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None
    ) -> tuple[int, bytes]:
        try:
            connection.request(method, self._path + path, body, self._headers)
            response = connection.getresponse()
            content = response.read()
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)
        return response.status, content


def _address_of(url: str, usual: str) -> tuple[str, str, int, str]:
    """Scheme, host, port and path of a front.

    Args:
        url: with or without a scheme.
        usual: the scheme of one without.

    Raises:
        InvalidInput: it is no address of HTTP or HTTPS.
    """
    try:
        parts = urlsplit(url if "//" in url else f"{usual}://{url}")
        ports = {"http": 80, "https": 443}
        if parts.scheme in ports and parts.hostname:
            return parts.scheme, parts.hostname, parts.port or ports[parts.scheme], parts.path
    except ValueError:  # of the port, or of brackets
        pass
    raise InvalidInput(f"the address of a front is http://host:port, got {url!r}")


def _context(tls: Tls | None) -> ssl.SSLContext:
    """How HTTPS is spoken; the front's certificate is always checked.

    Raises:
        InvalidInput: an authority or the own certificate cannot be used.
    """
    tls = tls or Tls()
    if tls.server_name is not None:
        raise InvalidInput("--tls-server-name is for gRPC; name the front as its certificate does")
    authorities, _, _ = tls.read()
    try:
        context = ssl.create_default_context(cadata=authorities and authorities.decode())
        if tls.certificate is not None:
            context.load_cert_chain(tls.certificate, tls.key)
    except (OSError, ValueError) as cause:
        raise InvalidInput(f"TLS: {cause}") from None
    return context
