"""A stand-in for TensorRT beside that for CUDA, see cuda_stand_in.py.

A plan is JSON that names an ONNX tower; contexts run that tower on the stand-in's memory.
"""

from __future__ import annotations

import enum
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from cuda_stand_in import StandInCuda

from cliprt_engines import OnnxTower

MEMORY_BYTES = 4096


class TensorIOMode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC = 0
    USER_MANAGED = 2


class ILogger:
    class Severity(enum.IntEnum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2


class CudaGraphStrategy(enum.Enum):
    DISABLED = 0
    WHOLE_GRAPH_CAPTURE = 1


class RuntimeCache:
    """Of TensorRT-RTX: holds what it was given, and one kernel for every context made with it."""

    def __init__(self) -> None:
        self.content = b""

    def deserialize(self, blob: bytes) -> bool:
        self.content = bytes(blob)
        return True

    def serialize(self) -> bytes:
        return self.content


class RuntimeConfig:
    """Of TensorRT-RTX."""

    def __init__(self) -> None:
        self.cuda_graph_strategy = CudaGraphStrategy.DISABLED
        self.cache: RuntimeCache | None = None

    def create_runtime_cache(self) -> RuntimeCache:
        return RuntimeCache()

    def set_runtime_cache(self, cache: RuntimeCache) -> bool:
        self.cache = cache
        return True


class Context:
    def __init__(self, engine: Engine) -> None:
        self.engine, self.profile = engine, 0
        self.shape: tuple[int, ...] | None = None
        self.addresses: dict[str, int] = {}
        self.memory = 0
        self.changes = 0

    def set_device_memory(self, memory: int, size: int) -> None:
        assert size == MEMORY_BYTES
        self.memory = memory

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self.profile, self.shape = profile_index, None
        self.changes += 1
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self.engine.plan["profiles"][self.profile]
        inside = all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True))
        if inside:
            self.shape = tuple(shape)
            self.changes += 1
        return inside

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if self.addresses.get(name) != memory:
            self.addresses[name] = memory
            self.changes += 1
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        cuda, engine = self.engine.cuda, self.engine
        if self.shape is None or not self.memory:
            engine.logger.log(ILogger.Severity.ERROR, "shapes or memory are missing")
            return False
        shape, changes = self.shape, self.changes
        captured = cuda.streams[stream_handle].captured is not None
        source, target = self.addresses[engine.input], self.addresses[engine.output]

        def work() -> None:
            # A graph whose context was changed since computes nothing that is of use.
            if captured and self.changes != changes:
                return
            batch = cuda.array(source, shape, engine.dtype)
            answers = engine.tower.run(np.array(batch))
            cuda.array(target, answers.shape, np.float32)[...] = answers

        cuda.compute(cuda.streams[stream_handle], self.memory, work)
        return True


class Engine:
    def __init__(self, plan: dict[str, Any], cuda: StandInCuda, logger: Any) -> None:
        self.plan, self.cuda, self.logger = plan, cuda, logger
        self.tower = OnnxTower(Path(plan["onnx"]), threads=1)
        info = self.tower.info
        self.input, self.output, self.dtype = info.input, "embedding", info.dtype
        self._shapes = {
            self.input: (-1, *(-1 if size is None else size for size in info.shape)),
            self.output: (-1, info.dim),
        }
        self.num_io_tensors = 2
        self.num_optimization_profiles = len(plan["profiles"])
        self.device_memory_size_v2 = MEMORY_BYTES

    def get_tensor_name(self, index: int) -> str:
        return (self.input, self.output)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name == self.input else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        names = {"uint8": "UINT8", "int32": "INT32"}
        return SimpleNamespace(name=names[self.dtype] if name == self.input else "FLOAT")

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        return [tuple(shape) for shape in self.plan["profiles"][profile_index]]

    def create_runtime_config(self) -> RuntimeConfig:
        self.config = RuntimeConfig()
        return self.config

    def create_execution_context(self, how: Any) -> Context:
        context = Context(self)
        if isinstance(how, RuntimeConfig):
            assert how.cache is not None
            how.cache.content += b"kernel "
            # Contexts of RTX bring their own memory.
            context.memory = id(context)
        else:
            assert how is ExecutionContextAllocationStrategy.USER_MANAGED
        return context


def stand_in_tensorrt(cuda: StandInCuda) -> ModuleType:
    """A module such as ``tensorrt``, whose engines run on the stand-in for CUDA."""

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> Engine | None:
            plan = json.loads(serialized_engine)
            if "onnx" not in plan:
                self.logger.log(ILogger.Severity.ERROR, "this is no plan of mine")
                return None
            return Engine(plan, cuda, self.logger)

    module = ModuleType("stand_in_tensorrt")
    for name, value in {
        "ILogger": ILogger,
        "Runtime": Runtime,
        "CudaGraphStrategy": CudaGraphStrategy,
        "TensorIOMode": TensorIOMode,
        "ExecutionContextAllocationStrategy": ExecutionContextAllocationStrategy,
    }.items():
        setattr(module, name, value)
    return module
