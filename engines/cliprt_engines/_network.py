"""From a tower's graph to a plan: parser, builder, and nothing of files or caches."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from cliprt._errors import EngineError
from cliprt_engines._flavor import Toolkit
from cliprt_engines._inspect import demanded_products, dtype_name
from cliprt_engines._log import collected_errors, said, started, tensorrt_logger
from cliprt_engines._manifest import BuilderOptions, Recipe, TensorEntry

_HARDWARE = {
    "none": "NONE",
    "same-compute-capability": "SAME_COMPUTE_CAPABILITY",
    "ampere-plus": "AMPERE_PLUS",
}
# The library keeps one logger and one registry for the process.
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Phase:
    """How far a phase of a build is.

    Attributes:
        name: as TensorRT calls it.
        parent: the phase that it is part of; None for the whole build.
        done: steps that are done.
        total: steps that it has.
        ended: whether it is over.
    """

    name: str
    parent: str | None
    done: int
    total: int
    ended: bool = False


OnPhase: TypeAlias = Callable[[Phase], None]
Prepare: TypeAlias = Callable[[Any], Callable[[], None]]


@dataclass(frozen=True)
class BuiltPlan:
    """What the builder made.

    Attributes:
        plan: the plan.
        input: what it takes.
        output: what it gives.
        demanded: the type that each product of the graph takes.
    """

    plan: bytes
    input: TensorEntry
    output: TensorEntry
    demanded: dict[str, str]


def build_plan(
    toolkit: Toolkit,
    graph: Path,
    recipe: Recipe,
    on_phase: OnPhase,
    prepare: Prepare | None = None,
) -> BuiltPlan:
    """Builds a plan from an ONNX graph.

    The library works in a thread of its own, so that an interrupt from the keyboard reaches this
    one; the build then ends at its next step.

    Args:
        toolkit: what builds.
        graph: the ONNX file, its weights beside it if it does not hold them itself.
        recipe: profiles, architectures and options.
        on_phase: told how far each phase is, from the library's threads.
        prepare: called with the builder's configuration before it builds; what it returns is
            called once it has built.

    Raises:
        EngineError: the parser or the builder refuses the graph.
    """
    monitor = _monitor(toolkit.api, on_phase)
    outcome: list[BuiltPlan | BaseException] = []
    over = threading.Event()

    def work() -> None:
        try:
            with _one_at_a_time:
                outcome.append(_build(toolkit, graph, recipe, monitor, prepare))
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            outcome.append(error)
        finally:
            over.set()

    threading.Thread(target=work, name="cliprt-build", daemon=True).start()
    interrupt = _wait_for(over, on_interrupt=monitor.cancel)
    if interrupt is not None:
        raise interrupt
    if monitor.failure is not None:
        raise monitor.failure
    (result,) = outcome
    if isinstance(result, BaseException):
        raise result
    return result


def _wait_for(over: threading.Event, on_interrupt: Callable[[], None]) -> BaseException | None:
    """Waits until the builder is out of the library, whatever happens meanwhile.

    Who returned sooner would let the process end, or another one build, while the library still
    works. And no thread is joined with a limit of time: CPython before 3.13 takes a thread whose
    join an interrupt ends for one that is over (bpo-45274).

    Returns:
        The first interrupt from the keyboard; more of them change nothing.
    """
    interrupt: BaseException | None = None
    while True:
        try:
            while not over.wait(0.1):
                pass
        except BaseException as error:  # noqa: BLE001 - raised by the caller
            on_interrupt()
            interrupt = interrupt or error
        else:
            return interrupt


def _build(
    toolkit: Toolkit, graph: Path, recipe: Recipe, monitor: Any, prepare: Prepare | None
) -> BuiltPlan:
    api = toolkit.api
    log = tensorrt_logger(api)
    with collected_errors() as errors:
        named = f"{toolkit.flavor} {toolkit.version}"
        builder = started(api.Builder, log, what=f"the builder of {named}")
        # Needed up to TensorRT 10, ignored from 11 on, where there is no other kind.
        strongly_typed = 1 << int(api.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = builder.create_network(strongly_typed)
        parser = started(api.OnnxParser, network, log, what=f"the parser of {named}")
        if not parser.parse_from_file(str(graph)):
            raise EngineError(_refusal(parser, graph, toolkit, errors))
        taken, given = _sole_tensors(network, graph)
        config = builder.create_builder_config()
        _configure(toolkit, config, recipe)
        for profile in recipe.profiles:
            described = builder.create_optimization_profile()
            described.set_shape(taken.name, *profile.shapes(taken.shape))
            if config.add_optimization_profile(described) < 0:
                raise EngineError(f"{graph.name} does not take the profile {profile}")
        finish = prepare(config) if prepare is not None else None
        config.progress_monitor = monitor
        demanded = demanded_products(network)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise EngineError(
                f"{toolkit.flavor} {toolkit.version} cannot build {graph.name} for "
                f"{' and '.join(recipe.architectures)}: {said(errors)}"
            )
        if finish is not None:
            finish()
        return BuiltPlan(bytes(plan), taken, given, demanded)


def _configure(toolkit: Toolkit, config: Any, recipe: Recipe) -> None:
    api, options = toolkit.api, recipe.options
    config.builder_optimization_level = options.level
    # Products in float32 are there because halves were not exact enough, and TF32 is no more exact.
    config.clear_flag(api.BuilderFlag.TF32)
    # Names and types of layers go into the plan, for the inspector.
    config.profiling_verbosity = api.ProfilingVerbosity.DETAILED
    if toolkit.targets:
        config.num_compute_capabilities = len(recipe.architectures)
        for index, name in enumerate(recipe.architectures):
            config.set_compute_capability(getattr(api.ComputeCapability, name.upper()), index)
    if options.version_compatible:
        config.set_flag(api.BuilderFlag.VERSION_COMPATIBLE)
        # Without this the plan carries a runtime of its own, code that the loader would have to
        # trust.
        config.set_flag(api.BuilderFlag.EXCLUDE_LEAN_RUNTIME)
    if options.hardware != "none":
        level = _HARDWARE[options.hardware]
        config.hardware_compatibility_level = getattr(api.HardwareCompatibilityLevel, level)


def check_options(toolkit: Toolkit, options: BuilderOptions) -> None:
    """Refuses options that a flavour does not have.

    Raises:
        EngineError: it does not have one.
    """
    if toolkit.flavor == "tensorrt":
        return
    for asked, option, instead in (
        (
            options.version_compatible,
            "--version-compatible",
            "build for each version of TensorRT-RTX",
        ),
        (
            options.hardware != "none",
            "--hardware",
            "name several architectures with --target sm86+sm89",
        ),
    ):
        if asked:
            raise EngineError(f"TensorRT-RTX has no {option}; {instead}")


def _sole_tensors(network: Any, graph: Path) -> tuple[TensorEntry, TensorEntry]:
    if (network.num_inputs, network.num_outputs) != (1, 1):
        raise EngineError(
            f"{graph.name} has {network.num_inputs} inputs and {network.num_outputs} outputs; "
            "a tower has one of each"
        )
    return _entry(network.get_input(0)), _entry(network.get_output(0))


def _entry(tensor: Any) -> TensorEntry:
    sizes = tuple(None if size < 0 else int(size) for size in tuple(tensor.shape)[1:])
    return TensorEntry(name=str(tensor.name), dtype=dtype_name(tensor.dtype), shape=sizes)


def _refusal(parser: Any, graph: Path, toolkit: Toolkit, errors: list[str]) -> str:
    found = [parser.get_error(index) for index in range(parser.num_errors)]
    refused = [
        f"node {error.node_name()!r} ({error.node_operator()}): {error.desc()}"
        if error.node_name()
        else str(error.desc())
        for error in found
    ]
    return (
        f"the parser of {toolkit.flavor} {toolkit.version} refuses {graph.name}: "
        f"{said(refused or errors)}"
    )


def _monitor(api: Any, on_phase: OnPhase) -> Any:
    """TensorRT's progress monitor that tells ``on_phase``, and ends a build that was cancelled."""

    class Monitor(api.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            api.IProgressMonitor.__init__(self)
            self._cancelled = False
            self.failure: BaseException | None = None
            # Phases of one name may be under way in several places; the last one is meant.
            self._phases: dict[str, tuple[str | None, int]] = {}
            self._lock = threading.Lock()

        def cancel(self) -> None:
            self._cancelled = True

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self._lock:
                self._phases[phase_name] = (parent_phase, num_steps)
            self._tell(phase_name, 0, False)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._tell(phase_name, step + 1, False)
            return not self._cancelled and self.failure is None

        def phase_finish(self, phase_name: str) -> None:
            self._tell(phase_name, self._phases.get(phase_name, (None, 0))[1], True)

        def _tell(self, name: str, done: int, ended: bool) -> None:
            parent, total = self._phases.get(name, (None, 0))
            try:
                on_phase(Phase(name, parent, done, total, ended))
            # An exception must not pass through the library's frames.
            except BaseException as error:  # noqa: BLE001 - raised again by build_plan
                self.failure = self.failure or error

    return Monitor()
