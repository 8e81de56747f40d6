"""Which of Triton's backends computes the towers, and with what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from cliprt._errors import InvalidInput
from cliprt_engines import CpuSettings
from cliprt_triton._config import Kind

RuntimeName: TypeAlias = Literal["python", "onnxruntime", "tensorrt"]
Provider: TypeAlias = Literal["cpu", "cuda", "tensorrt"]

RUNTIMES: tuple[RuntimeName, ...] = get_args(RuntimeName)
PROVIDERS: tuple[Provider, ...] = get_args(Provider)

# By runtime and provider, the precisions that it computes; the first is the default. The towers in
# int8 and fp8 are quantised for TensorRT, those in int8-cpu for ONNX Runtime on a processor.
_ON_CPU = ("fp32", "int8-cpu")
_PRECISIONS = {
    ("python", "cpu"): _ON_CPU,
    ("onnxruntime", "cpu"): _ON_CPU,
    ("onnxruntime", "cuda"): ("fp16", "fp32"),
    ("onnxruntime", "tensorrt"): ("fp16", "fp32", "int8", "fp8"),
}
_IN_ENGINES = ("fp16", "fp32", "int8", "fp8")


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """What computes the towers of a repository.

    Attributes:
        name: ``python`` is ONNX Runtime in Triton's Python backend, on the processor;
            ``onnxruntime`` and ``tensorrt`` are Triton's own backends of those names.
        precision: of the towers; None is fp32 on a processor, fp16 with a provider for GPUs, and
            that of the engines if they have but one.
        provider: what ONNX Runtime's backend computes with: cpu, cuda, or tensorrt.
        engines: folder that ``cliprt build`` filled; tensorrt needs one, no other takes one.
        engine_cache: folder on the server where ONNX Runtime's TensorRT provider keeps what it
            builds; None builds at every start. It must belong to one GPU and one version.
        gpus: use the first so many GPUs; None uses all that Triton finds.
        settings: of the runtime python, by ``image`` and ``text``, how the tower is computed; one
            that is not there is computed with the defaults.
        speeds: by ``image`` and ``text``, how many items a second the tower embeds where it will be
            served. Queues of one that is not there are bounded by their lengths.
    """

    name: RuntimeName = "python"
    precision: str | None = None
    provider: Provider = "cpu"
    engines: Path | None = None
    engine_cache: str | None = None
    gpus: int | None = None
    settings: Mapping[str, CpuSettings] = field(default_factory=dict)
    speeds: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in RUNTIMES:
            raise InvalidInput(
                f"there is no runtime {self.name!r}; there are {', '.join(RUNTIMES)}"
            )
        if self.provider not in PROVIDERS:
            raise InvalidInput(
                f"there is no provider {self.provider!r}; there are {', '.join(PROVIDERS)}"
            )
        if self.provider != "cpu" and self.name != "onnxruntime":
            raise InvalidInput(f"a provider is for the runtime onnxruntime, not for {self.name}")
        if (self.engines is None) == (self.name == "tensorrt"):
            raise InvalidInput(
                "the runtime tensorrt needs the folder of engines that cliprt build filled "
                "(--engines)"
                if self.engines is None
                else f"engines are for the runtime tensorrt, not for {self.name}"
            )
        if self.engine_cache is not None and self.provider != "tensorrt":
            raise InvalidInput(
                "a cache of engines is for ONNX Runtime's provider tensorrt "
                "(runtime onnxruntime, provider tensorrt)"
            )
        if self.gpus is not None and self.gpus < 1:
            raise InvalidInput(f"gpus must be at least 1, got {self.gpus}")
        if self.gpus is not None and not self.on_gpu:
            raise InvalidInput("the towers run on the processor, which has no GPUs to count")
        if self.settings and self.name != "python":
            raise InvalidInput(f"settings are for the runtime python, not for {self.name}")
        known = self.precisions
        if self.precision is not None and self.precision not in known:
            raise InvalidInput(
                f"{self} does not compute {self.precision!r}; it computes {', '.join(known)}"
            )

    def __str__(self) -> str:
        return f"{self.name} on {self.provider}" if self.name == "onnxruntime" else self.name

    @property
    def on_gpu(self) -> bool:
        """Whether the towers run on GPUs where there are some."""
        return self.name == "tensorrt" or self.provider != "cpu"

    @property
    def kind(self) -> Kind:
        """Where instances run, as Triton calls it.

        KIND_AUTO is on all GPUs, and on the processor where there is none: so a repository for GPUs
        also loads where none is, with another backend of that name. A number of GPUs is a demand.
        """
        if not self.on_gpu:
            return "KIND_CPU"
        return "KIND_AUTO" if self.gpus is None else "KIND_GPU"

    @property
    def precisions(self) -> tuple[str, ...]:
        """The precisions that it computes; the first is the default where there is one."""
        return _PRECISIONS.get((self.name, self.provider), _IN_ENGINES)
