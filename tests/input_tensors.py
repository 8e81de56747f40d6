"""Tensors of every kind that callers send without any client of ours; here to the towers."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
import numpy as np
from input_files import SIDE
from input_texts import CONTEXT
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2
from ways import refuse, refuse_http
from wire import tensors_of

from pictures import pixels

START, END, VOCABULARY = 676, 677, 678
"""Of the demo's tokens."""

ONE = pixels(SIDE, SIDE)[None]
WORDS = np.array([[START, 5, 6, END]], np.int32)


@dataclass(frozen=True)
class Raw:
    """An input as it is sent."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes


@dataclass(frozen=True)
class Ask:
    """A request to a model.

    Attributes:
        name: what it is.
        model: its name.
        inputs: as they are sent.
        outputs: names that are asked for; empty for all.
        parameters: of the request.
        refused: what the refusal says, as a pattern; None where it is taken.
        http: the same by HTTP, where that differs.
        unread: what Triton's HTTP cannot read of it: it then says so with status 500, whatever
            becomes of it by gRPC.
        like: a request that is answered the same.
        answer: the output that holds the embeddings.
        alone: sent without good ones beside it, which would be refused with it.
    """

    name: str
    model: str
    inputs: tuple[Raw, ...]
    outputs: tuple[str, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    refused: str | None = None
    http: str | None = None
    unread: str = ""
    like: Ask | None = None
    answer: str = "embedding"
    alone: bool = False


def sent(array: NDArray[Any], name: str, datatype: str) -> Raw:
    """An array as an input."""
    return Raw(name, datatype, array.shape, array.tobytes())


def of_pixels(array: NDArray[np.uint8] = ONE, name: str = "good") -> Ask:
    """A request to the image tower."""
    return Ask(name, "clip_image", (sent(array, "pixels", "UINT8"),))


def of_tokens(array: Any = WORDS, name: str = "good") -> Ask:
    """A request to the text tower."""
    return Ask(name, "clip_text", (sent(np.asarray(array, np.int32), "tokens", "INT32"),))


def over_grpc(stub: Any, ask: Ask, **options: Any) -> NDArray[np.float32]:
    """Sends a request by gRPC.

    Raises:
        InvalidInput: it is refused as one that can never be answered.
        RuntimeError: it failed otherwise.
    """
    try:
        return tensors_of(stub.ModelInfer(grpc_request(ask), timeout=60, **options))[ask.answer]
    except grpc.RpcError as error:
        refuse(error.code() is grpc.StatusCode.INVALID_ARGUMENT, error.details())


def grpc_request(ask: Ask) -> Any:
    """The message of a request."""
    request = service_pb2.ModelInferRequest(model_name=ask.model)
    for raw in ask.inputs:
        request.inputs.add(name=raw.name, datatype=raw.datatype, shape=raw.shape)
        request.raw_input_contents.append(raw.data)
    for name in ask.outputs:
        request.outputs.add(name=name)
    for key, value in ask.parameters.items():
        kind = {bool: "bool_param", str: "string_param"}.get(type(value), "int64_param")
        setattr(request.parameters[key], "uint64_param" if value == 2**63 else kind, value)
    return request


def over_http(host: str, ask: Ask) -> NDArray[np.float32]:
    """Sends a request by HTTP; raises as ``over_grpc`` does, and ``Unread``."""
    tensors = [
        {
            "name": raw.name,
            "datatype": raw.datatype,
            "shape": raw.shape,
            "parameters": {"binary_data_size": len(raw.data)},
        }
        for raw in ask.inputs
    ]
    said: dict[str, Any] = {"inputs": tensors, "parameters": dict(ask.parameters)}
    if ask.outputs:
        said["outputs"] = [{"name": name} for name in ask.outputs]
    header = json.dumps(said).encode()
    body = header + b"".join(raw.data for raw in ask.inputs)
    fields = {"Inference-Header-Content-Length": str(len(header))}
    status, content = post(host, f"/v2/models/{ask.model}/infer", body, fields)
    answer = json.loads(content)
    if status != 200:
        refuse_http(status, answer["error"])
    output = answer["outputs"][0]
    return np.array(output["data"], np.float32).reshape(output["shape"])


def post(host: str, path: str, body: Any, fields: Mapping[str, str]) -> tuple[int, bytes]:
    """Status and content of the answer to a POST on a connection of its own."""
    connection = http.client.HTTPConnection(host, timeout=60)
    try:
        connection.request("POST", path, body, dict(fields))
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def _shapes() -> Iterator[tuple[int, Ask]]:
    for name, array in {
        "no batch": ONE[0],
        "a row too few": ONE[:, 1:],
        "four channels": np.zeros((1, SIDE, SIDE, 4), np.uint8),
        "channels first": np.zeros((1, 3, SIDE, SIDE), np.uint8),
        "an axis too many": ONE[None],
    }.items():
        shape = rf"Expected \[-1,{SIDE},{SIDE},3\], got"
        yield 56, replace(of_pixels(array, name), refused=shape)
    yield 56, replace(of_pixels(ONE[:0], "no pictures"), refused="mismatch")
    yield 56, replace(of_pixels(ONE.repeat(65, 0), "65 pictures"), refused="must be <= 64")
    yield 56, replace(of_tokens([[START]], "one token"), refused=f"2 to {CONTEXT}")
    long = np.full((1, CONTEXT + 1), 5)
    yield 56, replace(of_tokens(long, "more tokens than fit"), refused=f"2 to {CONTEXT}")
    yield 56, replace(of_tokens(WORDS[0], "tokens without batch"), refused=r"Expected \[-1,-1\]")
    yield 56, replace(of_tokens(WORDS.repeat(65, 0), "65 texts"), refused="must be <= 64")


def _types() -> Iterator[tuple[int, Ask]]:
    floats = ONE.astype(np.float32)
    for name, array in {
        "floats": floats,
        "halves that are called floats": floats.astype(np.float16),
    }.items():
        raw = Raw("pixels", "FP32", ONE.shape, array.tobytes())
        yield 57, Ask(name, "clip_image", (raw,), refused="UINT8")
    for datatype in ("INT8", "FP64", "BYTES", "NONSENSE", ""):
        raw = Raw("pixels", datatype, ONE.shape, ONE.tobytes())
        yield 57, Ask(f"type {datatype!r}", "clip_image", (raw,), refused="UINT8|string elements",
                      http="UINT8|string|datatype|data-type")  # fmt: skip
    for name, data in {
        "no bytes": b"",
        "a byte too few": ONE.tobytes()[:-1],
        "a byte too many": ONE.tobytes() + b"\0",
    }.items():
        raw = Raw("pixels", "UINT8", ONE.shape, data)
        yield 57, Ask(name, "clip_image", (raw,), refused="mismatch", http=".")
    for name, value in {"NaN": np.nan, "infinite": np.inf, "1e38": 1e38}.items():
        raw = sent(np.full_like(floats, value), "pixels", "FP32")
        yield 58, Ask(name, "clip_image", (raw,), refused="UINT8")


def _tokens() -> Iterator[tuple[int, Ask]]:
    for bad in (-1, VOCABULARY, 49_408, 2**31 - 1, -(2**31)):
        asked = of_tokens([[START, bad, END]], f"token {bad}")
        yield 59, replace(asked, refused=f"must lie in 0 to {VOCABULARY - 1}")
    raw = sent(WORDS.astype(np.int64), "tokens", "INT64")
    yield 59, Ask("int64", "clip_text", (raw,), refused="INT32")
    yield 60, of_tokens([[START, 5, 6, 7]], "no end")
    yield 60, of_tokens(np.zeros((1, 8)), "nothing but zeros")
    yield 60, of_tokens([[END, END]], "nothing but ends")
    two = of_tokens([[START, 5, END, 6, END]], "two ends")
    yield 60, replace(two, like=of_tokens([[START, 5, END]]))


def _overflows() -> Iterator[tuple[int, Ask]]:
    pixels_of, tokens_of = ONE.tobytes(), WORDS.tobytes()
    for name, shape in {
        "2^60 numbers": (2**20, 2**20, 2**20),
        "2^60 numbers of a picture": (1, 2**20, 2**20, 2**20),
        "2^64 numbers": (2**32, 2**32, 1, 1),
        "2^60 pictures": (2**60, SIDE, SIDE, 3),
        "2^32 pictures": (2**32, SIDE, SIDE, 3),
        "sides below 0": (1, -SIDE, -SIDE, 3),
        "-1 pictures": (-1, SIDE, SIDE, 3),
    }.items():
        raw = Raw("pixels", "UINT8", shape, pixels_of)
        yield 61, Ask(name, "clip_image", (raw,), refused=".", unread=unread("shape", *shape))
    for name, shape in {
        "2^62 texts": (2**62, 4),
        "2^62 tokens": (1, 2**62),
        "-1 tokens": (1, -1),
    }.items():
        raw = Raw("tokens", "INT32", shape, tokens_of)
        yield 61, Ask(name, "clip_text", (raw,), refused=".", unread=unread("shape", *shape))


def lists_of(model: str, good: Raw) -> Iterator[tuple[int, Ask]]:
    """Requests to a model of one input that name inputs and outputs which they should not."""
    more = Raw("more", "UINT8", (1, 1), b"\0")
    yield 61, Ask("an input twice", model, (good, good), refused="already exists")
    yield 61, Ask("an input too many", model, (good, more), refused="inputs? ")
    yield 61, Ask("no inputs", model, (), refused="inputs? ")
    yield 61, Ask("an input without a name", model, (replace(good, name=""),), refused=".")
    unknown = Ask("an unknown output", model, (good,), outputs=("nothing",))
    yield 61, replace(unknown, refused="unexpected inference output")
    yield 61, Ask("an output twice", model, (good,), outputs=("embedding",) * 2)


def parameters_of(model: str, good: Raw) -> Iterator[tuple[int, Ask]]:
    """Requests to a model with parameters of every kind."""
    for name, parameters, refused in (
        ("a sequence", {"sequence_id": 5, "sequence_start": True}, None),
        ("a name of Triton's", {"triton_unknown": "y"}, "reserved"),
        ("a timeout in words", {"timeout": "soon"}, "timeout"),
        ("a timeout below 0", {"timeout": -1}, None),
        ("a timeout of 292,000 years", {"timeout": 2**63 - 1}, None),
        ("priority 3 of 2", {"priority": 3}, None),
        ("priority 2^63", {"priority": 2**63}, None),
        ("priority -1", {"priority": -1}, "priority"),
        ("a parameter of 100,000 letters", {"mine": "x" * 100_000}, None),
    ):
        asked = Ask(name, model, (good,), parameters=parameters, refused=refused)
        said = [unread(key, value) for key, value in parameters.items() if key in _COUNTS]
        yield 64, replace(asked, unread="".join(said))


# Parameters that Triton's HTTP reads as numbers from 0.
_COUNTS = ("timeout", "priority")


def unread(where: str, *values: Any) -> str:
    """What Triton's HTTP says of values that are no numbers from 0; nothing if all are."""
    if all(isinstance(value, int) and value >= 0 for value in values):
        return ""
    return f"Unable to parse '{where}': attempt to access JSON non-unsigned-integer"


TENSORS: list[tuple[int, Ask]] = [
    *_shapes(), *_types(), *_tokens(), *_overflows(),
    *lists_of("clip_image", *of_pixels().inputs), *parameters_of("clip_image", *of_pixels().inputs),
]  # fmt: skip
