"""Checkpoint to bundle: the road from end to end."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cliprt import __version__
from cliprt._bundle import (
    CARD,
    CERTIFICATE,
    DECISIONS,
    GOLDEN,
    TOKENIZER,
    Bundle,
    sha256_of,
)
from cliprt._card import SCHEMA, Card, FileEntry, decode_card, encode_card
from cliprt._errors import BundleError, InvalidInput
from cliprt._extras import require
from cliprt._folders import folder_that_becomes
from cliprt_export._certificate import Bars, encode_certificate
from cliprt_export._checkpoint import find_checkpoint
from cliprt_export._families import read_model
from cliprt_export._golden import known_answers, save_golden
from cliprt_export._graph import OPSET
from cliprt_export._measure import certify
from cliprt_export._model import ClipModel
from cliprt_export._own_items import check_folder_of_items, find_labelled
from cliprt_export._plan import PROMPT, Plan, calibration_items
from cliprt_export._precision import PRECISIONS, QUANTISED, PrecisionName
from cliprt_export._random import random_model
from cliprt_export._samples import Samples
from cliprt_export._space import identity_of, space_of
from cliprt_export._variants import encode_decisions, write_variants

STEPS = ("known answers", "calibration", "image tower", "text tower", "certificate", "identity")
"""What export reports as it goes; a step may be followed by a colon and how far it is."""


def export_checkpoint(
    source: str | Path,
    out: str | Path,
    *,
    precisions: Sequence[PrecisionName] = ("fp32",),
    family: str | None = None,
    revision: str | None = None,
    calibrate: str | Path | None = None,
    evaluate: str | Path | None = None,
    prompt: str = PROMPT,
    samples: int | None = None,
    bars: Bars | None = None,
    overwrite: bool = False,
    on_step: Callable[[str], None] = lambda step: None,
) -> Bundle:
    """Turns a checkpoint into a bundle. The bundle appears whole or not at all.

    Args:
        source: a folder in Hugging Face format, or a hub id.
        out: the folder to write. Its parent is created.
        precisions: which variants of each tower to write; fp32 is always among them.
        family: reads the folder as that family, where it holds a model in more than one form; None
            takes the first that fits.
        revision: branch, tag or commit of a hub repository.
        calibrate: a folder of pictures and of ``.txt`` files with a text on each line, such as the
            model will see. Three quarters of them calibrate 8-bit precisions, the certificate is
            measured on the others; an item's content decides which.
        evaluate: a folder with a sub-folder of pictures for each class, to measure zero-shot
            accuracy.
        prompt: template of a class's text, with ``{}`` for the name of its sub-folder.
        samples: how many items of each tower to measure; None takes as many as some seconds of
            arithmetic allow.
        bars: what each tower must reach; None means the defaults of ``Bars``.
        overwrite: replace a bundle that is already there; it stays until the new one is complete.
        on_step: called with each of STEPS as it begins, and as it goes on.

    Raises:
        CheckpointError: the checkpoint cannot be read or is not supported.
        FidelityError: an exported tower does not answer like the original weights.
        InvalidInput: a folder is none, or holds nothing that can be read.
        BundleError: out is taken, or cannot be written.
        MissingExtra: the ``export`` extra is not installed.
    """
    _require_extras()
    target = _free_target(out, overwrite)
    items = None if calibrate is None else Path(calibrate)
    if items is not None:
        check_folder_of_items(items)
    labelled = None if evaluate is None else find_labelled(Path(evaluate))
    plan = Plan(folder=items, labelled=labelled, prompt=prompt, samples=samples)
    job = _Job(_ordered(precisions), plan, bars or Bars())
    model = read_model(find_checkpoint(os.fspath(source), revision, family), family)
    return _export(model, target, job, overwrite, on_step)


def export_random(
    architecture: str,
    out: str | Path,
    *,
    seed: int = 0,
    precisions: Sequence[PrecisionName] = ("fp32",),
    samples: int | None = None,
    bars: Bars | None = None,
    overwrite: bool = False,
    on_step: Callable[[str], None] = lambda step: None,
) -> Bundle:
    """Makes a bundle of full size with drawn weights, for speed work without a download.

    Args:
        architecture: a published one, ``ViT-L-14`` for instance; see ``ARCHITECTURES``.
        out: as for ``export_checkpoint``, like all that follows.
        seed: equal seeds give equal weights.
        precisions: which variants to write. Quantised ones are calibrated on drawn items.
        samples: how many items of each tower to measure.
        bars: what each tower must reach.
        overwrite: replace a bundle that is already there.
        on_step: called with each of STEPS as it begins.

    Raises:
        CheckpointError: there is no such architecture.
        FidelityError: an exported tower does not answer like the drawn weights.
        BundleError: out is taken, or cannot be written.
        MissingExtra: the ``export`` extra is not installed.
    """
    _require_extras()
    target = _free_target(out, overwrite)
    plan = Plan(samples=samples, calibrate_on_drawn=True)
    job = _Job(_ordered(precisions), plan, bars or Bars())
    return _export(random_model(architecture, seed), target, job, overwrite, on_step)


@dataclass(frozen=True)
class _Job:
    """What is to be made of a model.

    Attributes:
        precisions: the variants, fp32 first.
        plan: what is measured on.
        bars: what is demanded.
    """

    precisions: list[PrecisionName]
    plan: Plan
    bars: Bars


def _check_measurable(model: ClipModel, job: _Job) -> None:
    """Refuses bars and folders for figures that this model or these options do not give."""
    if job.plan.labelled is not None and len(model.sides()) < 2:
        raise InvalidInput(
            f"zero-shot accuracy needs both towers, {model.name} has only "
            f"the {next(iter(model.sides()))} tower; leave --evaluate out"
        )
    if job.bars.max_top1_loss is not None and job.plan.labelled is None:
        raise InvalidInput("--max-top1-loss needs labelled pictures; pass --evaluate FOLDER")


def _export(
    model: ClipModel,
    target: Path,
    job: _Job,
    overwrite: bool,
    on_step: Callable[[str], None],
) -> Bundle:
    _check_measurable(model, job)
    with folder_that_becomes(target, replace=overwrite) as folder:
        card = _write(folder, model, job, on_step)
        _refuse_taken(target, overwrite)
    # What has just been hashed is not hashed again.
    return Bundle(path=target, card=card)


def _require_extras() -> None:
    for module in ("onnx", "onnxruntime", "safetensors"):
        require(module, extra="export")


def _free_target(out: str | Path, overwrite: bool) -> Path:
    # Through a link, so that overwriting replaces the bundle and not the link to it.
    target = Path(out).resolve()
    _refuse_taken(target, overwrite)
    return target


def _ordered(precisions: Sequence[PrecisionName]) -> list[PrecisionName]:
    if unknown := [name for name in precisions if name not in PRECISIONS]:
        raise ValueError(f"unknown precision {unknown[0]!r}; there are {', '.join(PRECISIONS)}")
    return [name for name in PRECISIONS if name in precisions or name == "fp32"]


def _write(folder: Path, model: ClipModel, job: _Job, on_step: Callable[[str], None]) -> Card:
    on_step("known answers")
    answers = {tower: known_answers(side) for tower, side in model.sides().items()}
    save_golden(folder / GOLDEN, answers)
    plan, items = job.plan, dict[str, Samples]()
    if set(job.precisions) & set(QUANTISED):
        on_step("calibration")
        items = {tower: calibration_items(side, plan) for tower, side in model.sides().items()}
        plan = plan.without(items.values())
    decisions = {}
    for tower, side in model.sides().items():
        on_step(f"{tower} tower")
        decisions[tower] = write_variants(
            folder,
            tower,
            side,
            job.precisions,
            answers[tower].peaks,
            items.get(tower),
            partial(_tell, on_step, f"{tower} tower"),
        )
    (folder / DECISIONS).write_bytes(encode_decisions(decisions))
    if model.text is not None:
        (folder / TOKENIZER).write_text(model.text.tokenizer_json, encoding="utf-8")
    on_step("certificate")
    certificate = certify(folder, model, job.precisions, plan=plan, bars=job.bars, on_step=on_step)
    (folder / CERTIFICATE).write_bytes(encode_certificate(certificate))
    on_step("identity")
    card = _card(folder, model)
    (folder / CARD).write_bytes(encode_card(card, indent=2))
    return card


def _tell(on_step: Callable[[str], None], step: str, what: str) -> None:
    on_step(f"{step}: {what}")


def _card(folder: Path, model: ClipModel) -> Card:
    onnx = require("onnx", extra="export")
    identity = identity_of(model)
    return Card(
        schema=SCHEMA,
        name=model.name,
        family=model.family,
        revision=model.revision,
        space=space_of(identity),
        identity=identity,
        dim=model.dim,
        logit_scale=model.logit_scale,
        logit_bias=model.logit_bias,
        image=model.image.spec if model.image else None,
        text=model.text.spec if model.text else None,
        files={
            file.name: FileEntry(sha256=sha256_of(file), size=file.stat().st_size)
            for file in sorted(folder.iterdir())
        },
        exporter={"cliprt": __version__, "onnx": str(onnx.__version__), "opset": str(OPSET)},
    )


def _refuse_taken(target: Path, overwrite: bool) -> None:
    if not target.exists():
        return
    if not overwrite:
        raise BundleError(f"{target} already exists; pass --overwrite or choose another --out")
    # Never delete what this program did not make.
    try:
        card = decode_card((target / CARD).read_bytes(), origin=str(target))
    except (OSError, BundleError):
        raise BundleError(f"{target} exists and is no bundle; it is not overwritten") from None
    known = {CARD, *card.files}
    if foreign := sorted(path.name for path in target.iterdir() if path.name not in known):
        raise BundleError(
            f"{target} holds {foreign[0]}, which is no part of the bundle there; it is not "
            "overwritten. Move it away or choose another --out"
        )
