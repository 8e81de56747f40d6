"""Where an ONNX graph keeps weights outside itself, found without the onnx package.

ONNX calls it external data: a tensor names a file, and whoever loads the graph opens that file. A
graph from somewhere else could name any file of the machine, so that the names are read and judged
before anything else touches them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from cliprt._errors import BundleError

# Which fields of onnx.proto lead to tensors: by message, the numbers of fields that hold another
# message. A tensor may stand among the weights, in an attribute of a node, or in the weights and
# nodes of an inner graph, of a function or of training information.
_PATHS = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
    "entry": {},
}
# Graphs within graphs; towers have none.
_MAX_DEPTH = 32
_MAX_NAME_BYTES = 4096

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def external_files(graph: Path) -> set[str]:
    """Names of the files that hold a graph's external data; none of them is opened.

    Args:
        graph: an ONNX file.

    Returns:
        Plain names of files beside the graph.

    Raises:
        BundleError: the file is no ONNX graph, or it points outside its folder: by an absolute
            path, by another folder, or by a symbolic link that leads elsewhere.
    """
    try:
        with graph.open("rb") as file:
            names = locations(file)
    except OSError as error:
        raise BundleError(f"{graph} cannot be read: {error.strerror}") from None
    for name in names:
        # A backslash separates folders for readers on other systems.
        if name in ("", ".", "..") or Path(name).name != name or "\\" in name or "\0" in name:
            raise BundleError(
                f"{graph.name} keeps weights in {name!r}, outside its own folder; it is not loaded"
            )
        # Where the graph itself is a link, the file beside what it leads to is meant as well.
        inside = {graph.parent.resolve(), graph.resolve().parent}
        if (graph.parent / name).resolve().parent not in inside:
            raise BundleError(
                f"{graph.name} keeps weights in {name!r}, which is a link to another folder; "
                "it is not loaded"
            )
    return names


def locations(graph: BinaryIO) -> set[str]:
    """What a graph says about where its external data are, as it stands there.

    Raises:
        BundleError: it is no ONNX graph.
    """
    end = graph.seek(0, 2)
    graph.seek(0)
    try:
        return set(_locations(graph, end, "model", 0))
    except (ValueError, EOFError) as error:
        raise BundleError(f"a tower is no readable ONNX graph: {error}") from None


def _locations(file: BinaryIO, end: int, message: str, depth: int) -> Iterator[str]:
    """The files named by a message that begins where the file stands and ends at the given byte."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"messages lie more than {_MAX_DEPTH} deep")
    key = value = b""
    while file.tell() < end:
        tag = _varint(file)
        field, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            _varint(file)
            continue
        size = _varint(file) if kind == _BYTES else {_FIXED64: 8, _FIXED32: 4}.get(kind)
        if size is None:
            raise ValueError(f"field {field} has the unknown wire type {kind}")
        stop = file.tell() + size
        if stop > end:
            raise ValueError(f"field {field} ends beyond its message")
        if message == "entry" and kind == _BYTES and field in (1, 2):
            if size > _MAX_NAME_BYTES:
                raise ValueError("the place of a weight has a name of absurd length")
            key, value = (file.read(size), value) if field == 1 else (key, file.read(size))
        elif kind == _BYTES and field in _PATHS[message]:
            yield from _locations(file, stop, _PATHS[message][field], depth + 1)
        file.seek(stop)
    if message == "entry" and key == b"location":
        yield value.decode("utf-8")


def _varint(file: BinaryIO) -> int:
    """An unsigned number as protocol buffers write it: 7 bits a byte, lowest first."""
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise EOFError("it is cut off")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("a number has more than 10 bytes")
