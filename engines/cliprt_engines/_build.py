"""Engines from a bundle: which ones, from what, for what; built once and kept."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import cast

import msgspec

from cliprt import __version__
from cliprt._bundle import DECISIONS, Bundle, open_bundle
from cliprt._card import FileEntry, ImageSpec, TextSpec
from cliprt._errors import EngineError, InvalidInput
from cliprt_engines._cache import cached_or_built
from cliprt_engines._device import Device, device_at_hand
from cliprt_engines._flavor import Toolkit, find_toolkit
from cliprt_engines._inspect import check_inspection, check_interface, inspect_plan
from cliprt_engines._manifest import (
    SCHEMA,
    BuilderOptions,
    BuiltOn,
    Engine,
    Manifest,
    Recipe,
    TowerName,
)
from cliprt_engines._network import Phase, build_plan, check_options
from cliprt_engines._profiles import Profile, check_profiles, default_profiles, parse_profiles
from cliprt_engines._timing import use_timings, wants_timings

TOWERS: tuple[TowerName, ...] = ("image", "text")

# What TensorRT runs; int8-cpu is made for ONNX Runtime and its zero points are not TensorRT's.
PRECISIONS = ("fp32", "fp16", "int8", "fp8")

_TARGET = re.compile(r"sm[0-9]{2,3}")


@dataclass(frozen=True)
class BuildProgress:
    """How far ``build_engines`` is.

    Attributes:
        engine: name of the engine, as ``Recipe.name``.
        state: ``building``; ``waiting`` for another process that builds it; ``built``; or
            ``there``, when it was there already.
        phase: while it is building, how far a phase of it is.
    """

    engine: str
    state: str
    phase: Phase | None = None


def build_engines(
    bundle: Bundle | str | Path,
    out: str | Path,
    *,
    precisions: Sequence[str] | None = None,
    towers: Sequence[str] | None = None,
    flavor: str | None = None,
    targets: Sequence[str] = (),
    profiles: Mapping[str, str | Sequence[Profile]] | None = None,
    options: BuilderOptions | None = None,
    on_progress: Callable[[BuildProgress], None] = lambda progress: None,
) -> list[Engine]:
    """Builds engines of a bundle's towers, or finds them built already.

    Each engine appears in a folder of its own within ``out``, whole or not at all. One that is
    there and equal in everything that decides what it is, is not built again. Processes that build
    the same engine at once build it once.

    Args:
        bundle: the bundle, or where it is.
        out: the folder of engines.
        precisions: of the towers; None takes fp16.
        towers: image, text or both; None takes all of the bundle.
        flavor: tensorrt or tensorrt-rtx; None takes the first that is installed.
        targets: architectures to build for without a GPU, an engine for each: ``sm89``, or
            ``sm86+sm89`` for an engine that runs on both. TensorRT-RTX only. If empty, the
            engine is for the GPU at hand.
        profiles: by tower, the shapes to build for, as text (see ``parse_profiles``) or as they
            are; there may be some for a tower that is not built. Defaults go by the memory of the
            GPU at hand, and are those of 16 GiB if targets are named: what is built for a target is
            the same on every machine.
        options: of the builder.
        on_progress: told how far it is, from several threads.

    Raises:
        EngineError: TensorRT refuses a tower or an option, an engine computes in float32 what its
            precision promises to narrow, or out cannot be written.
        BundleError: the bundle is damaged, or lacks a tower or precision.
        InvalidInput: a precision, tower, flavour, target or profile that does not exist, profiles
            of a tower that the bundle lacks, or nothing to build.
        MissingExtra: TensorRT is not installed.
    """
    if not str(out):
        raise InvalidInput("out names no folder; '.' is the current one")
    source = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    folder = Path(out).resolve()
    toolkit = find_toolkit(flavor)
    asked = options or BuilderOptions()
    check_options(toolkit, asked)
    device = device_at_hand()
    architectures = _architectures(toolkit, tuple(targets), device)
    wanted = _towers(source, towers)
    shapes = _profiles(source, wanted, profiles or {}, None if targets else device)
    recipes = [
        _recipe(source, tower, precision, toolkit, device, built_for, shapes[tower], asked)
        for built_for in architectures
        for tower in wanted
        for precision in _precisions(precisions)
    ]
    return [_engine(source, folder, toolkit, device, recipe, on_progress) for recipe in recipes]


def _engine(
    bundle: Bundle,
    out: Path,
    toolkit: Toolkit,
    device: Device | None,
    recipe: Recipe,
    on_progress: Callable[[BuildProgress], None],
) -> Engine:
    def tell(state: str, phase: Phase | None = None) -> None:
        on_progress(BuildProgress(recipe.name, state, phase))

    def build() -> tuple[bytes, Manifest]:
        tell("building")
        graph = bundle.file(f"{recipe.tower}.{recipe.precision}.onnx")
        timings = partial(use_timings, out=out, recipe=recipe) if wants_timings(toolkit) else None
        built = build_plan(toolkit, graph, recipe, lambda phase: tell("building", phase), timings)
        here = device is not None and device.architecture in recipe.architectures
        ports = (built.input.name, built.output.name)
        inspection = inspect_plan(toolkit, built.plan, built.demanded, ports, gpu=here)
        check_interface(inspection, recipe, built.input, built.output)
        islands = _islands(bundle, recipe)
        check_inspection(inspection, tower=graph.name, precision=recipe.precision, islands=islands)
        manifest = Manifest(
            schema=SCHEMA,
            model=bundle.card.name,
            recipe=recipe,
            plan=FileEntry(sha256=hashlib.sha256(built.plan).hexdigest(), size=len(built.plan)),
            input=built.input,
            output=built.output,
            products=inspection.counts(),
            widened=inspection.widened_counts(),
            fused_attentions=inspection.fused_attentions,
            inspected=inspection.source,
            built_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )
        return built.plan, manifest

    engine, fresh = cached_or_built(out, recipe, build, lambda: tell("waiting"))
    tell("built" if fresh else "there")
    return engine


def _recipe(
    bundle: Bundle,
    tower: TowerName,
    precision: str,
    toolkit: Toolkit,
    device: Device | None,
    architectures: tuple[str, ...],
    profiles: tuple[Profile, ...],
    options: BuilderOptions,
) -> Recipe:
    graph = f"{tower}.{precision}.onnx"
    if graph not in bundle.card.files:
        raise EngineError(
            f"{bundle.path} has no {graph}; export it with: cliprt export CHECKPOINT --out BUNDLE "
            f"--precision {precision}"
        )
    # An engine made ahead of time does not depend on the GPU that happens to be there.
    timed = device if toolkit.flavor == "tensorrt" else None
    return Recipe(
        cliprt=__version__,
        space=bundle.card.space,
        tower=tower,
        precision=precision,
        files={name: bundle.card.files[name] for name in (graph, *bundle.weights_of(graph))},
        profiles=profiles,
        flavor=toolkit.flavor,
        version=toolkit.version,
        architectures=architectures,
        built_on=None if timed is None else BuiltOn(timed.name, timed.cuda, timed.driver),
        options=options,
    )


def _profiles(
    bundle: Bundle,
    towers: Sequence[TowerName],
    asked: Mapping[str, str | Sequence[Profile]],
    device: Device | None,
) -> dict[TowerName, tuple[Profile, ...]]:
    """The profiles of each tower; those that were not asked for go by the memory of a GPU."""
    for name in asked:
        if name not in (there := _towers(bundle, None)):
            raise InvalidInput(
                f"there are profiles for the tower {name!r}, and the bundle has only "
                f"{' and '.join(there)}"
            )
    found: dict[TowerName, tuple[Profile, ...]] = {}
    for tower in towers:
        spec, profiles = _spec(bundle, tower), asked.get(tower)
        if profiles is None:
            found[tower] = default_profiles(spec, None if device is None else device.memory_bytes)
        elif isinstance(profiles, str):
            found[tower] = parse_profiles(profiles, spec)
        else:
            check_profiles(profiles, spec)
            found[tower] = tuple(profiles)
    return found


def _spec(bundle: Bundle, tower: TowerName) -> ImageSpec | TextSpec:
    spec = bundle.card.image if tower == "image" else bundle.card.text
    assert spec is not None
    return spec


def _towers(bundle: Bundle, asked: Sequence[str] | None) -> list[TowerName]:
    specs = {"image": bundle.card.image, "text": bundle.card.text}
    there = [name for name in TOWERS if specs[name] is not None]
    if asked is not None and not asked:
        raise InvalidInput(f"no tower is named; there are {', '.join(TOWERS)}")
    for name in asked or ():
        if name not in TOWERS:
            raise InvalidInput(f"there is no tower {name!r}; there are {', '.join(TOWERS)}")
        if name not in there:
            raise EngineError(f"{bundle.path} has only the {there[0]} tower")
    return [name for name in there if asked is None or name in asked]


def _precisions(asked: Sequence[str] | None) -> list[str]:
    wanted = ("fp16",) if asked is None else tuple(asked)
    if not wanted:
        raise InvalidInput(f"no precision is named; there are {', '.join(PRECISIONS)}")
    for name in wanted:
        if name not in PRECISIONS:
            reason = "it is for ONNX Runtime" if name == "int8-cpu" else "it does not exist"
            raise InvalidInput(
                f"no engine has the precision {name!r}: {reason}; there are {', '.join(PRECISIONS)}"
            )
    return [name for name in PRECISIONS if name in wanted]


def _architectures(
    toolkit: Toolkit, targets: Sequence[str], device: Device | None
) -> list[tuple[str, ...]]:
    """The architectures of each engine to build."""
    if toolkit.flavor == "tensorrt":
        if targets:
            raise EngineError(
                "tensorrt builds for the GPU at hand and takes no target; build on a machine with "
                "such a GPU, or with --flavor tensorrt-rtx"
            )
        if device is None:
            raise EngineError(
                "tensorrt builds for the GPU at hand, and there is none; without a GPU build with "
                "--flavor tensorrt-rtx --target sm89"
            )
        return [(device.architecture,)]
    if not targets:
        if device is None:
            raise EngineError(
                "there is no GPU to build for; name one with --target, sm89 for instance; "
                f"TensorRT-RTX has {', '.join(toolkit.targets)}"
            )
        targets = (device.architecture,)
    return [_together(toolkit, target) for target in dict.fromkeys(targets)]


def _together(toolkit: Toolkit, target: str) -> tuple[str, ...]:
    names = target.split("+")
    for name in names:
        if name not in toolkit.targets:
            known = ", ".join(toolkit.targets)
            wrong, instead = "is not written like sm89", ""
            if _TARGET.fullmatch(name):
                wrong = "is no target"
                instead = "; on such a GPU itself TensorRT may build for it, with --flavor tensorrt"
            raise InvalidInput(
                f"{name!r} {wrong} of {toolkit.flavor} {toolkit.version}: {known}{instead}"
            )
    return tuple(name for name in toolkit.targets if name in names)


def _islands(bundle: Bundle, recipe: Recipe) -> list[str]:
    """Parts that the export kept in float32 because of values seen there."""
    if DECISIONS not in bundle.card.files:
        return []
    decisions = msgspec.json.decode(bundle.file(DECISIONS).read_bytes())
    try:
        return cast("list[str]", decisions[recipe.tower][recipe.precision]["islands"])
    except (KeyError, TypeError):
        raise EngineError(
            f"{DECISIONS} of {bundle.path} says nothing of {recipe.tower} {recipe.precision}; "
            "export the checkpoint again"
        ) from None
