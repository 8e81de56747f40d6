"""A small writer of ONNX graphs: readable names, weights stored once, nothing implicit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cliprt._extras import require

Value: TypeAlias = str
"""Name of a tensor in the graph."""

# LayerNormalization is one node since opset 17, Gelu since 20. IR 10 is what opset 20 needs.
OPSET = 20
IR_VERSION = 10

MAX_BYTES = 2**31 - 1
"""Protocol buffers cannot be longer. Larger models keep weights in a file beside the graph."""

# Of a model that needs a second file, weights below this size stay in the graph: shape inference
# reads some of them, and aligned they would be mostly padding.
_SMALL_BYTES = 1024

# Where a weight begins in the second file: on a page, so that readers can map it into memory.
_ALIGNMENT = 4096

# Fields of onnx.proto that are written by hand: ModelProto.graph, GraphProto.initializer and
# TensorProto.raw_data. All three are length-delimited (wire type 2).
_MODEL_GRAPH, _GRAPH_INITIALIZER, _TENSOR_RAW_DATA = (field << 3 | 2 for field in (7, 5, 9))


@dataclass(frozen=True)
class _Tensor:
    """A TensorProto in two parts.

    Attributes:
        head: everything but its data.
        inside: its data, None if they lie in the second file.
    """

    head: bytes
    inside: NDArray[Any] | None

    @property
    def size(self) -> int:
        """Bytes in the graph."""
        return len(self.head) + (0 if self.inside is None else _field_size(self.inside.nbytes))


class Graph:
    """Collects nodes and weights, and turns them into a checked ONNX model."""

    def __init__(self, name: str) -> None:
        """Starts an empty graph.

        Raises:
            MissingExtra: onnx is not installed.
        """
        self._onnx = require("onnx", extra="export")
        self._name = name
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._nodes: list[Any] = []
        self._weights: dict[str, NDArray[Any]] = {}
        self._constants: dict[str, Any] = {}
        self._used: dict[str, int] = {}

    def input(self, name: str, dtype: str, shape: list[str | int]) -> Value:
        """Declares an input; strings in the shape are dynamic dimensions."""
        self._inputs.append(self._value_info(name, dtype, shape))
        return name

    def output(self, value: Value, name: str, dtype: str, shape: list[str | int]) -> None:
        """Declares a value as an output."""
        self._nodes.append(self._onnx.helper.make_node("Identity", [value], [name], name=name))
        self._outputs.append(self._value_info(name, dtype, shape))

    def weight(self, name: str, array: NDArray[Any]) -> Value:
        """Adds a weight, in the type that the array has."""
        full = self._unique(name)
        self._weights[full] = array
        return full

    def constant(self, values: Any, dtype: type[np.generic] = np.int64) -> Value:
        """A small constant, shared by all nodes that use the same one."""
        array = np.asarray(values, dtype=dtype)
        name = f"const_{array.dtype.name}_{'x'.join(map(str, array.shape))}_" + "_".join(
            str(value).replace("-", "m") for value in array.flat
        )
        if name not in self._constants:
            self._constants[name] = self._onnx.numpy_helper.from_array(array, name)
        return name

    def op(self, kind: str, *inputs: Value, name: str = "", **attributes: Any) -> Value:
        """Adds a node with one output and returns that output."""
        return self.ops(kind, 1, *inputs, name=name, **attributes)[0]

    def ops(
        self, kind: str, outputs: int, *inputs: Value, name: str = "", **attributes: Any
    ) -> list[Value]:
        """Adds a node and returns its outputs."""
        full = self._unique(name or kind.lower())
        names = [full] if outputs == 1 else [f"{full}.{index}" for index in range(outputs)]
        self._nodes.append(
            self._onnx.helper.make_node(kind, list(inputs), names, name=full, **attributes)
        )
        return names

    def element_type(self, dtype: str) -> int:
        """ONNX's number of an element type, as Cast wants it."""
        return int(self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def write(self, path: Path, producer_version: str, max_bytes: int = MAX_BYTES) -> None:
        """Checks the model with full shape inference and writes it, one weight at a time.

        Only the weights that the caller holds are in memory: ONNX's own serialisation would need
        the whole file twice more. A model beyond max_bytes becomes two files: the graph, and
        ``<name of the graph>.data`` beside it with all but the small weights, in ONNX's standard
        form of external data.

        Args:
            path: the file of the graph.
            producer_version: recorded in it.
            max_bytes: the longest graph with its weights inside.
        """
        self._check(producer_version)
        model = self._model_proto(None, producer_version).SerializeToString()
        graph = self._graph_proto(self._inputs).SerializeToString()
        tensors = [self._tensor(name, {}, "") for name in self._weights]
        if len(model) + _graph_size(graph, tensors) + 16 > max_bytes:
            beside = path.with_name(f"{path.name}.data")
            offsets = self._offsets()
            self._write_data(beside, offsets)
            tensors = [self._tensor(name, offsets, beside.name) for name in self._weights]
        with path.open("wb") as file:
            file.write(model)
            _write_header(file, _MODEL_GRAPH, _graph_size(graph, tensors))
            file.write(graph)
            for tensor in tensors:
                _write_header(file, _GRAPH_INITIALIZER, tensor.size)
                file.write(tensor.head)
                if tensor.inside is not None:
                    _write_header(file, _TENSOR_RAW_DATA, tensor.inside.nbytes)
                    file.write(_bytes(tensor.inside))

    def _offsets(self) -> dict[str, int]:
        """Where each weight that is not small begins in the second file."""
        offsets, end = {}, 0
        for name, array in self._weights.items():
            if array.nbytes >= _SMALL_BYTES:
                offsets[name] = -(-end // _ALIGNMENT) * _ALIGNMENT
                end = offsets[name] + array.nbytes
        return offsets

    def _write_data(self, path: Path, offsets: dict[str, int]) -> None:
        with path.open("wb") as file:
            for name, offset in offsets.items():
                file.write(bytes(offset - file.tell()))
                file.write(_bytes(self._weights[name]))

    def _check(self, producer_version: str) -> None:
        """ONNX's checker on the graph with its weights declared instead of included."""
        declared = [
            self._value_info(name, array.dtype.name, list(array.shape))
            for name, array in self._weights.items()
        ]
        graph = self._graph_proto(self._inputs + declared)
        model = self._model_proto(graph, producer_version)
        self._onnx.checker.check_model(model, full_check=True)

    def _graph_proto(self, inputs: list[Any]) -> Any:
        return self._onnx.helper.make_graph(
            self._nodes, self._name, inputs, self._outputs, list(self._constants.values())
        )

    def _model_proto(self, graph: Any, producer_version: str) -> Any:
        return self._onnx.ModelProto(
            ir_version=IR_VERSION,
            opset_import=[self._onnx.helper.make_opsetid("", OPSET)],
            producer_name="cliprt",
            producer_version=producer_version,
            graph=graph,
        )

    def _tensor(self, name: str, offsets: dict[str, int], location: str) -> _Tensor:
        """A weight as it stands in the graph.

        Args:
            name: of the weight.
            offsets: where the weights of the second file begin in it.
            location: the second file.
        """
        array = self._weights[name]
        proto = self._onnx.TensorProto(
            name=name, data_type=self.element_type(array.dtype.name), dims=array.shape
        )
        if name not in offsets:
            return _Tensor(proto.SerializeToString(), array)
        proto.data_location = self._onnx.TensorProto.EXTERNAL
        place = {"location": location, "offset": offsets[name], "length": array.nbytes}
        for key, value in place.items():
            proto.external_data.add(key=key, value=str(value))
        return _Tensor(proto.SerializeToString(), None)

    def _unique(self, name: str) -> str:
        count = self._used.get(name, 0)
        self._used[name] = count + 1
        return f"{name}_{count}" if count else name

    def _value_info(self, name: str, dtype: str, shape: list[str | int]) -> Any:
        return self._onnx.helper.make_tensor_value_info(name, self.element_type(dtype), shape)


def _graph_size(graph: bytes, tensors: list[_Tensor]) -> int:
    """Bytes of a GraphProto with its tensors."""
    return len(graph) + sum(_field_size(tensor.size) for tensor in tensors)


def _bytes(array: NDArray[Any]) -> memoryview:
    """A weight's content; NumPy hands out no buffer of types that it does not know (float8)."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _varint(value: int) -> bytes:
    """An unsigned number as protocol buffers write it: 7 bits a byte, lowest first."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def _field_size(length: int) -> int:
    """Bytes of a length-delimited field whose number is below 16."""
    return 1 + len(_varint(length)) + length


def _write_header(file: BinaryIO, tag: int, length: int) -> None:
    file.write(bytes([tag]) + _varint(length))
