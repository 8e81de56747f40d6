"""Runs towers and their reference over samples, and certifies what export has written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cliprt._errors import FidelityError
from cliprt_export._certificate import (
    REFERENCE,
    SCHEMA,
    Bars,
    Certificate,
    MeasuredOn,
    cpu,
    measured_on,
    runtime,
)
from cliprt_export._drift import describe_drift, layer_drift
from cliprt_export._emulation import tower_to_measure
from cliprt_export._fidelity import Fidelity, cosines, fidelity, largest_difference, top1
from cliprt_export._model import ClipModel, ImageSide, TextSide
from cliprt_export._plan import Plan, feed_of
from cliprt_export._precision import QUANTISED, PrecisionName
from cliprt_export._reference import embed
from cliprt_export._samples import Inputs, Samples

Floats: TypeAlias = NDArray[np.float32]
Run: TypeAlias = Callable[[Inputs], Floats]
"""Embeds a batch: a tower, or the reference."""

Progress: TypeAlias = Callable[[str], None]

# Small, so that the reference's intermediate values stay small; a matrix product of a tower is wide
# enough at that.
_BATCH = {"image": 8, "text": 32}

_ALONE = 2
"""How many items are embedded alone."""

_LENGTHS = 12
"""How many lengths of text are embedded with and without padding."""

_DRIFTERS = 3
"""How many items, the worst ones, are followed through the layers."""


def reference_run(side: ImageSide | TextSide) -> Run:
    """The original weights as a tower."""
    return lambda inputs: embed(side.tower, side.tensors, inputs)


def embed_samples(run: Run, samples: Samples, progress: Progress = lambda done: None) -> Floats:
    """Embeds all items in small batches of texts of similar length.

    Args:
        run: a tower or the reference.
        samples: its inputs.
        progress: told how far it is, ``16 of 128``.

    Returns:
        float32 [n, dim], in the order of the samples.
    """
    done, rows = 0, dict[int, Floats]()
    for places in _batches(samples):
        found = run(trimmed(samples, places))
        rows |= dict(zip(places.tolist(), found, strict=True))
        done += len(places)
        progress(f"{done} of {len(samples)}")
    return np.stack([rows[place] for place in range(len(samples))])


def measure(
    run: Run,
    samples: Samples,
    reference: Floats,
    accuracy: tuple[float, float] | None = None,
    found: Floats | None = None,
) -> Fidelity:
    """All figures of a tower.

    Args:
        run: the tower.
        samples: its inputs.
        reference: float32 [n, dim], what the original weights answer.
        accuracy: zero-shot accuracy of the reference and of the tower, in percent.
        found: the tower's answers, if they are known already.
    """
    found = embed_samples(run, samples) if found is None else found
    return fidelity(
        reference,
        found,
        single_vs_batch=_single_vs_batch(run, samples, found),
        padding=_padding(run, samples),
        top1=accuracy,
    )


def certify(
    folder: Path,
    model: ClipModel,
    precisions: list[PrecisionName],
    *,
    plan: Plan,
    bars: Bars,
    on_step: Callable[[str], None] = lambda step: None,
) -> Certificate:
    """Measures every tower of a folder against the original weights.

    Args:
        folder: holds ``image.fp32.onnx`` and so on.
        model: the original weights and preprocessing.
        precisions: which files there are.
        plan: what to measure on.
        bars: what to demand.
        on_step: told what is under way.

    Raises:
        FidelityError: a tower misses a bar.
        InvalidInput: a folder of the plan has nothing that can be read.
    """
    towers: dict[str, dict[str, Fidelity]] = {}
    recorded: dict[str, MeasuredOn] = {}
    classes: dict[str, Floats] = {}
    # The text tower first: its embeddings of the classes are the zero-shot classifier.
    for name, side in reversed(model.sides().items()):
        feed = feed_of(side)
        samples = feed.samples(plan, plan.count(side))
        recorded[name] = measured_on(samples)
        told = _told(on_step, f"{name} reference")
        reference = embed_samples(reference_run(side), samples, told)
        prompts = feed.prompts(plan) if model.image else None
        if prompts is not None:
            classes["reference"] = embed_samples(reference_run(side), prompts)
        towers[name] = {}
        for precision in precisions:
            path = folder / f"{name}.{precision}.onnx"
            tower, told = (
                tower_to_measure(path, precision, folder),
                _told(on_step, f"{name} {precision}"),
            )
            found = embed_samples(tower.run, samples, told)
            if prompts is not None:
                classes[precision] = embed_samples(tower.run, prompts)
            accuracy = None
            if name == "image" and "reference" in classes:
                accuracy = accuracies(samples, reference, found, classes, precision)
            figures = measure(tower.run, samples, reference, accuracy, found)
            del tower
            if missed := bars.missed(precision, figures):
                on_step(f"certificate: {name} {precision}, where it drifts")
                inputs = trimmed(samples, worst_items(reference, found))
                drift = describe_drift(
                    layer_drift(path, precision, side, inputs), bars.min_cosine.get(precision, 1.0)
                )
                raise FidelityError(f"{_refusal(name, precision, figures, missed)}. {drift}")
            towers[name][precision] = figures
    return Certificate(
        schema=SCHEMA,
        towers={name: towers[name] for name in model.sides()},
        measured_on={name: recorded[name] for name in model.sides()},
        prompt=plan.prompt if classes else None,
        classes=list(plan.labelled.classes) if plan.labelled and classes else [],
        calibrated_on=sorted(plan.calibrated),
        bars=bars,
        reference=REFERENCE,
        runtime=runtime(),
        cpu=cpu(),
    )


def accuracies(
    samples: Samples, reference: Floats, found: Floats, classes: dict[str, Floats], precision: str
) -> tuple[float, float]:
    """Zero-shot accuracy of the reference and of a precision, in percent."""
    labelled = len(samples.labels)
    return (
        top1(reference[:labelled], classes["reference"], samples.labels),
        top1(found[:labelled], classes[precision], samples.labels),
    )


def worst_items(reference: Floats, found: Floats) -> NDArray[np.int64]:
    """Places of the few items that are farthest from their reference."""
    cosine = np.nan_to_num(cosines(reference, found), nan=-np.inf)
    return np.argsort(cosine, kind="stable")[:_DRIFTERS]


def _refusal(name: str, precision: str, figures: Fidelity, missed: list[str]) -> str:
    way_out = (
        "leave the precision out of --precision, or lower the bar (--min-cosine "
        f"{precision}=..., --min-overlap, --max-top1-loss) if you can live with that"
        if precision != "fp32"
        else "please report it with the name of the checkpoint"
    )
    if precision in QUANTISED:
        way_out = f"calibrate on pictures and texts like your own (--calibrate), {way_out}"
    return (
        f"the {name} tower in {precision} misses the bar, measured on {figures.items} items: "
        f"{'; '.join(missed)}. No bundle was written; {way_out}"
    )


def _told(on_step: Callable[[str], None], what: str) -> Progress:
    return lambda done: on_step(f"certificate: {what}, {done}")


def _batches(samples: Samples) -> Iterator[NDArray[np.int64]]:
    """Places of the items of each batch, texts sorted by length."""
    if samples.lengths is None:
        order, size = np.arange(len(samples)), _BATCH["image"]
    else:
        order, size = np.argsort(samples.lengths, kind="stable"), _BATCH["text"]
    for start in range(0, len(order), size):
        yield order[start : start + size]


def trimmed(samples: Samples, places: NDArray[np.int64]) -> Inputs:
    """Inputs at some places; texts cut to the longest of them."""
    if samples.lengths is None:
        return samples.inputs[places]
    return samples.inputs[places, : int(samples.lengths[places].max())]


def _single_vs_batch(run: Run, samples: Samples, found: Floats) -> float:
    """Largest difference between a few items alone and the same in their batches."""
    places = np.unique(np.linspace(0, len(samples) - 1, _ALONE, dtype=np.int64))
    alone = [run(trimmed(samples, places[index : index + 1])) for index in range(len(places))]
    return largest_difference(found[places], np.concatenate(alone))


def _padding(run: Run, samples: Samples) -> float | None:
    """Largest difference between texts at their own length and filled up to the context."""
    if samples.lengths is None or samples.lengths.min() == samples.inputs.shape[1]:
        return None
    lengths, places = np.unique(samples.lengths, return_index=True)
    chosen = np.unique(np.linspace(0, len(lengths) - 1, _LENGTHS, dtype=np.int64))
    full = run(samples.inputs[places[chosen]])
    own = [
        run(samples.inputs[place : place + 1, :length])
        for length, place in zip(lengths[chosen], places[chosen], strict=True)
    ]
    return largest_difference(full, np.concatenate(own))
