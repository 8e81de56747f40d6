"""Which engines of a folder go into a repository: one for each architecture, all of one shape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cliprt._bundle import Bundle
from cliprt._card import ImageSpec, TextSpec
from cliprt._errors import EngineError

if TYPE_CHECKING:
    from cliprt_engines import Engine

_ANY_GPU = "model.plan"
"""What Triton takes on a GPU whose compute capability has no file of its own."""


@dataclass(frozen=True)
class TowerPlans:
    """The plans of a tower.

    Attributes:
        files: by the name in the model's folder, the plan.
        by_capability: by compute capability (``8.9``), the name of the plan for it.
        profiles: how many profiles each of them has.
        max_batch_size: items that all of them take in their first profile.
        lengths: ascending, to which texts are filled up so that they meet; the last is the
            context's. Empty where the length is fixed, or there is none.
    """

    files: Mapping[str, Path]
    by_capability: Mapping[str, str]
    profiles: int
    max_batch_size: int
    lengths: tuple[int, ...]


def find_plans(
    bundle: Bundle, folder: Path, precision: str | None
) -> tuple[str, dict[str, TowerPlans]]:
    """The plans of a bundle's towers in a folder that ``cliprt build`` filled.

    Args:
        bundle: that they must be built from.
        folder: with the engines.
        precision: of the towers; None takes that of the engines if they have but one.

    Returns:
        The precision, and the plans by tower. Each plan is the one that its manifest vouches for.

    Raises:
        EngineError: an engine is missing, cannot be told from another, or must not be loaded.
    """
    from cliprt_engines import find_engines

    engines = find_engines(folder)
    unfit = {engine.path.name: reason for engine in engines if (reason := _unfit(engine, bundle))}
    fit = [engine for engine in engines if engine.path.name not in unfit]
    if not fit:
        name, reason = next(iter(unfit.items()))
        raise EngineError(
            f"no engine in {folder} can be served from this bundle; {name}, for instance, {reason}"
        )
    chosen = precision or _only_precision(fit, folder)
    found = {}
    for tower, spec in (("image", bundle.card.image), ("text", bundle.card.text)):
        if spec is None:
            continue
        of_tower = [engine for engine in fit if engine.manifest.recipe.tower == tower]
        these = [engine for engine in of_tower if engine.manifest.recipe.precision == chosen]
        if not these:
            raise EngineError(
                f"{folder} has no engine of the {tower} tower in {chosen} for this bundle"
                f"{_others(of_tower)}; build it with: "
                f"cliprt build {bundle.path} --tower {tower} --precision {chosen} --out {folder}"
            )
        found[tower] = _plans(these, spec)
    return chosen, found


def _unfit(engine: Engine, bundle: Bundle) -> str | None:
    """Why an engine cannot serve a bundle in Triton; None if it can."""
    recipe = engine.manifest.recipe
    if recipe.flavor != "tensorrt":
        return (
            f"is for {recipe.flavor}, whose plans Triton does not load: build it on the GPU that "
            "is to run it, with --flavor tensorrt"
        )
    if recipe.space != bundle.card.space:
        return f"is of the space {recipe.space}, the bundle of {bundle.card.space}"
    for name, entry in recipe.files.items():
        if bundle.card.files.get(name) != entry:
            return f"was built from another {name} than the bundle holds"
    return None


def _only_precision(engines: Sequence[Engine], folder: Path) -> str:
    precisions = sorted({engine.manifest.recipe.precision for engine in engines})
    if len(precisions) > 1:
        raise EngineError(
            f"{folder} has engines in {' and '.join(precisions)}; say which with --precision"
        )
    return precisions[0]


def _others(engines: Sequence[Engine]) -> str:
    precisions = sorted({engine.manifest.recipe.precision for engine in engines})
    return f" (it has {', '.join(precisions)})" if precisions else ""


def _plans(engines: Sequence[Engine], spec: ImageSpec | TextSpec) -> TowerPlans:
    """The plans of engines that differ in nothing but the architecture."""
    recipes = [engine.manifest.recipe for engine in engines]
    targets = Counter(target for recipe in recipes for target in recipe.architectures)
    for target, count in targets.items():
        if count > 1:
            names = [each.path.name for each in engines if target in _architectures(each)]
            raise EngineError(
                f"{count} engines are for {target}: {', '.join(names)}; keep the one to be served "
                f"in a folder of its own and name that folder"
            )
    versions = sorted({recipe.version for recipe in recipes})
    if len(versions) > 1:
        raise EngineError(
            f"the engines are of TensorRT {' and '.join(versions)}; one Triton loads the plans of "
            "one version"
        )
    firsts = [recipe.profiles[0] for recipe in recipes]
    files: dict[str, Path] = {}
    by_capability: dict[str, str] = {}
    for engine in engines:
        recipe = engine.manifest.recipe
        name = f"{'-'.join(recipe.architectures)}.plan"
        if recipe.options.hardware == "ampere-plus":
            # Only those of sm80 and later may have it, so that it is not listed by architecture
            # alone: it serves each of them that has no plan of its own.
            name = _ANY_GPU
        files[name] = engine.checked_plan()
        by_capability |= {_capability(target): name for target in recipe.architectures}
    return TowerPlans(
        files=files,
        by_capability=by_capability,
        profiles=_same_profiles(engines),
        max_batch_size=min(first.batch.most for first in firsts),
        lengths=_lengths(engines, spec),
    )


def _architectures(engine: Engine) -> tuple[str, ...]:
    return engine.manifest.recipe.architectures


def _same_profiles(engines: Sequence[Engine]) -> int:
    """How many profiles the engines have: their numbers stand in one configuration for all."""
    counts = {len(engine.manifest.recipe.profiles) for engine in engines}
    if len(counts) > 1:
        raise EngineError(
            f"{' and '.join(engine.path.name for engine in engines)} have different numbers of "
            "profiles, which one model cannot list; build them with the same --profiles"
        )
    return counts.pop()


def _lengths(engines: Sequence[Engine], spec: ImageSpec | TextSpec) -> tuple[int, ...]:
    """To which lengths texts are filled up: what profiles of all engines end at."""
    if isinstance(spec, ImageSpec) or spec.fixed_length:
        return ()
    ends = []
    for engine in engines:
        profiles = engine.manifest.recipe.profiles
        lengths = {profile.length.most for profile in profiles if profile.length is not None}
        if spec.context_length not in lengths:
            raise EngineError(
                f"{engine.path.name} takes texts of at most {max(lengths, default=0)} tokens, the "
                f"model has {spec.context_length}; build it with a profile for those"
            )
        ends.append(lengths)
    return tuple(sorted(set.intersection(*ends)))


def _capability(architecture: str) -> str:
    """``sm89`` to ``8.9``, ``sm120`` to ``12.0``: as Triton writes it."""
    digits = architecture.removeprefix("sm")
    return f"{digits[:-1]}.{digits[-1]}"
