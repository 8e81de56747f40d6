"""Operations are counted exactly: graphs made by hand, and towers whose formula is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from towers import TOWERS, drawn_tensors

from cliprt._errors import BundleError
from cliprt_bench._operations import Operations, count_operations
from cliprt_export._precision import Precision
from cliprt_export._specs import TextTower, VitTower
from cliprt_export._towers import write_tower

FLOAT, UINT8, INT8 = TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT8
Sizes = list[int | str]


def written(
    folder: Path,
    nodes: list[onnx.NodeProto],
    taken: Sizes,
    weights: dict[str, tuple[int, ...]],
    *,
    kind: int = FLOAT,
    given: int = FLOAT,
    dtype: Any = np.float32,
    more: dict[str, Any] | None = None,
) -> Path:
    """A graph of nodes from ``x`` to ``y``; weights are zeros of the shapes."""
    values = {name: np.zeros(shape, dtype) for name, shape in weights.items()}
    graph = helper.make_graph(
        nodes,
        "by hand",
        [helper.make_tensor_value_info("x", kind, taken)],
        [helper.make_tensor_value_info("y", given, None)],
        [
            numpy_helper.from_array(np.asarray(value), name)
            for name, value in {**values, **(more or {})}.items()
        ],
    )
    path = folder / "tower.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), str(path))
    return path


def node(kind: str, inputs: str, output: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), [output], **attributes)


def test_a_product(tmp_path: Path) -> None:
    path = written(tmp_path, [node("MatMul", "x w")], ["batch", 7, 5], {"w": (5, 3)})
    assert count_operations(path) == Operations(floating=2 * 7 * 5 * 3, int8=0)


def test_a_large_weight_counts_like_a_small_one(tmp_path: Path) -> None:
    path = written(tmp_path, [node("MatMul", "x w")], ["batch", 100], {"w": (100, 50)})
    assert count_operations(path).total == 2 * 100 * 50


def test_a_product_of_two_activations(tmp_path: Path) -> None:
    nodes = [node("Transpose", "x", "t", perm=[0, 1, 3, 2]), node("MatMul", "x t")]
    path = written(tmp_path, nodes, ["batch", 4, "length", 6], {})
    with pytest.raises(BundleError):
        count_operations(path)  # the third size is no length of a text
    path = written(tmp_path, nodes, ["batch", 4, 9, 6], {})
    assert count_operations(path).total == 2 * 4 * 9 * 9 * 6


@pytest.mark.parametrize(("transposed", "shape"), [(0, (5, 3)), (1, (3, 5))])
def test_a_gemm(tmp_path: Path, transposed: int, shape: tuple[int, int]) -> None:
    nodes = [node("Gemm", "x w b", transB=transposed)]
    path = written(tmp_path, nodes, ["batch", 5], {"w": shape, "b": (3,)})
    assert count_operations(path).total == 2 * 5 * 3


def test_a_gemm_of_a_transposed_input(tmp_path: Path) -> None:
    nodes = [node("Transpose", "x", "t", perm=[1, 0]), node("Gemm", "t w", transA=1)]
    path = written(tmp_path, nodes, ["batch", 5], {"w": (5, 3)})
    assert count_operations(path).total == 2 * 5 * 3


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution(tmp_path: Path, groups: int) -> None:
    nodes = [node("Conv", "x w", strides=[2, 2], group=groups)]
    path = written(tmp_path, nodes, ["batch", 4, 9, 11], {"w": (6, 4 // groups, 3, 3)})
    # 4 by 5 places, 6 filters.
    assert count_operations(path).total == 2 * 4 * 5 * 6 * (4 // groups) * 9


QUANTISED = [
    node("DequantizeLinear", "x scale zero", "a"),
    node("Reshape", "a shape", "flat"),
    node("DequantizeLinear", "w scale", "b"),
]
SCALE = {"scale": np.float32(1), "zero": np.uint8(3), "shape": np.array([-1, 10])}


def test_a_product_of_8_bits_between_quantised_tensors(tmp_path: Path) -> None:
    nodes = [*QUANTISED, node("MatMul", "flat b")]
    path = written(
        tmp_path, nodes, ["batch", 2, 5], {"w": (10, 3)}, kind=UINT8, dtype=np.int8, more=SCALE
    )
    assert count_operations(path) == Operations(floating=0, int8=2 * 10 * 3)


def test_weights_alone_of_8_bits_make_a_product_of_floats(tmp_path: Path) -> None:
    nodes = [QUANTISED[2], node("MatMul", "x b")]
    path = written(tmp_path, nodes, ["batch", 10], {"w": (10, 3)}, dtype=np.int8, more=SCALE)
    assert count_operations(path) == Operations(floating=2 * 10 * 3, int8=0)


def test_products_that_are_of_8_bits_by_themselves(tmp_path: Path) -> None:
    nodes = [
        node("QLinearMatMul", "x scale zero w scale wzero scale zero", "a"),
        node("MatMulInteger", "a w2"),
    ]
    path = written(
        tmp_path, nodes, ["batch", 2, 10], {"w": (10, 3), "w2": (3, 4)}, kind=UINT8,
        given=TensorProto.INT32, dtype=np.int8, more={**SCALE, "wzero": np.int8(0)},
    )  # fmt: skip
    assert count_operations(path) == Operations(floating=0, int8=2 * 2 * (10 * 3 + 3 * 4))


def test_convolutions_that_are_of_8_bits_by_themselves(tmp_path: Path) -> None:
    nodes = [node("ConvInteger", "x w")]
    path = written(
        tmp_path, nodes, ["batch", 3, 8, 8], {"w": (2, 3, 8, 8)}, kind=UINT8,
        given=TensorProto.INT32, dtype=np.uint8,
    )  # fmt: skip
    assert count_operations(path) == Operations(floating=0, int8=2 * 2 * 3 * 64)


def test_what_is_not_understood_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, [node("Einsum", "x w", equation="bi,ij->bj")], ["b", 5], {"w": (5, 3)})
    with pytest.raises(BundleError, match="operations of Einsum"):
        count_operations(path)


def test_a_size_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    nodes = [node("NonZero", "x", "n"), node("Cast", "n", "f", to=FLOAT), node("MatMul", "w f")]
    path = written(tmp_path, nodes, ["batch", 5], {"w": (3, 2)})
    with pytest.raises(BundleError, match="sizes of MatMul y not known"):
        count_operations(path)


def test_any_length_needs_one(tmp_path: Path) -> None:
    path = written(tmp_path, [node("MatMul", "x w")], ["batch", "length", 5], {"w": (5, 3)})
    with pytest.raises(BundleError, match="any length, and none was given"):
        count_operations(path)
    assert count_operations(path, length=7).total == 2 * 7 * 5 * 3


def test_a_text_of_one_token_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 tokens at least, got 1"):
        count_operations(tmp_path / "tower.onnx", length=1)


@pytest.mark.parametrize("content", [b"no graph", None])
def test_no_graph(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "tower.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BundleError, match=r"tower\.onnx is no graph"):
        count_operations(path)


def blocks(tokens: int, width: int, hidden: int, layers: int) -> int:
    """Pairs of a transformer of which the last block goes on with one token."""
    square = width * width
    block = tokens * (4 * square + 2 * width * hidden) + 2 * tokens * tokens * width
    last = tokens * 2 * square + 2 * square + 2 * width * hidden + 2 * tokens * width
    return (layers - 1) * block + last


def test_an_image_tower(tmp_path: Path) -> None:
    tower = TOWERS["vit"]
    assert isinstance(tower, VitTower)
    write_tower(tmp_path / "image.onnx", tower, drawn_tensors(tower), "test")
    width, patch = tower.transformer.width, tower.patch
    patches = (tower.height // patch) * (tower.width // patch)
    pairs = (
        patches * 3 * patch**2 * width
        + blocks(patches + 1, width, tower.transformer.hidden, tower.transformer.layers)
        + width * tower.dim
    )
    assert count_operations(tmp_path / "image.onnx") == Operations(floating=2 * pairs, int8=0)


@pytest.mark.parametrize("length", [2, 12])
def test_a_text_tower(tmp_path: Path, length: int) -> None:
    tower = TOWERS["text, end"]
    assert isinstance(tower, TextTower)
    write_tower(tmp_path / "text.onnx", tower, drawn_tensors(tower), "test")
    width = tower.transformer.width
    pairs = (
        blocks(length, width, tower.transformer.hidden, tower.transformer.layers)
        + width * tower.dim
    )
    counted = count_operations(tmp_path / "text.onnx", length=length)
    assert counted == Operations(floating=2 * pairs, int8=0)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("kind", TOWERS)
def test_every_kind_of_tower_is_understood(kind: str, precision: str, tmp_path: Path) -> None:
    tower = TOWERS[kind]
    path = tmp_path / "tower.onnx"
    write_tower(path, tower, drawn_tensors(tower), "test", Precision(precision))
    weights = onnx.load(path).graph.initializer
    # The kernels and matrices of a tower are used at least once, most of them for each token.
    least = 2 * sum(int(np.prod(each.dims)) for each in weights if "mlp" in each.name)
    assert count_operations(path, length=5).floating > least
