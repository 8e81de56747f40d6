"""A plan in the hands of TensorRT: deserialised, compared with its manifest, ready for contexts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cliprt._errors import EngineError, EngineMismatch
from cliprt_engines._cuda import Cuda
from cliprt_engines._flavor import Toolkit
from cliprt_engines._jit_cache import JitCache
from cliprt_engines._log import collected_errors, started, tensorrt_logger
from cliprt_engines._manifest import OpenedEngine, TensorEntry

_DTYPES = {"UINT8": "uint8", "INT32": "int32", "FLOAT": "float32"}
_COMPLAINTS = 4
"""How many of TensorRT's last complaints an error quotes."""


class LoadedPlan:
    """An engine that TensorRT has deserialised.

    Attributes:
        input: what it takes.
        output: what it gives.
        profiles: the shapes that it takes.
        dynamic: whether the length of its input may change.
        captures_itself: whether its contexts capture and replay CUDA graphs on their own, as those
            of TensorRT-RTX do.
    """

    def __init__(self, opened: OpenedEngine, toolkit: Toolkit, cuda: Cuda, *, graphs: bool) -> None:
        """Deserialises a plan that its manifest vouches for.

        Args:
            opened: the plan.
            toolkit: the TensorRT of its flavour.
            cuda: the GPU.
            graphs: whether contexts that capture graphs on their own shall do so.

        Raises:
            EngineMismatch: it was built by another version, to be compatible with this one.
            EngineError: TensorRT refuses the plan, or it is not what the manifest says.
        """
        manifest = opened.manifest
        self.input, self.output = manifest.input, manifest.output
        self.profiles = manifest.recipe.profiles
        self.dynamic = None in manifest.input.shape
        self.captures_itself = toolkit.flavor == "tensorrt-rtx"
        self._api, self._engine_path = toolkit.api, opened.engine.path
        _check_version(opened, toolkit)
        cuda.select()
        log = tensorrt_logger(toolkit.api)
        named = f"the runtime of {toolkit.flavor} {toolkit.version}"
        self._runtime: Any = started(toolkit.api.Runtime, log, what=named)
        with self._named("deserialise the plan") as errors:
            self._engine = self._runtime.deserialize_cuda_engine(opened.plan)
            if self._engine is None:
                errors.extend(_verdict(toolkit.api, self._runtime, opened.plan))
                raise _Refused
        self._check()
        self._config: Any = None
        self._jit: JitCache | None = None
        if self.captures_itself:
            self._config = self._engine.create_runtime_config()
            strategies = toolkit.api.CudaGraphStrategy
            self._config.cuda_graph_strategy = (
                strategies.WHOLE_GRAPH_CAPTURE if graphs else strategies.DISABLED
            )
            self._jit = JitCache(manifest.plan.sha256, toolkit.version, cuda.device)
            self._jit.use_in(self._config)

    @property
    def shared_memory_bytes(self) -> int:
        """Memory that one context needs at a time and that contexts of a worker may share.

        0 where contexts bring their own: those of TensorRT-RTX compile kernels as they go.
        """
        return 0 if self.captures_itself else int(self._engine.device_memory_size_v2)

    def context(self, memory: int) -> Any:
        """A new execution context.

        Args:
            memory: address of ``shared_memory_bytes`` bytes on the GPU.

        Raises:
            EngineError: TensorRT makes none, for want of memory for instance.
        """
        with self._named("make an execution context"):
            if self.captures_itself:
                context = self._engine.create_execution_context(self._config)
            else:
                user_managed = self._api.ExecutionContextAllocationStrategy.USER_MANAGED
                context = self._engine.create_execution_context(user_managed)
            if context is None:
                raise _Refused
        if self.shared_memory_bytes:
            context.set_device_memory(memory, self.shared_memory_bytes)
        return context

    def enqueue(
        self,
        context: Any,
        profile: int | None,
        shape: tuple[int, ...] | None,
        addresses: tuple[int, int] | None,
        stream: int,
    ) -> None:
        """Begins a run of a context.

        Args:
            context: one of this plan's.
            profile: number of the profile to change to; None stays.
            shape: of the input; None is the one before.
            addresses: of input and output on the GPU; None are those before.
            stream: number of the stream.

        Raises:
            EngineError: TensorRT refuses.
        """
        with self._named(f"run profile {profile} with an input of {shape}"):
            if profile is not None and not context.set_optimization_profile_async(profile, stream):
                raise _Refused
            if shape is not None and not context.set_input_shape(self.input.name, shape):
                raise _Refused
            for tensor, address in zip((self.input, self.output), addresses or (), strict=False):
                if not context.set_tensor_address(tensor.name, address):
                    raise _Refused
            if not context.execute_async_v3(stream):
                raise _Refused

    def close(self) -> None:
        """Keeps what TensorRT-RTX has compiled, and lets the engine go. Contexts go before it."""
        if self._jit is not None:
            self._jit.keep()
        self._jit = self._config = self._engine = self._runtime = None

    def _check(self) -> None:
        """Refuses an engine whose inputs, outputs or profiles are not those of the manifest."""
        engine, api = self._engine, self._api
        names = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
        if names != {self.input.name, self.output.name}:
            raise self._other("inputs and outputs", (self.input.name, self.output.name), names)
        modes = ((self.input, api.TensorIOMode.INPUT), (self.output, api.TensorIOMode.OUTPUT))
        for tensor, mode in modes:
            found = self._entry(tensor.name)
            if engine.get_tensor_mode(tensor.name) != mode or found != tensor:
                raise self._other(tensor.name, tensor, found)
        profiles = [self._profile(number) for number in range(engine.num_optimization_profiles)]
        wanted = [profile.shapes(self.input.shape) for profile in self.profiles]
        if profiles != wanted:
            raise self._other("profiles", wanted, profiles)

    def _entry(self, name: str) -> TensorEntry:
        dtype = self._engine.get_tensor_dtype(name).name
        sizes = tuple(self._engine.get_tensor_shape(name))[1:]
        shape = tuple(None if size < 0 else int(size) for size in sizes)
        return TensorEntry(name=name, dtype=_DTYPES.get(dtype, dtype.lower()), shape=shape)

    def _profile(self, number: int) -> tuple[tuple[int, ...], ...]:
        spans = self._engine.get_tensor_profile_shape(self.input.name, number)
        return tuple(tuple(int(size) for size in span) for span in spans)

    def _other(self, what: str, wanted: object, found: object) -> EngineError:
        return EngineError(
            f"the plan of {self._engine_path} is not what its manifest says: its {what} should be "
            f"{wanted} and are {found}"
        )

    @contextmanager
    def _named(self, what: str) -> Iterator[list[str]]:
        """Turns a refusal into an error that says what TensorRT logged."""
        with collected_errors() as errors:
            try:
                yield errors
            except _Refused:
                said = "; ".join(errors[:_COMPLAINTS]) or "it does not say why"
                raise EngineError(
                    f"TensorRT cannot {what}, for {self._engine_path}: {said}"
                ) from None


def _check_version(opened: OpenedEngine, toolkit: Toolkit) -> None:
    """Refuses what only TensorRT's lean runtime of another version loads, as in Triton."""
    built = opened.manifest.recipe.version
    if built != toolkit.version:
        raise EngineMismatch(
            f"{opened.engine.path} is compatible with {toolkit.flavor} {toolkit.version}, but was "
            f"built by {built}, whose lean runtime would have to load it: a Triton that has it "
            f"can, cliprt itself cannot; build it again with: {opened.engine.rebuild}"
        )


class _Refused(Exception):
    """TensorRT answered that something did not work."""


def _verdict(api: Any, runtime: Any, plan: bytes) -> list[str]:
    """What TensorRT-RTX finds wrong with a plan by its header; nothing with plain TensorRT."""
    if not hasattr(runtime, "get_engine_validity"):
        return []
    validity, diagnostics = runtime.get_engine_validity(plan)
    kinds = api.EngineInvalidityDiagnostics.__members__
    found = [name.lower() for name, bit in kinds.items() if int(diagnostics) & int(bit)]
    return [f"by its header the plan is {', '.join([validity.name.lower(), *found])}"]
