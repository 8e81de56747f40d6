"""Checkpoint to bundle: the road from end to end."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from cliprt import __version__
from cliprt._bundle import CARD, CERTIFICATE, GOLDEN, TOKENIZER, Bundle, open_bundle, sha256_of
from cliprt._card import SCHEMA, Card, FileEntry, encode_card
from cliprt._errors import BundleError
from cliprt._extras import require
from cliprt._folders import folder_that_becomes
from cliprt_export._certificate import Certificate, certify
from cliprt_export._checkpoint import Checkpoint, find_checkpoint
from cliprt_export._golden import make_golden
from cliprt_export._graph import OPSET
from cliprt_export._hf_clip import read_hf_clip
from cliprt_export._model import ClipModel
from cliprt_export._space import space_of
from cliprt_export._towers import write_image_tower, write_text_tower

STEPS = ("image tower", "text tower", "known answers", "certificate", "identity")
"""What export reports as it goes."""


def export_checkpoint(
    source: str | Path,
    out: str | Path,
    *,
    revision: str | None = None,
    overwrite: bool = False,
    on_step: Callable[[str], None] = lambda step: None,
) -> Bundle:
    """Turns a checkpoint into a bundle. The bundle appears whole or not at all.

    Args:
        source: a folder in Hugging Face format, or a hub id.
        out: the folder to write. Its parent is created.
        revision: branch, tag or commit of a hub repository.
        overwrite: replace a bundle that is already there; it stays until the new one is complete.
        on_step: called with each of STEPS as it begins.

    Raises:
        CheckpointError: the checkpoint cannot be read or is not supported.
        FidelityError: an exported tower does not answer like the original weights.
        BundleError: out is taken, or cannot be written.
        MissingExtra: the ``export`` extra is not installed.
    """
    for module in ("onnx", "onnxruntime", "safetensors"):
        require(module, extra="export")
    # Through a link, so that overwriting replaces the bundle and not the link to it.
    target = Path(out).resolve()
    _refuse_taken(target, overwrite)
    checkpoint = find_checkpoint(os.fspath(source), revision)
    model = read_hf_clip(checkpoint)
    with folder_that_becomes(target, replace=overwrite) as folder:
        _write(folder, checkpoint, model, on_step)
        _refuse_taken(target, overwrite)
    return open_bundle(target)


def read_certificate(bundle: Bundle) -> Certificate:
    """The certificate of a bundle.

    Raises:
        BundleError: it cannot be read.
    """
    try:
        return msgspec.json.decode(bundle.file(CERTIFICATE).read_bytes(), type=Certificate)
    except msgspec.MsgspecError as error:
        raise BundleError(f"{CERTIFICATE} of {bundle.path} cannot be read: {error}") from None


def _write(
    folder: Path, checkpoint: Checkpoint, model: ClipModel, on_step: Callable[[str], None]
) -> None:
    on_step(STEPS[0])
    image = folder / "image.fp32.onnx"
    write_image_tower(image, model.image, model.image_tensors, __version__)
    on_step(STEPS[1])
    text = folder / "text.fp32.onnx"
    write_text_tower(text, model.text, model.text_tensors, __version__)
    (folder / TOKENIZER).write_text(model.tokenizer_json, encoding="utf-8")
    on_step(STEPS[2])
    golden = make_golden(model)
    golden.save(folder / GOLDEN)
    on_step(STEPS[3])
    certificate = msgspec.json.encode(certify(folder, golden))
    (folder / CERTIFICATE).write_bytes(msgspec.json.format(certificate, indent=2) + b"\n")
    on_step(STEPS[4])
    card = _card(folder, checkpoint, model)
    (folder / CARD).write_bytes(encode_card(card, indent=2))


def _card(folder: Path, checkpoint: Checkpoint, model: ClipModel) -> Card:
    onnx = require("onnx", extra="export")
    return Card(
        schema=SCHEMA,
        name=checkpoint.name,
        family=model.family,
        revision=checkpoint.revision,
        space=space_of(model),
        dim=model.image.dim,
        logit_scale=model.logit_scale,
        image=model.image_spec,
        text=model.text_spec,
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
