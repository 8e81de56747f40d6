"""Every way into a served bundle, behind two methods, for the conformance suite.

Errors come out as cliprt's: those of other ways are read from what their callers get to see.
"""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import re
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NoReturn, Protocol

import grpc
import numpy as np
from numpy.typing import NDArray
from wire import request_of, stub_of, tensors_of

from cliprt import AsyncClient, Bundle, Client, InvalidInput, Limits
from cliprt_engines import LocalClip


class Way(Protocol):
    """A way in."""

    def images(self, files: Sequence[bytes]) -> NDArray[np.float32]:
        """Embeds encoded pictures."""

    def texts(self, strings: Sequence[str]) -> NDArray[np.float32]:
        """Embeds strings."""

    def close(self) -> None:
        """Ends it."""


class InProcess:
    """LocalClip."""

    def __init__(self, bundle: Bundle, limits: Limits) -> None:
        self._clip = LocalClip(bundle, limits=limits)
        self.images, self.texts = self._clip.encode_image, self._clip.encode_text
        self.close = self._clip.close


class Blocking:
    """Client."""

    def __init__(self, address: str, limits: Limits) -> None:
        self._client = Client(address, limits=limits)
        self.images, self.texts = self._client.encode_image, self._client.encode_text
        self.close = self._client.close


class Awaiting:
    """AsyncClient."""

    def __init__(self, address: str, limits: Limits) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = AsyncClient(address, limits=limits)

    def images(self, files: Sequence[bytes], **options: Any) -> NDArray[np.float32]:
        return self._loop.run_until_complete(self._client.encode_image(files, **options))

    def texts(self, strings: Sequence[str], **options: Any) -> NDArray[np.float32]:
        return self._loop.run_until_complete(self._client.encode_text(strings, **options))

    def close(self) -> None:
        self._loop.run_until_complete(self._client.close())
        self._loop.close()


class EnsembleOverGrpc:
    """The ensembles, called with nothing but the protocol."""

    def __init__(self, address: str) -> None:
        self._open = ExitStack()
        self._stub = self._open.enter_context(stub_of(address))
        self.close = self._open.close

    def images(self, files: Sequence[bytes]) -> NDArray[np.float32]:
        return self._infer("clip_image_file", "image", files)

    def texts(self, strings: Sequence[str | bytes]) -> NDArray[np.float32]:
        return self._infer("clip_text_string", "text", [as_bytes(text) for text in strings])

    def _infer(self, model: str, name: str, items: Sequence[bytes]) -> NDArray[np.float32]:
        try:
            answer = self._stub.ModelInfer(request_of(model, {name: items}), timeout=60)
        except grpc.RpcError as error:
            refuse(error.code() is grpc.StatusCode.INVALID_ARGUMENT, error.details())
        return tensors_of(answer)["embedding"]


class PairsOverGrpc:
    """The model of pairs; what is not asked about is the same good picture or text in each pair."""

    def __init__(self, address: str, *, image: bytes, text: str) -> None:
        self._open = ExitStack()
        self._stub = self._open.enter_context(stub_of(address))
        self._image, self._text = image, text
        self.close = self._open.close

    def images(self, files: Sequence[bytes]) -> NDArray[np.float32]:
        return self._infer("image_embedding", files, [self._text] * len(files))

    def texts(self, strings: Sequence[str | bytes]) -> NDArray[np.float32]:
        return self._infer("text_embedding", [self._image] * len(strings), strings)

    def _infer(
        self, asked: str, files: Sequence[bytes], strings: Sequence[str | bytes]
    ) -> NDArray[np.float32]:
        inputs = {"image": files, "text": [as_bytes(text) for text in strings]}
        try:
            answer = self._stub.ModelInfer(request_of("clip", inputs), timeout=60)
        except grpc.RpcError as error:
            refuse(error.code() is grpc.StatusCode.INVALID_ARGUMENT, error.details())
        return tensors_of(answer)[asked]


class EnsembleOverHttp:
    """The ensembles by Triton's HTTP: JSON for texts, binary for pictures."""

    def __init__(self, url: str) -> None:
        self._host = url.removeprefix("http://")

    def images(self, files: Sequence[bytes]) -> NDArray[np.float32]:
        return self._binary("clip_image_file", "image", files)

    def texts(self, strings: Sequence[str | bytes]) -> NDArray[np.float32]:
        if any(isinstance(text, bytes) for text in strings):
            return self._binary("clip_text_string", "text", [as_bytes(text) for text in strings])
        shape = [len(strings), 1]
        tensor = {"name": "text", "datatype": "BYTES", "shape": shape, "data": list(strings)}
        return self._post("clip_text_string", json.dumps({"inputs": [tensor]}).encode(), {})

    def close(self) -> None:
        pass

    def _binary(self, model: str, name: str, items: Sequence[bytes]) -> NDArray[np.float32]:
        (content,) = request_of("", {name: items}).raw_input_contents
        tensor = {
            "name": name,
            "datatype": "BYTES",
            "shape": [len(items), 1],
            "parameters": {"binary_data_size": len(content)},
        }
        header = json.dumps({"inputs": [tensor]}).encode()
        fields = {"Inference-Header-Content-Length": str(len(header))}
        return self._post(model, header + content, fields)

    def _post(self, model: str, body: bytes, fields: dict[str, str]) -> NDArray[np.float32]:
        connection = http.client.HTTPConnection(self._host, timeout=60)
        connection.request("POST", f"/v2/models/{model}/infer", body, fields)
        response = connection.getresponse()
        answer = json.loads(response.read())
        connection.close()
        if response.status != 200:
            refuse_http(response.status, answer["error"])
        output = answer["outputs"][0]
        return np.array(output["data"], np.float32).reshape(output["shape"])


class OpenAi:
    """The HTTP front, called by OpenAI's own package."""

    def __init__(self, url: str) -> None:
        import openai

        self._openai = openai
        self._client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
        self.close = self._client.close

    def images(self, files: Sequence[bytes]) -> NDArray[np.float32]:
        return self._embed(
            [f"data:image/jpeg;base64,{base64.b64encode(file).decode()}" for file in files]
        )

    def texts(self, strings: Sequence[str]) -> NDArray[np.float32]:
        return self._embed(list(strings))

    def _embed(self, given: list[str]) -> NDArray[np.float32]:
        try:
            answer: Any = self._client.embeddings.create(model="clip", input=given)
        except self._openai.APIStatusError as error:
            body: Any = error.body
            message = re.sub(r"^input\[(\d+)\]: ", r"item \1: ", body["message"])
            refuse(error.status_code == 400, message)
        return np.array([item.embedding for item in answer.data], np.float32)


def as_bytes(text: str | bytes) -> bytes:
    """UTF-8; a lone surrogate becomes the bytes that a sloppy caller would send."""
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")


class Unread(RuntimeError):
    """Triton's HTTP could not read a request, which it calls an error of its own: status 500."""


def refuse_http(status: int, message: str) -> NoReturn:
    """What the status and the words of Triton's HTTP come to."""
    if status == 500 and re.match("(Unable|failed) to parse ", message):
        raise Unread(message)
    refuse(status == 400, message)


def refuse(invalid: bool, message: str) -> NoReturn:
    """Raises what the Python client would have raised, from the text of another way."""
    text = re.sub(r"^in ensemble '[^']*', ", "", message)
    text = re.sub(r"^\[request id: [^\]]*\] ", "", text)
    if not invalid:
        raise RuntimeError(text)
    found = re.match(r"item (\d+): (.*)", text, re.DOTALL)
    if found:
        raise InvalidInput(found[2], index=int(found[1]))
    raise InvalidInput(text)
