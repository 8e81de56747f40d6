"""What the built plan of TensorRT-RTX says of itself.

TensorRT's inspector needs a GPU. A plan of TensorRT-RTX carries its compiled graph as text: the
type of every tensor, and every product with the tensors it takes. Reading it shows what the builder
really made, on a machine without a GPU. The form is not documented and holds for RTX 1.7; whoever
reads must not take silence for consent, so what was not found is said.

::

    header { ... accelerators={sm89 } ... }
    descriptors {
      tensor={ ... name="tokens [profile 1].1" ... type=int32 }
      tensor={ alignment=128 dims={ 96 384 } name="__mye56595_dconst" ... type=half }
      sub_tensor={ base="..." name="__mye59511^deref" ... type=int8 }
    main {
      fully_connected={ name="..." output={"__mye55707" } input={"__mye56655_dconst" ... } ...
        layers="[ONNX Layer: blocks.0.mlp.up.product]..." }
      function={ name=_gemm_mha_v2 ... input_args={ ... } output_args={ ... } ... layers="..." }
      assert={ ... msg="..._shapeInput: shape input value at index 0 is out of bounds [1, 128]; " }
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

_MODULE = b"descriptors {"
_TENSOR = re.compile(rb'tensor=\{[^\n]* name="([^"]*)"[^\n]* type=(\w+)')
_OPERATION = re.compile(
    rb"\n *(?P<kind>\w+)=\{ name=(?P<name>\"[^\"]*\"|\S+) [^\n]*?"
    rb"input(?:_args)?=\{(?P<inputs>[^}]*)\}[^\n]*?layers=\"(?P<layers>[^\"]*)\""
)
_BOUNDS = re.compile(
    rb"(_shapeInput\w*): shape input value at index (\d+) is out of bounds \[(\d+), (\d+)\]"
)
_QUOTED = re.compile(rb'"([^"]*)"')
_LAYER = re.compile(rb"\[ONNX Layer: ([^\]]+)\]")
_TARGETS = re.compile(rb"\n *accelerators=\{((?:sm\d+ )+)\}")
# Operations that multiply. A fusion around one names the layers of the one inside as well, with
# operands that the one inside does not take.
_KINDS = (b"fully_connected", b"corrltn")
_KERNELS = re.compile(rb"gemm|mha")

TYPES = {"half": "float16", "float": "float32", "fp8_e4m3": "float8"}
"""The text's names of types, in NumPy's words, where they differ."""

Bounds = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class PlanText:
    """What a plan says of itself.

    Attributes:
        architectures: that it was compiled for, ``sm89`` for instance.
        products: by the name of the ONNX node, the types of the operands that its product takes in
            any profile.
        ports: types of the inputs and outputs that were asked for, by name; of all profiles.
        profiles: for each, the least and greatest size of every dimension that can change.
        fused_attentions: how many attentions run as one kernel, without a matrix of scores.
    """

    architectures: tuple[str, ...]
    products: dict[str, frozenset[str]]
    ports: dict[str, frozenset[str]]
    profiles: tuple[Bounds, ...]
    fused_attentions: int


def read_plan_text(plan: bytes, names: Collection[str], ports: Collection[str] = ()) -> PlanText:
    """Finds products in the text of a plan.

    Args:
        plan: the plan.
        names: of the ONNX nodes that are products.
        ports: names of inputs and outputs.
    """
    wanted = {name.encode(): name for name in names}
    products: dict[str, set[str]] = {}
    fused: set[str] = set()
    port_types: dict[str, set[str]] = {}
    profiles: dict[int, Bounds] = {}
    # Each module has tensors of its own, under names that others use as well.
    for module in plan.split(_MODULE)[1:]:
        types = {found[1]: found[2].decode() for found in _TENSOR.finditer(module)}
        for port in ports:
            for number, dtype in _port(types, port):
                port_types.setdefault(port, set()).add(dtype)
                profiles[number] = _bounds(module)
        for found in _OPERATION.finditer(module):
            if found["kind"] not in _KINDS and not _KERNELS.search(found["name"]):
                continue
            layers = [wanted[name] for name in _LAYER.findall(found["layers"]) if name in wanted]
            operands = [types[name] for name in _QUOTED.findall(found["inputs"]) if name in types]
            for layer in layers:
                # The first two are what is multiplied; then come a bias, a scale, a size.
                taken = (TYPES.get(operand, operand) for operand in operands[:2])
                products.setdefault(layer, set()).update(taken)
            if b"mha" in found["name"]:
                fused.update(layers)
    targets = {name for found in _TARGETS.findall(plan) for name in found.decode().split()}
    return PlanText(
        architectures=tuple(sorted(targets, key=lambda name: int(name.removeprefix("sm")))),
        products={name: frozenset(types) for name, types in products.items()},
        ports={name: frozenset(dtypes) for name, dtypes in port_types.items()},
        profiles=tuple(profiles[number] for number in sorted(profiles)),
        fused_attentions=sum(name.endswith(".scores") for name in fused),
    )


def _port(types: dict[bytes, str], port: str) -> list[tuple[int, str]]:
    """Profile and type of an input or output, where a module has it."""
    form = re.compile(re.escape(port.encode()) + rb"(?: \[profile (\d+)\])?(?:\.\d+)?")
    matches = ((form.fullmatch(name), dtype) for name, dtype in types.items())
    return [(int(found[1] or 0), TYPES.get(dtype, dtype)) for found, dtype in matches if found]


def _bounds(module: bytes) -> Bounds:
    """What a module demands of the sizes that can change, in the order of the dimensions."""
    found = {(m[1], int(m[2])): (int(m[3]), int(m[4])) for m in _BOUNDS.finditer(module)}
    return tuple(found[place] for place in sorted(found))
