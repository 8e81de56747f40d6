"""What ONNX Runtime computes with: the processor, CUDA, or TensorRT inside ONNX Runtime.

A provider that cannot be loaded is left out by ONNX Runtime, which then computes on the processor,
many times slower and without an error. Here that is one.
"""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO
from types import ModuleType
from typing import Any, Literal, TypeAlias

from cliprt._errors import DeploymentError, InvalidInput

ProviderKind: TypeAlias = Literal["cpu", "cuda", "tensorrt"]

_NAMES: dict[str, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
PROVIDERS = tuple(_NAMES)

Options: TypeAlias = list[tuple[str, dict[str, str]]]


def provider_options(kind: ProviderKind, *, device: int = 0) -> Options:
    """What to tell a session: providers in the order of preference, each with its options.

    TensorRT inside ONNX Runtime gets no profiles: it builds again for every shape beyond those that
    came before. ``TensorRtTower`` is there for those who cannot wait.

    Args:
        kind: cpu, cuda or tensorrt.
        device: which GPU, as CUDA counts them.

    Raises:
        InvalidInput: there is no such provider.
    """
    if kind not in _NAMES:
        raise InvalidInput(f"there is no provider {kind!r}; there are {', '.join(PROVIDERS)}")
    if kind == "cpu":
        return [(_NAMES["cpu"], {})]
    cuda = {
        "device_id": str(device),
        # Of float32 it would keep 11 bits. Halves are written into the towers that want them.
        "use_tf32": "0",
        # The exhaustive search is made again for every size of batch.
        "cudnn_conv_algo_search": "HEURISTIC",
    }
    order: Options = [(_NAMES["cuda"], cuda), (_NAMES["cpu"], {})]
    if kind == "cuda":
        return order
    tensorrt = {
        "device_id": str(device),
        # Its cache of engines tells them apart by the graph alone, not by GPU or version.
        "trt_engine_cache_enable": "False",
    }
    return [(_NAMES["tensorrt"], tensorrt), *order]


def check_available(onnxruntime: ModuleType, kind: ProviderKind) -> None:
    """Refuses a provider that the installed ONNX Runtime was built without.

    Raises:
        DeploymentError: it has no such provider.
    """
    available = onnxruntime.get_available_providers()
    if _NAMES[kind] in available:
        return
    raise DeploymentError(
        f"the installed ONNX Runtime {onnxruntime.__version__} has no {_NAMES[kind]}, it has "
        f"{', '.join(available)}; for a GPU install onnxruntime-gpu in the place of onnxruntime: "
        "pip uninstall onnxruntime && pip install onnxruntime-gpu"
    )


def load_libraries(onnxruntime: ModuleType, kind: ProviderKind) -> None:
    """Loads CUDA and cuDNN from NVIDIA's wheels, where they are installed.

    What is missing is printed by ONNX Runtime; ``check_used`` says it better.
    """
    if kind != "cpu" and hasattr(onnxruntime, "preload_dlls"):
        with redirect_stdout(StringIO()):
            onnxruntime.preload_dlls()


def check_used(session: Any, kind: ProviderKind) -> None:
    """Refuses a session that ONNX Runtime made without the provider that was asked for.

    Raises:
        DeploymentError: the session computes with something else.
    """
    used = session.get_providers()
    if used and used[0] == _NAMES[kind]:
        return
    libraries = {
        "cuda": "CUDA 13 and cuDNN 9 (pip install 'onnxruntime-gpu[cuda,cudnn]')",
        "tensorrt": "TensorRT 10 (libnvinfer.so.10), CUDA 13 and cuDNN 9",
    }
    raise DeploymentError(
        f"ONNX Runtime could not load its {_NAMES[kind]} and would compute with "
        f"{', '.join(used) or 'nothing'}; it needs an NVIDIA driver and "
        f"{libraries.get(kind, 'nothing else')}"
    )
