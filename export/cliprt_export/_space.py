"""The identity of an embedding space."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields, replace
from typing import Any

import msgspec
import numpy as np

from cliprt._card import ImageSpec, TextSpec
from cliprt._limits import Limits
from cliprt._texts import TextTokenizer
from cliprt_export._model import ClipModel, TextSide
from cliprt_export._specs import Tensors, Tower, tower_tensors


def identity_of(model: ClipModel) -> dict[str, str]:
    """SHA-256 of each part that decides an embedding's numbers, in a canonical form.

    The parts are sizes, activation and pooling of a tower, its weights as float32 in the neutral
    layout, the preprocessing, the tokens, the tokenizer. Not among them: file names, shards, stored
    precision, the logit scale and bias, the runtime and the version of the exporter.

    Returns:
        64 hexadecimal digits by name of the part.
    """
    parts: dict[str, Any] = {}
    if model.text is not None:
        model = replace(model, text=_plain_pooling(model.text))
    for name, side in model.sides().items():
        parts[f"{name} tower"] = _canonical(side.tower)
        parts[f"{name} weights"] = _hashes(side.tensors, sorted(tower_tensors(side.tower)))
    if model.image is not None:
        parts["preprocessing"] = _without_defaults(model.image.spec)
    if model.text is not None:
        parts["tokens"] = _without_defaults(model.text.spec)
        # What fills up a batch cannot change an answer where nothing sees it.
        if not model.text.spec.fixed_length:
            del parts["tokens"]["pad_id"]
        parts["tokenizer"] = json.loads(model.text.tokenizer_json)
    parts["normalisation"] = "l2"
    return {name: _sha256(part) for name, part in parts.items()}


def space_of(identity: dict[str, str]) -> str:
    """The space of a model with these parts: 64 hexadecimal digits."""
    return _sha256(identity)


def _without_defaults(spec: ImageSpec | TextSpec) -> dict[str, Any]:
    """As for towers: a field with a default that a later version adds must change nothing."""
    content: dict[str, Any] = msgspec.to_builtins(spec)
    defaults = {field.name: field.default for field in msgspec.structs.fields(spec)}
    return {name: value for name, value in content.items() if value != defaults[name]}


def _plain_pooling(side: TextSide) -> TextSide:
    """Calls pooling at the highest id what it is where that is the end token: pooling at the end.

    Older and newer configurations of the same weights say the same thing in these two ways.
    """
    tower = side.tower
    if tower.pooling != "highest" or tower.end_id != tower.vocabulary - 1:
        return side
    (ids,) = TextTokenizer(side.tokenizer_json, side.spec, Limits())(["a"])
    if ids[-1] != tower.end_id:
        return side
    return replace(
        side,
        tower=replace(tower, pooling="end"),
        spec=msgspec.structs.replace(side.spec, pooling="end"),
    )


def _canonical(tower: Tower) -> dict[str, Any]:
    """A tower's fields without those that have their default.

    So that a field which a later version adds, with the old behaviour as its default, leaves the
    identity of every older model as it is.
    """

    def differing(spec: Any) -> dict[str, Any]:
        content = asdict(spec)
        return {
            field.name: content[field.name]
            for field in fields(spec)
            if content[field.name] != field.default
        }

    content = {"kind": type(tower).__name__, **differing(tower)}
    # They are part of the preprocessing, wherever they are computed.
    for name in ("mean", "std", "rescale"):
        content.pop(name, None)
    if "transformer" in content:
        content["transformer"] = differing(tower.transformer)  # type: ignore[union-attr]
    return content


def _sha256(content: Any) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _hashes(tensors: Tensors, names: list[str]) -> dict[str, str]:
    def digest(name: str) -> str:
        # Little-endian float32, the byte order of every platform cliprt runs on.
        return hashlib.sha256(np.ascontiguousarray(tensors(name)).reshape(-1).data).hexdigest()

    # Two tensors at once: reading and hashing both run without the interpreter lock.
    with ThreadPoolExecutor(max_workers=2) as pool:
        return dict(zip(names, pool.map(digest, names), strict=True))
