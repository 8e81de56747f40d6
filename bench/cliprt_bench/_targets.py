"""What is measured: whatever turns pictures and strings into embeddings, behind one interface.

Each one gets encoded files and strings and has to come up with the embeddings, so that all of them
do the same work, wherever they do it.
"""

from __future__ import annotations

import base64
import http.client
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

import cliprt
from cliprt import Bundle, Client
from cliprt._bundle import CERTIFICATE, TOKENIZER
from cliprt._connection import Connection
from cliprt._errors import CliprtError, DeploymentError, InvalidInput, ServerError
from cliprt._extras import require
from cliprt._grpc import TritonChannel
from cliprt._grpc_errors import translate
from cliprt._limits import Limits
from cliprt._names import EMBEDDING, PRECISION_PARAMETER, ModelNames
from cliprt._texts import TextTokenizer
from cliprt_bench._bench_card import Fidelity, Model, Target, Tower

# A measurement waits longer for an answer than an application would: late is a figure, too.
TIMEOUT_S = 60.0


class Subject(Protocol):
    """What is measured. Its calls may be made from many threads.

    Attributes:
        target: for the card.
        model: which weights.
        towers: those that it has.
        process_ids: of what computes, where it is known and not this process.
    """

    target: Target
    model: Model
    towers: tuple[Tower, ...]
    process_ids: tuple[int, ...]

    @property
    def bundle(self) -> Bundle | None:
        """What the towers are from, where it is at hand."""

    def images(self, files: Sequence[bytes]) -> NDArray[np.float32]:
        """Embeddings of encoded pictures, float32 [n, dim]; raises a ``CliprtError``."""

    def texts(self, strings: Sequence[str]) -> NDArray[np.float32]:
        """Embeddings of strings, float32 [n, dim]; raises a ``CliprtError``."""

    def tokenizer(self) -> TextTokenizer | None:
        """The model's own, where it is at hand."""

    def close(self) -> None:
        """Ends it."""


@dataclass
class InProcess:
    """``LocalClip``: the towers in this process.

    Args:
        bundle: holds them.
        precision: as ``LocalClip`` takes it.
    """

    bundle: Bundle
    precision: Any = None
    process_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        require("cliprt_engines", extra="engines")
        from cliprt_engines import LocalClip

        card = self.bundle.card
        self.clip = LocalClip(self.bundle, precision=self.precision)
        self.model = Model(name=card.name, space=card.space, dim=card.dim)
        self.towers = _towers_of(card)
        chosen = {tower: self.clip.settings(tower) for tower in self.towers}
        self.target = Target(
            kind="local",
            name="cliprt LocalClip",
            runtime="+".join(sorted({each.runtime for each in chosen.values()})),
            precision=self.precision or "fp32",
            settings={tower: str(each) for tower, each in chosen.items()},
            process="own",
        )
        self.images, self.texts = self.clip.encode_image, self.clip.encode_text
        self.close = self.clip.close

    def tokenizer(self) -> TextTokenizer | None:
        return _tokenizer(self.bundle)


@dataclass
class Served:
    """``Client``: towers of a Triton, fed over gRPC.

    Args:
        connection: to the server.
        names: of its models.
        bundle: the one that is served, if it is at hand.
        process_ids: of the server, if it is on this machine.
    """

    connection: Connection
    names: ModelNames = field(default_factory=lambda: ModelNames("clip"))
    bundle: Bundle | None = None
    process_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self.client = Client(self.connection, model=self.names.prefix, timeout_s=TIMEOUT_S)
        card = self.client.card
        _check_bundle(self.bundle, card.space)
        self.model = Model(name=card.name, space=card.space, dim=card.dim)
        self.towers = _towers_of(card)
        self.target = _served_target(
            "served", "cliprt Client", self.connection, self.names, self.towers
        )
        self.images, self.texts = self.client.encode_image, self.client.encode_text
        self.close = self.client.close

    def tokenizer(self) -> TextTokenizer | None:
        spec = self.client.card.text
        return None if spec is None else self.client._core._tokenizer(spec, TIMEOUT_S)


@dataclass
class Ensembles:
    """Triton's ensembles over gRPC, as callers of other languages use them; see ``Served``."""

    connection: Connection
    names: ModelNames = field(default_factory=lambda: ModelNames("clip"))
    bundle: Bundle | None = None
    process_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        with Client(self.connection, model=self.names.prefix) as client:
            card = client.card
            spec = card.text
            self._tokenizer = None if spec is None else client._core._tokenizer(spec, TIMEOUT_S)
        _check_bundle(self.bundle, card.space)
        self.model = Model(name=card.name, space=card.space, dim=card.dim)
        self.towers = _towers_of(card)
        self.target = _served_target(
            "ensemble", "Triton ensembles", self.connection, self.names, self.towers
        )
        self._channel = TritonChannel(self.connection)
        self.close = self._channel.close

    def images(self, files: Sequence[bytes]) -> NDArray[np.float32]:
        return self._infer(self.names.image_file, "image", files)

    def texts(self, strings: Sequence[str]) -> NDArray[np.float32]:
        return self._infer(self.names.text_string, "text", [text.encode() for text in strings])

    def tokenizer(self) -> TextTokenizer | None:
        return self._tokenizer

    def _infer(self, model: str, name: str, items: Sequence[bytes]) -> NDArray[np.float32]:
        import grpc
        from tritonclient.grpc import service_pb2

        request = service_pb2.ModelInferRequest(model_name=model)
        request.inputs.add(name=name, datatype="BYTES", shape=(len(items), 1))
        # Triton's form of strings: each with its length before it, 32 bits.
        packed = b"".join(len(item).to_bytes(4, "little") + item for item in items)
        request.raw_input_contents.append(packed)
        request.outputs.add(name=EMBEDDING)
        try:
            answer = self._channel._stub.ModelInfer(request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            raise translate(error, self.connection, TIMEOUT_S, lost=False) from None
        return np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(len(items), -1)


class OpenAiFront:
    """``cliprt serve --http``, asked as OpenAI's clients do, over connections that stay open."""

    def __init__(
        self, url: str, *, bundle: Bundle | None = None, process_ids: tuple[int, ...] = ()
    ) -> None:
        """Reads what it serves.

        Args:
            url: with or without ``/v1``, of plain HTTP.
            bundle: the one that is served, if it is at hand; captions of a given number of tokens
                need it.
            process_ids: of front and server, if they are on this machine.

        Raises:
            ValueError: the address is malformed.
            CliprtError: nobody answers there, or not as a front does.
        """
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"the address of a front is http://host:port, got {url!r}")
        self._host, self._port = parts.hostname, parts.port or 80
        self._path = parts.path.rstrip("/").removesuffix("/v1")
        self._own = threading.local()
        self._connections: list[http.client.HTTPConnection] = []
        self.bundle, self.process_ids = bundle, process_ids
        served = self._ask("GET", "/v1/models", None)["data"][0]
        self._id = served["id"]
        _check_bundle(bundle, served["space"])
        self.model = Model(name=served["name"], space=served["space"], dim=served["dimensions"])
        towers: tuple[Tower, ...] = ("image", "text")
        self.towers = tuple(tower for tower in towers if tower in served["inputs"])
        self.target = Target(
            kind="openai",
            name="cliprt OpenAI front",
            runtime=None,
            precision=None,
            settings={},
            process=_process_of(self._host),
        )

    def images(self, files: Sequence[bytes]) -> NDArray[np.float32]:
        return self._embed(
            [f"data:image/jpeg;base64,{base64.b64encode(file).decode()}" for file in files]
        )

    def texts(self, strings: Sequence[str]) -> NDArray[np.float32]:
        return self._embed(list(strings))

    def tokenizer(self) -> TextTokenizer | None:
        return None if self.bundle is None else _tokenizer(self.bundle)

    def close(self) -> None:
        """Closes the connections, which no thread may be using."""
        for connection in self._connections:
            connection.close()

    def _embed(self, items: list[str]) -> NDArray[np.float32]:
        body = {"model": self._id, "input": items, "encoding_format": "base64"}
        answer = self._ask("POST", "/v1/embeddings", json.dumps(body).encode())
        rows = [base64.b64decode(item["embedding"]) for item in answer["data"]]
        return np.frombuffer(b"".join(rows), "<f4").reshape(len(items), -1)

    def _ask(self, method: str, path: str, body: bytes | None) -> Any:
        if (connection := getattr(self._own, "connection", None)) is None:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT_S)
            self._own.connection = connection
            self._connections.append(connection)
        try:
            connection.request(
                method, self._path + path, body, {"content-type": "application/json"}
            )
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as cause:
            connection.close()
            raise DeploymentError(
                f"{self._host}:{self._port} did not answer: {type(cause).__name__}"
            ) from None
        try:
            answer = json.loads(content)
        except ValueError:
            raise ServerError(f"{self._host}:{self._port} answered no JSON") from None
        if response.status != 200:
            raise ServerError(f"status {response.status}: {answer['error']['message']}")
        return answer


def certified(bundle: Bundle | None, precision: str | None) -> dict[str, Fidelity]:
    """By tower, what the bundle's certificate says of a precision; empty where it says nothing."""
    if bundle is None or precision is None:
        return {}
    try:
        towers = json.loads(bundle.file(CERTIFICATE).read_text())["towers"]
        return {
            tower: Fidelity(
                p01_cosine=found[precision]["p01_cosine"],
                mean_cosine=found[precision]["mean_cosine"],
                neighbours=found[precision]["neighbours"],
                top1_loss=(
                    None
                    if found[precision]["top1"] is None
                    else found[precision]["top1_reference"] - found[precision]["top1"]
                ),
            )
            for tower, found in towers.items()
            if precision in found
        }
    except (CliprtError, OSError, ValueError, KeyError):
        return {}


def _check_bundle(bundle: Bundle | None, space: str) -> None:
    if bundle is not None and bundle.card.space != space:
        raise InvalidInput(
            f"what is served is of the space {space}, the bundle of {bundle.card.space}; pass the "
            "bundle that is served"
        )


def _tokenizer(bundle: Bundle) -> TextTokenizer | None:
    spec = bundle.card.text
    if spec is None:
        return None
    return TextTokenizer(bundle.file(TOKENIZER).read_text(encoding="utf-8"), spec, Limits())


def _towers_of(card: cliprt.Card) -> tuple[Tower, ...]:
    towers: tuple[Tower, ...] = ("image", "text")
    return tuple(tower for tower in towers if getattr(card, tower) is not None)


def _process_of(host: str) -> Any:
    return "other" if host in ("localhost", "::1") or host.startswith("127.") else "remote"


def _served_target(
    kind: Any,
    name: str,
    connection: Connection,
    names: ModelNames,
    towers: Sequence[Tower],
) -> Target:
    """What the server's configurations say of its towers."""
    channel = TritonChannel(connection)
    try:
        version = channel.server_version(TIMEOUT_S)
        configs = {
            tower: channel.model_config(getattr(names, tower), TIMEOUT_S) for tower in towers
        }
    finally:
        channel.close()
    runtimes = {config.backend or config.platform for config in configs.values()}
    precisions = {
        config.parameters[PRECISION_PARAMETER].string_value
        for config in configs.values()
        if PRECISION_PARAMETER in config.parameters
    }
    settings: dict[str, str] = {
        tower: (
            f"max batch {config.max_batch_size}, queue delay "
            f"{config.dynamic_batching.max_queue_delay_microseconds} us, instances "
            f"{sum(group.count for group in config.instance_group)}"
        )
        for tower, config in configs.items()
    }
    return Target(
        kind=kind,
        name=name,
        runtime=f"Triton {version}, {'+'.join(sorted(runtimes))}",
        precision="+".join(sorted(precisions)) or "fp32",
        settings=settings,
        process="other" if connection.local else "remote",
    )
