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
      function={ name=__myl_CastReshMulSumAdd ... input_args={ ... } ... layers="..." }
      assert={ ... msg="..._shapeInput: shape input value at index 0 is out of bounds [1, 128]; " }

Each profile is compiled for itself: a module with its inputs and outputs, then one for each fusion
in it. So a product is looked for in each of them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import prod

_MODULE = b"descriptors {"
_TENSOR = re.compile(rb'tensor=\{([^\n]*) name="([^"]*)"[^\n]* type=(\w+)')
_DIMS = re.compile(rb" dims=\{([ \d]*)\}")
_CONSTANT = b" const_payload_size="
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
# A matrix times a vector, as for a batch of one, is a loop that multiplies and adds up; often with
# the norm before it in the same kernel, whose operands stand among its own in no fixed order.
_LOOPS = re.compile(rb"__myl_\w*MulSum")

TYPES = {"half": "float16", "float": "float32", "fp8_e4m3": "float8"}
"""The text's names of types, in NumPy's words, where they differ."""

Bounds = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class PlanText:
    """What a plan says of itself.

    Attributes:
        architectures: that it was compiled for, ``sm89`` for instance.
        products: for each profile, by the name of the ONNX node, the types of the operands that
            its product takes; of a matrix times a vector only the type of the matrix, as what goes
            on inside such a kernel is not told.
        ports: types of the inputs and outputs that were asked for, by name; of all profiles.
        profiles: for each, the least and greatest size of every dimension that can change.
        fused_attentions: how many attentions run as one kernel, without a matrix of scores.
    """

    architectures: tuple[str, ...]
    products: tuple[dict[str, frozenset[str]], ...]
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
    products: list[dict[str, set[str]]] = []
    loops: list[dict[str, set[str]]] = []
    fused: set[str] = set()
    port_types: dict[str, set[str]] = {}
    profiles: dict[int, Bounds] = {}
    # Each module has tensors of its own, under names that others use as well.
    for module in plan.split(_MODULE)[1:]:
        tensors = {found[2]: _tensor(found) for found in _TENSOR.finditer(module)}
        there = [(port, *found) for port in ports for found in _port(tensors, port)]
        if there or not products:
            products.append({})
            loops.append({})
        for port, number, dtype in there:
            port_types.setdefault(port, set()).add(dtype)
            profiles[number] = _bounds(module)
        for found in _OPERATION.finditer(module):
            layers = [wanted[name] for name in _LAYER.findall(found["layers"]) if name in wanted]
            if _is_product(found):
                known = _known(found, tensors)
                for layer in layers:
                    products[-1].setdefault(layer, set()).update(known)
            elif _LOOPS.match(found["name"]):
                for layer in layers:
                    loops[-1].setdefault(layer, set()).update(
                        _matrices(found, tensors, len(layers))
                    )
            if b"mha" in found["name"]:
                fused.update(layers)
    targets = {name for found in _TARGETS.findall(plan) for name in found.decode().split()}
    return PlanText(
        architectures=tuple(sorted(targets, key=lambda name: int(name.removeprefix("sm")))),
        products=tuple(
            # A loop may add up something else beside a product that has a kernel of its own.
            {name: frozenset(types) for name, types in (loop | product).items() if types}
            for loop, product in zip(loops, products, strict=True)
        ),
        ports={name: frozenset(dtypes) for name, dtypes in port_types.items()},
        profiles=tuple(profiles[number] for number in sorted(profiles)),
        fused_attentions=sum(name.endswith(".scores") for name in fused),
    )


@dataclass(frozen=True)
class _Tensor:
    dtype: str
    sizes: tuple[int, ...]
    constant: bool

    @property
    def matrix(self) -> bool:
        return sum(size > 1 for size in self.sizes) > 1


def _tensor(found: re.Match[bytes]) -> _Tensor:
    dims = _DIMS.search(found[1])
    # Sizes that may change are told elsewhere.
    sizes = tuple(map(int, dims[1].split())) if dims is not None else ()
    return _Tensor(TYPES.get(name := found[3].decode(), name), sizes, _CONSTANT in found[1])


def _operands(operation: re.Match[bytes], tensors: Mapping[bytes, _Tensor]) -> list[_Tensor]:
    return [tensors[name] for name in _QUOTED.findall(operation["inputs"]) if name in tensors]


def _is_product(operation: re.Match[bytes]) -> bool:
    return operation["kind"] in _KINDS or _KERNELS.search(operation["name"]) is not None


def _known(operation: re.Match[bytes], tensors: Mapping[bytes, _Tensor]) -> set[str]:
    """What a product takes: the first two are multiplied; then come a bias, a scale, a size."""
    return {operand.dtype for operand in _operands(operation, tensors)[:2]}


def _matrices(operation: re.Match[bytes], tensors: Mapping[bytes, _Tensor], count: int) -> set[str]:
    """The types of the matrices in a loop of that many products; empty if there are none.

    The greatest of those that are constant are taken for the weights; in attention none is.
    """
    matrices = [operand for operand in _operands(operation, tensors) if operand.matrix]
    matrices = [operand for operand in matrices if operand.constant] or matrices
    matrices.sort(key=lambda operand: prod(operand.sizes), reverse=True)
    least = min((prod(operand.sizes) for operand in matrices[:count]), default=0)
    return {operand.dtype for operand in matrices if prod(operand.sizes) >= least}


def _port(tensors: Mapping[bytes, _Tensor], port: str) -> list[tuple[int, str]]:
    """Profile and type of an input or output, where a module has it."""
    form = re.compile(re.escape(port.encode()) + rb"(?: \[profile (\d+)\])?(?:\.\d+)?")
    matches = ((form.fullmatch(name), tensor.dtype) for name, tensor in tensors.items())
    return [(int(found[1] or 0), dtype) for found, dtype in matches if found]


def _bounds(module: bytes) -> Bounds:
    """What a module demands of the sizes that can change, in the order of the dimensions."""
    found = {(m[1], int(m[2])): (int(m[3]), int(m[4])) for m in _BOUNDS.finditer(module)}
    return tuple(found[place] for place in sorted(found))
