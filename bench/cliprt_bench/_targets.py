"""What is measured: whatever turns pictures and strings into embeddings, behind one interface.

Each one gets encoded files and strings and has to come up with the embeddings, so that all of them
do the same work, wherever they do it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

import cliprt
from cliprt import Bundle, Client
from cliprt._bundle import CERTIFICATE, TOKENIZER
from cliprt._connection import Connection
from cliprt._errors import CliprtError, InvalidInput, ServerError
from cliprt._extras import require
from cliprt._grpc import TritonChannel
from cliprt._grpc_errors import translate
from cliprt._limits import Limits
from cliprt._loopback import is_loopback
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

    Raises:
        InvalidInput: there is no such precision.
        CliprtError: a tower cannot be loaded.
    """

    bundle: Bundle
    precision: Any = None
    process_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        require("cliprt_engines", extra="engines")
        from cliprt_engines import LocalClip

        card = self.bundle.card
        try:
            self.clip = LocalClip(self.bundle, precision=self.precision)
        except ValueError as cause:
            raise InvalidInput(str(cause)) from None
        self.model = Model(name=card.name, space=card.space, dim=card.dim)
        self.towers = towers_in(card)
        chosen = {tower: self.clip.settings(tower) for tower in self.towers}
        # Not what was asked for: "fastest" is one of the others.
        precisions: dict[str, str] = {tower: self.clip.precision(tower) for tower in self.towers}
        self.target = Target(
            kind="local",
            name="cliprt LocalClip",
            runtime=_joined(each.runtime for each in chosen.values()),
            precision=_joined(precisions.values()),
            settings={tower: str(each) for tower, each in chosen.items()},
            process="own",
            precisions=precisions,
            device="cpu",
        )
        self.images, self.texts = self.clip.encode_image, self.clip.encode_text
        self.close = self.clip.close

    def tokenizer(self) -> TextTokenizer | None:
        return tokenizer_of(self.bundle)


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
        check_bundle(self.bundle, card.space)
        self.model = Model(name=card.name, space=card.space, dim=card.dim)
        self.towers = towers_in(card)
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
        check_bundle(self.bundle, card.space)
        self.model = Model(name=card.name, space=card.space, dim=card.dim)
        self.towers = towers_in(card)
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


def sender(
    subject: Subject, tower: Tower, items: Sequence[Any], batch: int
) -> Callable[[int], None]:
    """Sends the n-th request and checks the answer's shape; raises what failed.

    Args:
        subject: is asked.
        tower: which one of it.
        items: encoded pictures or strings, that take their turns.
        batch: items of a request.
    """
    call: Callable[[Sequence[Any]], NDArray[np.float32]] = subject.images
    if tower == "text":
        call = subject.texts
    shape = (batch, subject.model.dim)

    def send(number: int) -> None:
        first = number * batch
        found = call([items[(first + place) % len(items)] for place in range(batch)]).shape
        if found != shape:
            raise ServerError(f"the answer has the shape {found}, not {shape}")

    return send


def precisions_of(subject: Subject) -> dict[str, str]:
    """By tower, in what it is computed; towers that nobody knows it of are left out."""
    target = subject.target
    if target.precisions or target.precision is None:
        return dict(target.precisions)
    return dict.fromkeys(subject.towers, target.precision)


def certified(bundle: Bundle | None, precisions: Mapping[str, str]) -> dict[str, Fidelity]:
    """By tower, what the bundle's certificate says; empty where it says nothing.

    Args:
        bundle: with the certificate.
        precisions: by tower.
    """
    if bundle is None:
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
            if (precision := precisions.get(tower)) in found
        }
    except (CliprtError, OSError, ValueError, KeyError):
        return {}


def check_bundle(bundle: Bundle | None, space: str) -> None:
    """Refuses a bundle of another space than what is served.

    Raises:
        InvalidInput: it is of another one.
    """
    if bundle is not None and bundle.card.space != space:
        raise InvalidInput(
            f"what is served is of the space {space}, the bundle of {bundle.card.space}; pass the "
            "bundle that is served"
        )


def tokenizer_of(bundle: Bundle) -> TextTokenizer | None:
    """The one of a bundle; None if it has no text tower."""
    spec = bundle.card.text
    if spec is None:
        return None
    return TextTokenizer(bundle.file(TOKENIZER).read_text(encoding="utf-8"), spec, Limits())


def towers_in(card: cliprt.Card) -> tuple[Tower, ...]:
    """Those that a model has."""
    towers: tuple[Tower, ...] = ("image", "text")
    return tuple(tower for tower in towers if getattr(card, tower) is not None)


def process_of(host: str) -> Literal["other", "remote"]:
    """Where a process is that is reached under a host's name."""
    return "other" if is_loopback(host) else "remote"


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
    runtimes = (config.backend or config.platform for config in configs.values())
    precisions: dict[str, str] = {
        tower: config.parameters[PRECISION_PARAMETER].string_value
        for tower, config in configs.items()
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
        runtime=f"Triton {version}, {_joined(runtimes)}",
        # If one tower does not tell, what the others tell is not the whole.
        precision=_joined(precisions.values()) if len(precisions) == len(towers) else None,
        settings=settings,
        process="other" if connection.local else "remote",
        precisions=precisions,
        device=_device_of(list(configs.values())),
    )


def _device_of(configs: Sequence[Any]) -> Literal["cpu", "gpu"] | None:
    """What computes models, as far as their configurations tell: one on a GPU is enough."""
    from tritonclient.grpc.model_config_pb2 import ModelInstanceGroup

    kinds = {group.kind for config in configs for group in config.instance_group}
    plans = any(config.backend == "tensorrt" for config in configs)
    if plans or ModelInstanceGroup.KIND_GPU in kinds:
        return "gpu"
    return "cpu" if kinds == {ModelInstanceGroup.KIND_CPU} else None


def _joined(names: Iterable[str]) -> str:
    return "+".join(sorted(set(names)))
