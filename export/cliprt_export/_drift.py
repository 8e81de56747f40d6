"""Which layer drifts first: a tower's values against the reference, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliprt._cores import saturates_bytes
from cliprt._extras import require
from cliprt_export._emulation import fuses_quantised, graph_to_measure
from cliprt_export._fidelity import first_percentile
from cliprt_export._model import ImageSide, TextSide
from cliprt_export._precision import QUANTISED, PrecisionName
from cliprt_export._reference import embed, pooled_positions
from cliprt_export._samples import Inputs
from cliprt_export._specs import ResNetTower, TextTower

# Tells ONNX Runtime where the weights of a model lie that it gets as bytes.
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"

# The graph scales queries, and lays all three out for the products that follow.
_REARRANGED = (".query", ".key", ".value")

# Inputs of convolutions, and states of the stream: each is another step's result once more.
_INPUT = (".in", ".stream")


# Values that quantised variants scale channel by channel, to the same effect.
_SMOOTHED = (".norm1", ".norm2", ".attention.heads", ".conv1", ".conv2")


@dataclass(frozen=True)
class Step:
    """One value on the way to the embedding.

    Attributes:
        name: as the graph and the reference call it, ``blocks.3.mlp.hidden`` for instance.
        cosine: 1st percentile over tokens and items, see ``closeness``.
        pooled: whether the graph computes it for the pooled token alone.
        skipped: steps of the reference right before it that the graph does not have.
    """

    name: str
    cosine: float
    pooled: bool = False
    skipped: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}{' of the pooled token' if self.pooled else ''}"


def layer_drift(
    model: Path, precision: PrecisionName, side: ImageSide | TextSide, inputs: Inputs
) -> list[Step]:
    """Compares every value that both a graph and the reference have.

    All values of the items are in memory at once: pass few items.

    Args:
        model: the ONNX file.
        precision: what it was exported as; halves are measured as halves.
        side: the original weights.
        inputs: the tower's inputs.

    Returns:
        The steps in the order in which the reference computes them. Left out are those that the
        graph does not have, or has in another shape (queries, keys and values, for instance).
    """
    left_out = (*_REARRANGED, *_INPUT, *(_SMOOTHED if precision in QUANTISED else ()))
    names = {name for name in _names(side, inputs) if not name.endswith(left_out)}
    with graph_to_measure(model, precision) as graph:
        found = _values(graph, names, inputs, fuses_quantised(precision))
    steps: list[Step] = []
    skipped: list[str] = []

    def observe(name: str, expected: NDArray[np.float32]) -> None:
        if name not in names:
            return
        if name not in found:
            skipped.append(name)
            return
        value = found.pop(name).astype(np.float32)
        if isinstance(side.tower, ResNetTower) and value.ndim == 4 and "attention" not in name:
            value = np.moveaxis(value, 1, -1)
        pooled = value.shape != expected.shape
        if pooled:
            taken = _pooled(side, inputs, expected)
            if taken is None or taken.shape != value.shape:
                skipped.append(name)
                return
            expected = taken
        cosine = first_percentile(closeness(expected, value))
        steps.append(Step(name, cosine, pooled, tuple(skipped)))
        skipped.clear()

    embed(side.tower, side.tensors, inputs, observe)
    return steps


def first_drift(steps: Sequence[Step], bar: float) -> int | None:
    """Index of the first step below the bar; if there is none, of the one with the largest drop.

    Args:
        steps: in order.
        bar: a cosine; NaN is below it.
    """
    for index, step in enumerate(steps):
        if not step.cosine >= bar:
            return index
    if not steps:
        return None
    before = [1.0, *(step.cosine for step in steps)]
    drops = [before[index] - step.cosine for index, step in enumerate(steps)]
    return int(np.argmax(drops))


def describe_drift(steps: Sequence[Step], bar: float) -> str:
    """The layer that drifts first and the steps around it, in words."""
    place = first_drift(steps, bar)
    if place is None:
        return "The graph has no value in common with the reference before its embedding"
    step = steps[place]
    kind = "is the first below the bar" if not step.cosine >= bar else "loses most"
    near = steps[max(0, place - 2) : place + 3]
    around = " -> ".join(f"{other} {other.cosine:.7f}" for other in near)
    missing = (
        f"; right before it the graph has no {', '.join(step.skipped)}" if step.skipped else ""
    )
    return f"The layer that drifts first: {step}, which {kind} ({around}){missing}"


def closeness(expected: NDArray[np.float32], found: NDArray[np.float32]) -> NDArray[np.float64]:
    """How close each vector along the last axis is to its reference.

    |a - b|² / (2 |a| |b|) subtracted from 1: the cosine if both are of one length, and less if they
    are not, so that a wrong scale shows. Two zero vectors are equal.

    Returns:
        float64 [number of vectors], at most 1; NaN where a value is.
    """
    one = expected.astype(np.float64).reshape(-1, expected.shape[-1])
    other = found.astype(np.float64).reshape(one.shape)
    # An infinity on one side only must not become a figure.
    other[~np.isfinite(other)] = np.nan
    apart = ((one - other) ** 2).sum(axis=1)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return np.asarray(1 - apart / np.maximum(2 * lengths, 1e-30))


def _names(side: ImageSide | TextSide, inputs: Inputs) -> set[str]:
    """Names of all steps of the reference, found by one item."""
    names = set[str]()
    embed(side.tower, side.tensors, inputs[:1], lambda name, values: names.add(name))
    return names


def _pooled(
    side: ImageSide | TextSide, inputs: Inputs, expected: NDArray[np.float32]
) -> NDArray[np.float32] | None:
    """A step's values for the pooled token alone, the axis of tokens kept."""
    if isinstance(side.tower, TextTower):
        positions = pooled_positions(side.tower, inputs.astype(np.int64))
    else:
        positions = np.zeros(len(inputs), dtype=np.int64)
    if expected.ndim < 3 or expected.shape[-2] <= positions.max():
        return None
    index = positions.reshape(-1, *[1] * (expected.ndim - 1))
    return np.take_along_axis(expected, index, axis=-2)


def _values(
    model: Path, names: set[str], inputs: Inputs, fuse_quantised: bool
) -> dict[str, NDArray[Any]]:
    """What a graph computes under the names that it has."""
    onnx = require("onnx", extra="export")
    onnxruntime = require("onnxruntime", extra="export")
    proto = onnx.load(str(model), load_external_data=False)
    wanted = [name for node in proto.graph.node for name in node.output if name in names]
    del proto.graph.output[:]
    # ONNX Runtime infers the types.
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(_WEIGHTS_FOLDER, str(model.parent))
    if not fuse_quantised:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    if saturates_bytes():  # as towers are computed: `cliprt_engines.OnnxTower`
        options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    values = session.run(wanted, {session.get_inputs()[0].name: inputs})
    return dict(zip(wanted, values, strict=True))
