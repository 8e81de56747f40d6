"""What broke a promise when it was first fuzzed, at its smallest: an input of every such kind.

``make_corpus.py`` keeps them beside the seeds. What was mended has tests of its own, too.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
from fuzz import samples
from fuzz.tar_forms import described, header, number, pax, resummed

# Targets that read JSON into a type.
_ARTEFACTS = [
    "batch_manifest", "bench_card", "bundle", "card", "certificate", "engine", "plan",
    "run_record", "settings", "tuned",
]  # fmt: skip


def found() -> Iterator[tuple[str, str, bytes]]:
    """Target, name and content of each."""
    for target in _ARTEFACTS:
        yield target, "not-utf-8", b'{"\xff": 1}'
        yield target, "nested-too-deeply", b'{"a": ' + b"[" * 5000
    for name, content in _cards():
        yield "card", name, content
    # Neither an escape sequence nor a folder above may become the name of a file.
    for name, file in {
        "name-of-300-letters": "a" * 300,
        "name-that-steers-a-terminal": "a\x1b[31m",
        "name-of-the-folder-above": "..",
    }.items():
        entry = {"sha256": "0" * 64, "size": 0}
        yield "bundle", name, _changed(samples.card_bytes(), entry, "files", file)
    for name, content in _tokenizers():
        yield "tokenizer", name, content
    many = b'{"towers": {"image": {"fp32": {"min_cosine": 1' + b"0" * 400 + b"}}}}"
    yield "certificate", "number-beyond-double", many
    for name, content in _goldens():
        yield "golden", name, content
    for name, content in _records():
        yield *name, content
    for name, content in _tars():
        yield "tar", name, content
    for name, line in {"brackets": b"[" * 5000, "bytes": b"\xff", "half-an-object": b"{"}.items():
        yield "lines", f"listing-of-{name}", line
    footer = b"\x1f" * 8
    yield "parquet", "unprintable-message", _parquet(footer)
    field = b'{"model": "clip", "input": "a", "\\u001b[31m": 1}'
    yield "request", "field-that-steers-a-terminal", field


def _changed(content: bytes, value: Any, *path: Any) -> bytes:
    """JSON in which one value is another."""
    whole = json.loads(content)
    inside = whole
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    return json.dumps(whole).encode()


def _cards() -> Iterator[tuple[str, bytes]]:
    """They would make a client take all memory, or compute what is no number."""
    whole = samples.card_bytes()
    yield "picture-of-terabytes", _changed(whole, 2**20, "image", "height")
    yield "resized-to-terabytes", _changed(whole, 10**6, "image", "resize_height")
    yield "context-of-terabytes", _changed(whole, 2**40, "text", "context_length")
    yield "ids-beyond-int32", _changed(whole, 2**32, "text", "vocabulary")
    yield "dim-beyond-all-bounds", _changed(whole, 2**40, "dim")
    yield "scale-beyond-all-bounds", _changed(whole, 1e30, "logit_scale")
    yield "bias-beyond-all-bounds", _changed(whole, -1e30, "logit_bias")
    yield "field-that-steers-a-terminal", b'{"\\u001b[31m": 1}'


def _tokenizers() -> Iterator[tuple[str, bytes]]:
    """The library panics, or fails at the first text."""
    whole = samples.tokenizer()
    yield "panics", _changed(whole, "a" * 50, "model", "continuing_subword_prefix")
    yield "unknown-piece", _changed(whole, "?", "model", "unk_token")
    path = ("post_processor", "single", 0, "SpecialToken", "id")
    yield "special-piece", _changed(whole, "?", *path)


def _goldens() -> Iterator[tuple[str, bytes]]:
    unit = np.eye(2, 4, dtype=np.float32)
    for name, arrays in {
        "one-token-for-all": {"tokens": np.int32(1), "text_embedding": unit},
        "tokens-of-floats": {"tokens": np.ones((2, 3)), "text_embedding": unit},
        "embeddings-of-truths": {"tokens": np.ones((2, 3), np.int32), "text_embedding": unit > 0},
    }.items():
        out = io.BytesIO()
        np.savez_compressed(out, **arrays)
        yield name, out.getvalue()


def _records() -> Iterator[tuple[tuple[str, str], bytes]]:
    """Names of files outside their folder, and counts that no shard has."""
    manifest = msgspec.json.encode(samples.batch_manifest())
    done = samples.run_records()["done"]
    entry = {"sha256": "ab" * 32, "size": 160}
    for name, file in {"outside": "../a.npy", "absolute": "/a.npy", "nameless": ""}.items():
        path = ("shards", 0, "files", file)
        yield ("batch_manifest", f"{name}-file"), _changed(manifest, entry, *path)
        yield ("run_record", f"{name}-file"), _changed(done, entry, "files", file)
    for name, value in {"many": 2**63, "below-0": -1}.items():
        path = ("shards", 0, "embedded")
        yield ("batch_manifest", f"items-{name}"), _changed(manifest, value, *path)
    intent = samples.run_records()["intent"]
    moves = [["../a", "img_emb/img_emb_000000.npy"]]
    yield ("run_record", "move-from-outside"), _changed(intent, moves, "moves")


def _tars() -> Iterator[tuple[str, bytes]]:
    """Sizes, names and maps that no writer writes, and that tarfile believes."""

    def sized(size: int, kind: bytes = b"0") -> bytes:
        block = bytearray(header(b"x.jpg", 0, kind))
        block[124:136] = number(size)
        return resummed(bytes(block))

    makers: dict[str, Callable[[int], bytes]] = {
        "member": sized,
        "name": lambda size: sized(size, b"L"),
        "records": lambda size: sized(size, b"x"),
    }
    for what, make in makers.items():
        for name, size in {"2-80": 2**80, "2-63": 2**63, "below-0": -1024}.items():
            yield f"{what}-of-{name}-bytes", make(size) + bytes(1024)
    yield "size-that-leads-back", header(b"a.jpg", 0, b"0") * 4 + sized(-2048) + bytes(1024)
    for name, value in {"below-0": "-1024", "of-30-digits": "9" * 30}.items():
        yield f"record-of-a-size-{name}", b"".join(pax({"size": value})) + sized(0) + bytes(1024)
    for key in ("size", "realsize", "map"):
        for name, value in {"letters": "x", "nothing": "", "5000-digits": "9" * 5000}.items():
            records = b"".join(pax({f"GNU.sparse.{key}": value}))
            yield f"sparse-{key}-of-{name}", records + sized(0) + bytes(1024)
    endless = bytearray(sized(0, b"S"))
    endless[482] = 1
    yield "sparse-that-goes-on-and-ends", resummed(bytes(endless))
    # Unpacked they are megabytes.
    yield "names-upon-names", gzip.compress(b"".join(described(b"x\0", b"L")) * 2000, mtime=0)
    yield "records-upon-records", gzip.compress(b"".join(pax({"a": "b"})) * 2000, mtime=0)


def _parquet(footer: bytes) -> bytes:
    """A file with that footer, of which Arrow quotes a byte."""
    return b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1"
