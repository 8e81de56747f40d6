"""Did the builder do what the precision promises? No product may silently fall back to float32.

Twice it is asked, because each answer alone can deceive. The network, parsed and strongly typed,
shows what the *graph* demands: a graph in float32 that calls itself fp16 is found there. The built
engine shows what the *builder* made of it. On a GPU TensorRT's inspector tells; where there is
none, a plan of TensorRT-RTX tells itself (``_plan_text``).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from cliprt._errors import EngineError
from cliprt_engines._flavor import Toolkit
from cliprt_engines._log import collected_errors, said, started, tensorrt_logger
from cliprt_engines._manifest import Recipe, TensorEntry
from cliprt_engines._plan_text import Bounds, read_plan_text

Source = Literal["engine", "plan", "network"]

_PRODUCTS = ("MATRIX_MULTIPLY", "CONVOLUTION", "DECONVOLUTION")
# Layers that pass on values as they are, from a quantised weight to its product for instance.
_SEE_THROUGH = ("SHUFFLE", "DEQUANTIZE", "IDENTITY")
_DTYPES = {
    "FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "FP8": "float8", "INT8": "int8",
    "UINT8": "uint8", "INT32": "int32", "INT64": "int64", "BOOL": "bool", "INT4": "int4",
}  # fmt: skip
# From narrow to wide: of two operands the wider one decides what is computed in.
_WIDTHS = ("float8", "int8", "float16", "bfloat16", "float32")
_PROMISED = {"fp32": "float32", "fp16": "float16", "int8": "int8", "fp8": "float8"}
_LAYER = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_SHOWN = 5


@dataclass(frozen=True)
class Inspection:
    """What the products of an engine take.

    Attributes:
        source: what was looked at.
        demanded: by the name of the ONNX node, the type that the graph demands.
        built: by the same names, the widest type that the engine takes in any profile; without
            those not found in each.
        fused_attentions: how many attentions run as one kernel; None where that is not seen.
        ports: types of input and output by name; empty where that is not seen.
        profiles: for each, the least and greatest size of every dimension that can change; None
            where that is not seen.
        architectures: that it was compiled for; None where that is not seen.
    """

    source: Source
    demanded: dict[str, str]
    built: dict[str, str]
    fused_attentions: int | None = None
    ports: dict[str, str] = field(default_factory=dict)
    profiles: tuple[Bounds, ...] | None = None
    architectures: tuple[str, ...] | None = None

    def counts(self) -> dict[str, int]:
        """How many products take each type, widest first."""
        counts = Counter((self.demanded | self.built).values())
        return {name: counts[name] for name in sorted(counts, key=_width, reverse=True)}

    def widened(self) -> dict[str, tuple[str, str]]:
        """Products that take a wider type than the graph demands: demanded and built."""
        return {
            name: (self.demanded[name], built)
            for name, built in self.built.items()
            if _width(built) > _width(self.demanded[name])
        }

    def widened_counts(self) -> dict[str, int]:
        """The same as counts, ``int8 -> float16`` for instance."""
        return dict(sorted(Counter(" -> ".join(pair) for pair in self.widened().values()).items()))


def dtype_name(dtype: Any) -> str:
    """NumPy's name of one of TensorRT's types."""
    name = str(dtype.name)
    return _DTYPES.get(name, name.lower())


def demanded_products(network: Any) -> dict[str, str]:
    """The type that each matrix product and convolution of a strongly typed network takes.

    A quantised operand counts as what it was before it was dequantised.

    Args:
        network: TensorRT's INetworkDefinition.
    """
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    makers = {
        layer.get_output(index).name: layer
        for layer in layers
        for index in range(layer.num_outputs)
    }

    def source(tensor: Any) -> str:
        name: str = dtype_name(tensor.dtype)
        while tensor.name in makers and makers[tensor.name].type.name in _SEE_THROUGH:
            maker = makers[tensor.name]
            tensor = maker.get_input(0)
            if maker.type.name == "DEQUANTIZE":
                return dtype_name(tensor.dtype)
        return name

    found = {}
    for layer in layers:
        if layer.type.name in _PRODUCTS:
            operands = [layer.get_input(index) for index in range(layer.num_inputs)]
            # A convolution holds plain weights itself, in the type of what it takes.
            types = [source(operand) for operand in operands[:2] if operand is not None]
            found[str(layer.name)] = _widest(types)
    return found


def inspect_plan(
    toolkit: Toolkit,
    plan: bytes,
    demanded: dict[str, str],
    ports: Collection[str],
    *,
    gpu: bool,
) -> Inspection:
    """Finds out what a built engine takes.

    Args:
        toolkit: what built it.
        plan: the plan, as it came from the builder.
        demanded: see ``demanded_products``.
        ports: names of the input and the output.
        gpu: whether there is a GPU that the plan was built for.
    """
    if toolkit.flavor == "tensorrt-rtx":
        text = read_plan_text(plan, demanded, ports)
        if any(text.products):
            # What one profile does not say of a product, the others cannot say for it.
            said = [name for name in demanded if all(name in each for each in text.products)]
            return Inspection(
                "plan",
                demanded,
                {n: _widest({t for each in text.products for t in each[n]}) for n in said},
                text.fused_attentions,
                {name: _widest(types) for name, types in text.ports.items()},
                text.profiles,
                text.architectures,
            )
    elif gpu:
        return _inspect_engine(toolkit, plan, demanded)
    return Inspection("network", demanded, {})


def check_interface(
    inspection: Inspection, recipe: Recipe, taken: TensorEntry, given: TensorEntry
) -> None:
    """Refuses an engine that takes or gives something else than was asked for.

    Args:
        inspection: what was found.
        recipe: what was asked for.
        taken: the graph's input.
        given: the graph's output.

    Raises:
        EngineError: it does.
    """
    if inspection.source == "network":
        return
    spans = [(p.batch, *([] if p.length is None else [p.length])) for p in recipe.profiles]
    # A size that cannot change is no dimension that changes.
    sizes = tuple(tuple((s.least, s.most) for s in p if s.least < s.most) for p in spans)
    expected = {
        "types": {taken.name: taken.dtype, given.name: given.dtype},
        "profiles": sizes,
        "architectures": recipe.architectures,
    }
    found = {
        "types": inspection.ports,
        "profiles": inspection.profiles,
        "architectures": inspection.architectures or recipe.architectures,
    }
    for what, value in expected.items():
        if found[what] != value:
            raise EngineError(
                f"the built engine {recipe.name} has other {what} than asked for: {found[what]} "
                f"instead of {value}"
            )


def check_inspection(
    inspection: Inspection, *, tower: str, precision: str, islands: Collection[str]
) -> None:
    """Refuses an engine that computes in float32 what its precision promises to narrow.

    Args:
        inspection: what was found.
        tower: name of the tower's file, for the message.
        precision: that it promises.
        islands: parts that the bundle keeps in float32 because of values seen there, by the names
            of ``precisions.json``.

    Raises:
        EngineError: it does.
    """
    promised = _PROMISED.get(precision)
    if promised is None or promised == "float32":
        return
    names = inspection.demanded.keys()
    if not names:
        raise EngineError(f"{tower} holds no matrix product at all; it is no tower")
    wide = [
        name
        for name, dtype in inspection.demanded.items()
        if dtype == "float32" and not _stays_float32(name, names, islands)
    ]
    if wide:
        raise EngineError(
            f"{tower} promises {precision}, but {_listed(wide)} of its {len(names)} products take "
            "float32, and nothing in the bundle's precisions.json keeps them there; export the "
            "checkpoint again"
        )
    if promised not in inspection.demanded.values():
        raise EngineError(
            f"{tower} promises {precision}, but none of its {len(names)} products takes "
            f"{promised}; export the checkpoint again, with --calibrate"
        )
    fallen = [name for name, (_, built) in inspection.widened().items() if built == "float32"]
    if fallen:
        raise EngineError(
            f"the builder computes {_listed(fallen)} of {tower} in float32, which the graph "
            f"demands in less; this version of TensorRT is no good for {precision}"
        )
    unseen = sorted(names - inspection.built.keys())
    if inspection.source != "network" and unseen:
        raise EngineError(
            f"the built engine of {tower} does not say what {_listed(unseen)} compute in, at "
            "least for some of its profiles, so that a fallback to float32 cannot be ruled out"
        )


def _stays_float32(name: str, names: Collection[str], islands: Collection[str]) -> bool:
    """Whether export keeps a product in float32.

    The last projection always, the attention that pools a ModifiedResNet (whose convolutions begin
    with a stem), and what is an island.
    """
    if name.split(".")[0] == "projection":
        return True
    if name.startswith("head.") and any(other.startswith("stem.") for other in names):
        return True
    if "residual stream" in islands and name.split(".")[0] in ("patch", "stem"):
        return True
    return any(name.startswith(f"{island}.") for island in islands)


def _inspect_engine(toolkit: Toolkit, plan: bytes, demanded: dict[str, str]) -> Inspection:
    """The same from TensorRT's inspector, on the GPU that the plan was built for."""
    api = toolkit.api
    runtime = started(api.Runtime, tensorrt_logger(api), what=f"the runtime of {toolkit.flavor}")
    with collected_errors() as errors:
        engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise EngineError(f"the engine that was just built cannot be loaded: {said(errors)}")
    inspector = engine.create_engine_inspector()
    content = inspector.get_engine_information(api.LayerInformationFormat.JSON)
    products: dict[str, list[str]] = {}
    for layer in json.loads(content).get("Layers", []):
        if not isinstance(layer, dict):
            continue
        types = [_format_type(entry) for entry in layer.get("Inputs", [])]
        for name in _LAYER.findall(str(layer.get("Metadata", ""))):
            if name in demanded and types:
                products.setdefault(name, []).extend(types[:2])
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    (taken,) = (n for n in names if engine.get_tensor_mode(n) == api.TensorIOMode.INPUT)
    shapes = [
        engine.get_tensor_profile_shape(taken, index)
        for index in range(engine.num_optimization_profiles)
    ]
    return Inspection(
        "engine",
        demanded,
        {name: _widest(types) for name, types in products.items()},
        ports={name: dtype_name(engine.get_tensor_dtype(name)) for name in names},
        profiles=tuple(
            tuple((a, b) for a, b in zip(least, most, strict=True) if a < b)
            for least, _, most in shapes
        ),
    )


def _format_type(entry: Mapping[str, Any]) -> str:
    """``Half``, ``FP16 row-major``, ``Float`` and their like, in NumPy's words."""
    text = str(entry.get("Format/Datatype", entry.get("Datatype", ""))).lower()
    for words, name in (
        (("half", "fp16", "float16"), "float16"),
        (("bf16", "bfloat16"), "bfloat16"),
        (("fp8", "e4m3"), "float8"),
        (("int8",), "int8"),
        (("float", "fp32"), "float32"),
    ):
        if any(word in text for word in words):
            return name
    return text or "unknown"


def _widest(types: Collection[str]) -> str:
    return max(types, key=_width)


def _width(name: str) -> int:
    # A type that is not known is taken for the worst.
    return _WIDTHS.index(name) if name in _WIDTHS else len(_WIDTHS)


def _listed(names: Collection[str]) -> str:
    shown = sorted(names)
    more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    return ", ".join(shown[:_SHOWN]) + more
