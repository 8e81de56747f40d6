"""The identity of an embedding space."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict

import msgspec

from cliprt_export._model import ClipModel
from cliprt_export._specs import Tensors, image_tensors, text_tensors


def space_of(model: ClipModel) -> str:
    """SHA-256 over everything that decides an embedding's numbers, in a canonical form.

    That is: sizes, activation, pooling and normalisation of both towers, every weight as float32 in
    the neutral layout, the tokenizer and the preprocessing. Not part of it: file names, shards,
    stored precision, the logit scale, the runtime and the version of the exporter.

    Returns:
        64 hexadecimal digits.
    """
    text = msgspec.to_builtins(model.text_spec)
    # What fills up a batch cannot change an answer of a causal tower.
    if model.text_spec.causal:
        del text["pad_id"]
    content = {
        "image": asdict(model.image),
        "text": asdict(model.text),
        "preprocessing": msgspec.to_builtins(model.image_spec),
        "tokens": text,
        "tokenizer": json.loads(model.tokenizer_json),
        "image_weights": _hashes(model.image_tensors, sorted(image_tensors(model.image))),
        "text_weights": _hashes(model.text_tensors, sorted(text_tensors(model.text))),
        "normalisation": "l2",
    }
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _hashes(tensors: Tensors, names: list[str]) -> dict[str, str]:
    # Little-endian float32, the byte order of every platform cliprt runs on.
    return {name: hashlib.sha256(tensors(name).tobytes()).hexdigest() for name in names}
