"""FP16: measured as halves, and float32 islands where values call for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from towers import TOWERS, drawn_inputs, drawn_tensors

from cliprt_engines import OnnxTower
from cliprt_export._emulation import tower_to_measure
from cliprt_export._graph import Graph
from cliprt_export._precision import FP32, WIDE, Precision, Range
from cliprt_export._reference import embed
from cliprt_export._specs import Tensors, TextTower, Tower
from cliprt_export._towers import write_tower


def peaks_of(tower: Tower, tensors: Tensors) -> dict[str, float]:
    peaks: dict[str, float] = {}
    embed(
        tower,
        tensors,
        drawn_inputs(tower, 8),
        lambda name, values: peaks.update({name: float(np.abs(values).max())}),
    )
    return peaks


def run(folder: Path, tower: Tower, tensors: Tensors, precision: Precision) -> NDArray[np.float32]:
    path = folder / "tower.onnx"
    write_tower(path, tower, tensors, "test", precision)
    return tower_to_measure(path, precision.name).run(drawn_inputs(tower, 8))


@pytest.mark.parametrize("kind", TOWERS)
def test_float32_equals_the_reference(kind: str, tmp_path: Path) -> None:
    tower, tensors = TOWERS[kind], drawn_tensors(TOWERS[kind])
    expected = embed(tower, tensors, drawn_inputs(tower, 8))
    np.testing.assert_allclose(run(tmp_path, tower, tensors, FP32), expected, atol=2e-6)


@pytest.mark.parametrize("kind", TOWERS)
def test_halves_stay_close_and_round(kind: str, tmp_path: Path) -> None:
    tower, tensors = TOWERS[kind], drawn_tensors(TOWERS[kind])
    expected = embed(tower, tensors, drawn_inputs(tower, 8))
    found = run(tmp_path, tower, tensors, Precision("fp16", peaks_of(tower, tensors)))
    assert (found * expected).sum(axis=1).min() > 0.9999
    # What only rounds the weights is closer than that.
    assert np.abs(found - expected).max() > 1e-5


def test_a_half_graph_stores_halves_and_keeps_its_islands(tmp_path: Path) -> None:
    tower, tensors = TOWERS["vit"], drawn_tensors(TOWERS["vit"])
    path = tmp_path / "tower.onnx"
    write_tower(path, tower, tensors, "test", Precision("fp16"))
    graph = onnx.load(path).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    half, full = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    assert types["blocks.0.mlp.up.weight"] == half
    assert types["patch.weight"] == half
    for island in ("blocks.0.norm1.weight", "post_norm.weight", "projection.weight"):
        assert types[island] == full
    assert types["pixels.factor"] == full


def huge(tower: Tower, name: str, factor: float) -> Tensors:
    tensors = drawn_tensors(tower)

    def tensor(wanted: str) -> NDArray[np.float32]:
        return tensors(wanted) * np.float32(factor if wanted == name else 1)

    return tensor


def test_emulated_halves_overflow_as_halves_do(tmp_path: Path) -> None:
    """Without islands values beyond 65,504 are lost: the measurement does not hide it."""
    tower = TOWERS["vit"]
    tensors = huge(tower, "blocks.1.mlp.down.weight", 2e5)
    with np.errstate(invalid="ignore"):
        found = run(tmp_path, tower, tensors, Precision("fp16"))
    assert not np.isfinite(found).all()


def test_islands_are_made_where_values_are_great(tmp_path: Path) -> None:
    tower = TOWERS["vit"]
    tensors = huge(tower, "blocks.1.mlp.down.weight", 2e5)
    precision = Precision("fp16", peaks_of(tower, tensors))
    assert precision.islands() == ["residual stream", "blocks.1.mlp"]
    expected = embed(tower, tensors, drawn_inputs(tower, 8))
    found = run(tmp_path, tower, tensors, precision)
    assert (found * expected).sum(axis=1).min() > 0.9999


def test_an_island_inside_attention_leaves_the_stream_alone(tmp_path: Path) -> None:
    tower = TOWERS["text, end"]
    values = huge(tower, "blocks.0.attention.value.weight", 3e4)

    def tensors(name: str) -> NDArray[np.float32]:
        return values(name) / np.float32(3e4 if name == "blocks.0.attention.out.weight" else 1)

    precision = Precision("fp16", peaks_of(tower, tensors))
    assert precision.islands() == ["blocks.0.attention"]
    assert precision.residual is np.float16
    expected = embed(tower, tensors, drawn_inputs(tower, 8))
    found = run(tmp_path, tower, tensors, precision)
    assert (found * expected).sum(axis=1).min() > 0.999


@pytest.mark.parametrize("peak", [WIDE, float("inf"), float("nan")])
def test_what_is_not_small_is_wide(peak: float) -> None:
    assert Precision("fp16", {"blocks.0.add1": peak}).residual is np.float32
    assert Precision("fp16", {"blocks.0.add1": WIDE * 0.99}).residual is np.float16


def test_float32_has_no_islands_of_its_own() -> None:
    assert Precision("int8-cpu", {"blocks.0.add1": 1e9}).islands() == []


def test_unsigned_ranges_hold_zero_exactly() -> None:
    for low, high in ((-0.17, 6.0), (0.5, 3.0), (-4.0, -1.0), (0.0, 0.0)):
        scale, zero = Range(low, high).asymmetric()
        assert 0 <= zero <= 255
        assert scale > 0
        assert (0 - zero) * scale <= min(low, 0) + scale
        assert (255 - zero) * scale >= max(high, 0) - scale


def test_a_resnet_has_islands_too(tmp_path: Path) -> None:
    tower = TOWERS["resnet"]
    tensors = drawn_tensors(tower)

    def huge_channel(name: str) -> NDArray[np.float32]:
        array = tensors(name).copy()
        if name == "stages.0.0.conv3.bias":
            array[0] = 1e5
        return array

    precision = Precision("fp16", peaks_of(tower, huge_channel))
    assert precision.islands()[0] == "residual stream"
    assert "stages.0.0" in precision.islands()
    expected = embed(tower, huge_channel, drawn_inputs(tower, 8))
    found = run(tmp_path, tower, huge_channel, precision)
    assert (found * expected).sum(axis=1).min() > 0.999


@pytest.mark.parametrize("factor", [1.0, 1e-4, 1e-6, 1e-7, 2e3])
def test_emulated_halves_are_those_of_numpy(factor: float, tmp_path: Path) -> None:
    """A product of states and weights, rounded once: nearest half, ties and all."""
    graph = Graph("halves")
    tokens = graph.input("tokens", "int32", ["batch", 16])
    x = graph.op("Cast", tokens, name="cast", to=graph.element_type("float16"))
    values = np.random.Generator(np.random.PCG64(3)).standard_normal(16) * factor
    weights = values.astype(np.float16)
    x = graph.op("Mul", x, graph.weight("weights", weights), name="product")
    x = graph.op("Cast", x, name="wide", to=graph.element_type("float32"))
    graph.output(x, "embedding", "float32", ["batch", 16])
    graph.write(tmp_path / "tower.onnx", "test")
    inputs = np.arange(16 * 40, dtype=np.int32).reshape(40, 16)
    found = tower_to_measure(tmp_path / "tower.onnx", "fp16").run(inputs)
    with np.errstate(over="ignore"):
        expected = inputs.astype(np.float16) * weights
    np.testing.assert_array_equal(found, expected.astype(np.float32))


CAUSAL = {
    name: tower
    for name, tower in TOWERS.items()
    if isinstance(tower, TextTower) and not tower.fixed_length
}


@pytest.mark.parametrize("kind", CAUSAL)
def test_a_trimmed_text_equals_a_padded_one_at_every_length(kind: str, tmp_path: Path) -> None:
    tower, tensors = CAUSAL[kind], drawn_tensors(CAUSAL[kind])
    write_tower(tmp_path / "tower.onnx", tower, tensors, "test")
    onnx_tower = OnnxTower(tmp_path / "tower.onnx")
    rng = np.random.Generator(np.random.PCG64(4))
    for length in range(2, tower.context + 1):
        trimmed = rng.integers(2, tower.end_id, (4, length)).astype(np.int32)
        trimmed[:, -1] = tower.end_id
        for filling in (0, tower.end_id):
            padded = np.full((4, tower.context), filling, dtype=np.int32)
            padded[:, :length] = trimmed
            expected = onnx_tower.run(padded)
            np.testing.assert_allclose(onnx_tower.run(trimmed), expected, atol=1e-6, rtol=0)
