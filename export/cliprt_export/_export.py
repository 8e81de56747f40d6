"""Checkpoint to bundle: the road from end to end."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from cliprt import __version__
from cliprt._bundle import CARD, CERTIFICATE, GOLDEN, TOKENIZER, Bundle, open_bundle, sha256_of
from cliprt._card import SCHEMA, Card, FileEntry, encode_card
from cliprt._errors import BundleError
from cliprt._extras import require
from cliprt._folders import folder_that_becomes
from cliprt_export._calibration import Calibration, calibrated_precision, calibration_items
from cliprt_export._certificate import Bars, encode_certificate
from cliprt_export._checkpoint import find_checkpoint
from cliprt_export._families import read_model
from cliprt_export._golden import known_answers, save_golden
from cliprt_export._graph import OPSET
from cliprt_export._measure import certify
from cliprt_export._model import ClipModel
from cliprt_export._own_items import check_folder_of_items, find_labelled
from cliprt_export._plan import PROMPT, Plan
from cliprt_export._precision import PRECISIONS, PrecisionName
from cliprt_export._space import identity_of, space_of
from cliprt_export._towers import write_tower

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
    for module in ("onnx", "onnxruntime", "safetensors"):
        require(module, extra="export")
    # Through a link, so that overwriting replaces the bundle and not the link to it.
    target = Path(out).resolve()
    _refuse_taken(target, overwrite)
    ordered = _ordered(precisions)
    items = None if calibrate is None else Path(calibrate)
    if items is not None:
        check_folder_of_items(items)
    labelled = None if evaluate is None else find_labelled(Path(evaluate))
    plan = Plan(folder=items, labelled=labelled, prompt=prompt, samples=samples)
    model = read_model(find_checkpoint(os.fspath(source), revision), family)
    with folder_that_becomes(target, replace=overwrite) as folder:
        _write(folder, model, ordered, plan, bars or Bars(), on_step)
        _refuse_taken(target, overwrite)
    return open_bundle(target)


def _ordered(precisions: Sequence[PrecisionName]) -> list[PrecisionName]:
    if unknown := [name for name in precisions if name not in PRECISIONS]:
        raise ValueError(f"unknown precision {unknown[0]!r}; there are {', '.join(PRECISIONS)}")
    return [name for name in PRECISIONS if name in precisions or name == "fp32"]


def _write(
    folder: Path,
    model: ClipModel,
    precisions: list[PrecisionName],
    plan: Plan,
    bars: Bars,
    on_step: Callable[[str], None],
) -> None:
    on_step("known answers")
    answers = {tower: known_answers(side) for tower, side in model.sides().items()}
    save_golden(folder / GOLDEN, answers)
    calibration: dict[str, Calibration] = {}
    if any(name.startswith("int8") for name in precisions):
        on_step("calibration")
        calibration = {
            tower: calibration_items(side, plan.folder) for tower, side in model.sides().items()
        }
        digests = (digest for items in calibration.values() for digest in items.digests())
        plan = replace(plan, calibrated=frozenset(digests))
    for tower, side in model.sides().items():
        on_step(f"{tower} tower")
        for name in precisions:
            on_step(f"{tower} tower: {name}")
            precision = calibrated_precision(name, side, answers[tower], calibration.get(tower))
            path = folder / f"{tower}.{name}.onnx"
            write_tower(path, side.tower, side.tensors, __version__, precision)
    if model.text is not None:
        (folder / TOKENIZER).write_text(model.text.tokenizer_json, encoding="utf-8")
    on_step("certificate")
    certificate = certify(folder, model, precisions, plan=plan, bars=bars, on_step=on_step)
    (folder / CERTIFICATE).write_bytes(encode_certificate(certificate))
    on_step("identity")
    (folder / CARD).write_bytes(encode_card(_card(folder, model), indent=2))


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
    # Never delete a folder that this program did not make.
    if not (target / CARD).is_file():
        raise BundleError(f"{target} exists and is no bundle; it is not overwritten")
