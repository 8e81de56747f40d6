"""What tests of engines do often."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from cliprt import Bundle, FileEntry, open_bundle
from cliprt._bundle import CARD, sha256_of
from cliprt._card import encode_card
from cliprt_engines import Engine, build_engines

SMALL = {"image": "2", "text": "2x8"}


def with_files(bundle: Bundle, folder: Path, **files: bytes) -> Bundle:
    """A copy of a bundle with other files, which its card lists."""
    copy = shutil.copytree(bundle.path, folder)
    entries = dict(bundle.card.files)
    for name, content in files.items():
        (copy / name).write_bytes(content)
        digest = sha256_of(copy / name)
        entries[name] = FileEntry(sha256=digest, size=len(content))
    card = msgspec.structs.replace(bundle.card, files=entries)
    (copy / CARD).write_bytes(encode_card(card))
    return open_bundle(copy)


def build_text(bundle: Bundle, out: Path, precision: str = "fp16") -> Engine:
    (engine,) = build_engines(
        bundle,
        out,
        precisions=(precision,),
        towers=("text",),
        flavor="tensorrt-rtx",
        targets=("sm89",),
        profiles=SMALL,
    )
    return engine
