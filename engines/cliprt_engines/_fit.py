"""Does an engine fit what is at hand: the bundle, TensorRT, the GPU and its driver?"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cliprt._bundle import Bundle
from cliprt_engines._device import Device
from cliprt_engines._flavor import Toolkit

if TYPE_CHECKING:
    from cliprt_engines._manifest import Recipe

ARCHITECTURE = "architecture"


@dataclass(frozen=True)
class Mismatch:
    """In what an engine does not fit.

    Attributes:
        what: differs.
        built: what it was built with or for.
        here: what is at hand.
        of_bundle: whether it is the bundle that it does not fit, and not the machine.
    """

    what: str
    built: str
    here: str
    of_bundle: bool = False


def first_mismatch(
    recipe: Recipe, *, bundle: Bundle | None, toolkit: Toolkit, device: Device | None
) -> Mismatch | None:
    """The first thing in which an engine does not fit what is at hand; None if it fits.

    Args:
        recipe: the engine's.
        bundle: the bundle that it must have been built from; None compares no bundle.
        toolkit: what is to load it.
        device: what is to run it; None compares no GPU.
    """
    if bundle is not None and (found := _of_bundle(recipe, bundle)) is not None:
        return found
    if recipe.flavor != toolkit.flavor:
        return Mismatch("TensorRT", recipe.flavor, toolkit.flavor)
    if recipe.version != toolkit.version and not _loads(recipe, toolkit.version):
        return Mismatch(recipe.flavor, recipe.version, toolkit.version)
    return None if device is None else _of_device(recipe, device)


def _of_bundle(recipe: Recipe, bundle: Bundle) -> Mismatch | None:
    if recipe.space != bundle.card.space:
        return Mismatch("space", recipe.space, bundle.card.space, of_bundle=True)
    for name, entry in recipe.files.items():
        found = bundle.card.files.get(name)
        if found != entry:
            here = f"missing in {bundle.path}" if found is None else found.sha256
            return Mismatch(f"SHA-256 of {name}", entry.sha256, here, of_bundle=True)
    return None


def _of_device(recipe: Recipe, device: Device) -> Mismatch | None:
    if device.architecture not in recipe.architectures and not _runs(recipe, device.architecture):
        built_for = " and ".join(recipe.architectures)
        return Mismatch(ARCHITECTURE, built_for, f"{device.architecture} ({device.name})")
    timed_on = recipe.built_on
    if timed_on is None:
        return None
    for what, then, now in (
        ("CUDA of the driver", timed_on.cuda, device.cuda),
        ("driver", timed_on.driver, device.driver),
    ):
        # A newer driver runs what an older one ran; NVIDIA promises nothing the other way.
        if then is not None and now is not None and _numbers(now) < _numbers(then):
            return Mismatch(what, then, f"the older {now}")
    if recipe.options.hardware == "none" and timed_on.gpu != device.name:
        return Mismatch("GPU", timed_on.gpu, device.name)
    return None


def _loads(recipe: Recipe, version: str) -> bool:
    """Whether another version of TensorRT loads a plan.

    Only one that was built to be compatible: the same major from that version on, and of all other
    pairs of majors TensorRT 11 the plans of 10.
    """
    if not recipe.options.version_compatible:
        return False
    then, now = _numbers(recipe.version), _numbers(version)
    return (now[0] == then[0] and now >= then) or (then[0], now[0]) == (10, 11)


def _runs(recipe: Recipe, architecture: str) -> bool:
    """Whether another architecture runs a plan that was built for several."""
    built_for = [int(name.removeprefix("sm")) for name in recipe.architectures]
    here = int(architecture.removeprefix("sm"))
    return recipe.options.hardware == "ampere-plus" and here >= 80 and min(built_for) >= 80


def _numbers(version: str) -> list[int]:
    # Of a manifest: whatever else it holds is no number.
    return [int(part) for part in version.split(".") if re.fullmatch("[0-9]{1,9}", part)]
