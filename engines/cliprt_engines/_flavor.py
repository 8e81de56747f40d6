"""The two flavours of TensorRT, which share one API and one code path here.

``tensorrt`` builds for the GPU at hand and its plans load in Triton. ``tensorrt-rtx`` builds for
named architectures on any machine, also without a GPU, and its plans load in TensorRT-RTX alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from types import ModuleType
from typing import Literal, TypeAlias

from cliprt._errors import EngineError, InvalidInput, MissingExtra
from cliprt._extras import require

FlavorName: TypeAlias = Literal["tensorrt", "tensorrt-rtx"]

FLAVORS: tuple[FlavorName, ...] = ("tensorrt", "tensorrt-rtx")
"""In the order in which they are looked for."""

_MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx_bindings"}
_EXTRAS = {"tensorrt": "tensorrt", "tensorrt-rtx": "rtx"}
# The first TensorRT whose strongly typed networks are those of TensorRT 11.
_OLDEST = {"tensorrt": (10, 12), "tensorrt-rtx": (1, 0)}


@dataclass(frozen=True)
class Toolkit:
    """A TensorRT that is installed here.

    Attributes:
        flavor: which of the two.
        version: its version, ``1.7.1.116`` for instance.
        api: its Python module.
    """

    flavor: FlavorName
    version: str
    api: ModuleType

    @property
    def targets(self) -> tuple[str, ...]:
        """Architectures that it builds for ahead of time, ``sm89`` for instance.

        Empty for a TensorRT that builds for the GPU at hand only.
        """
        if self.flavor == "tensorrt":
            return ()
        members = self.api.ComputeCapability.__members__
        return tuple(sorted((n.lower() for n in members if n.startswith("SM")), key=_number))


def find_toolkit(flavor: str | None = None) -> Toolkit:
    """Loads TensorRT.

    Args:
        flavor: one of FLAVORS; None takes the first that is installed.

    Raises:
        InvalidInput: there is no such flavour.
        MissingExtra: it is not installed.
        EngineError: it is too old, or its libraries cannot be loaded.
    """
    if flavor is None:
        installed = [name for name in FLAVORS if find_spec(_MODULES[name])]
        if not installed:
            raise MissingExtra(
                "this needs TensorRT, which is not installed; install it with: "
                "pip install 'cliprt[tensorrt]' for the GPU of this machine, or "
                "pip install 'cliprt[rtx]' for TensorRT-RTX, which also builds without a GPU",
                name="tensorrt",
            )
        flavor = installed[0]
    if flavor not in FLAVORS:
        raise InvalidInput(f"there is no flavour {flavor!r}; there are {', '.join(FLAVORS)}")
    try:
        api = require(_MODULES[flavor], extra=_EXTRAS[flavor])
    except (OSError, RuntimeError) as error:
        raise EngineError(f"{flavor} is installed but cannot be loaded: {error}") from None
    version = str(api.__version__)
    oldest = _OLDEST[flavor]
    if tuple(int(part) for part in version.split(".")[:2]) < oldest:
        raise EngineError(
            f"this is {flavor} {version}; cliprt needs {oldest[0]}.{oldest[1]} or newer. "
            f"Install it with: pip install --upgrade 'cliprt[{_EXTRAS[flavor]}]'"
        )
    return Toolkit("tensorrt" if flavor == "tensorrt" else "tensorrt-rtx", version, api)


def _number(architecture: str) -> int:
    return int(architecture.removeprefix("sm"))
