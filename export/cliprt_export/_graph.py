"""A small writer of ONNX graphs: readable names, weights stored once, nothing implicit."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cliprt._errors import CheckpointError
from cliprt._extras import require

Value: TypeAlias = str
"""Name of a tensor in the graph."""

# LayerNormalization is one node since opset 17, Gelu since 20. IR 10 is what opset 20 needs.
OPSET = 20
IR_VERSION = 10

# Protocol buffers cannot be longer.
_MAX_BYTES = 2**31 - 1

# Fields of onnx.proto that are written by hand: ModelProto.graph, GraphProto.initializer and
# TensorProto.raw_data. All three are length-delimited (wire type 2).
_MODEL_GRAPH, _GRAPH_INITIALIZER, _TENSOR_RAW_DATA = (field << 3 | 2 for field in (7, 5, 9))


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

    def write(self, path: Path, producer_version: str) -> None:
        """Checks the model with full shape inference and writes it, one weight at a time.

        Only the weights that the caller holds are in memory: ONNX's own serialisation would need
        the whole file twice more.

        Raises:
            CheckpointError: the model is larger than an ONNX file can be.
        """
        self._check(producer_version)
        graph = self._graph_proto(self._inputs).SerializeToString()
        heads = {name: self._tensor_head(name, array) for name, array in self._weights.items()}
        size = len(graph) + sum(_field_size(self._tensor_size(name, heads)) for name in heads)
        model = self._model_proto(None, producer_version).SerializeToString()
        if len(model) + size + 16 > _MAX_BYTES:
            raise CheckpointError(
                f"the {self._name} tower needs {size:,} bytes, one ONNX file holds {_MAX_BYTES:,}"
            )
        with path.open("wb") as file:
            file.write(model)
            _write_header(file, _MODEL_GRAPH, size)
            file.write(graph)
            for name, array in self._weights.items():
                _write_header(file, _GRAPH_INITIALIZER, self._tensor_size(name, heads))
                file.write(heads[name])
                _write_header(file, _TENSOR_RAW_DATA, array.nbytes)
                # As bytes: NumPy hands out no buffer of types that it does not know (float8).
                file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)

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

    def _tensor_head(self, name: str, array: NDArray[Any]) -> bytes:
        """A TensorProto without its data."""
        head: bytes = self._onnx.TensorProto(
            name=name, data_type=self.element_type(array.dtype.name), dims=array.shape
        ).SerializeToString()
        return head

    def _tensor_size(self, name: str, heads: dict[str, bytes]) -> int:
        return len(heads[name]) + _field_size(self._weights[name].nbytes)

    def _unique(self, name: str) -> str:
        count = self._used.get(name, 0)
        self._used[name] = count + 1
        return f"{name}_{count}" if count else name

    def _value_info(self, name: str, dtype: str, shape: list[str | int]) -> Any:
        return self._onnx.helper.make_tensor_value_info(name, self.element_type(dtype), shape)


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
