"""Finished folders of embeddings, written as `cliprt embed` leaves them."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

SPACE = "5a" * 32
MODEL = "drawn/model"


def unit(array: NDArray[Any]) -> NDArray[np.float32]:
    array = np.asarray(array, dtype=np.float32)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def random_units(count: int, dim: int = 16, seed: int = 0) -> NDArray[np.float32]:
    return unit(np.random.default_rng(seed).standard_normal((count, dim)))


def write_folder(
    folder: Path,
    *,
    image: NDArray[Any] | None = None,
    text: NDArray[Any] | None = None,
    layout: str = "npy",
    dtype: str = "float32",
    cuts: Sequence[int] = (),
    columns: dict[str, Sequence[Any]] | None = None,
    failed: Sequence[int] = (),
    space: str = SPACE,
    model: str = MODEL,
    row_group: int = 1000,
) -> Path:
    """Writes shards that end at `cuts`; items `failed` have no embeddings."""
    towers = {n: a for n, a in (("image", image), ("text", text)) if a is not None}
    some = next(iter(towers.values()))
    count, dim = some.shape
    given = columns or {}
    bad = np.isin(np.arange(count), failed)
    table = {
        "key": given.get("key", [f"item-{number}" for number in range(count)]),
        "image_path": given.get("image_path", [None] * count),
        "caption": given.get("caption", [f"caption {number}" for number in range(count)]),
        "width": given.get("width", [None] * count),
        "height": given.get("height", [None] * count),
        "sha256": given.get("sha256", [None] * count),
        "error": ["decode: it is no picture" if is_bad else None for is_bad in bad],
    }
    schema = pa.schema(
        [(n, pa.int32() if n in ("width", "height") else pa.string()) for n in table]
    )
    shards = []
    for number, (begin, end) in enumerate(zip((0, *cuts), (*cuts, count), strict=True)):
        kept = np.flatnonzero(~bad[begin:end]) + begin
        written = {}
        rows = kept if layout == "npy" else np.arange(begin, end)
        columns_of = {n: [values[row] for row in rows] for n, values in table.items()}
        metadata = pa.table(columns_of, schema=schema)
        if layout == "npy":
            written[f"metadata/metadata_{number:06d}.parquet"] = _parquet(metadata, row_group)
            for name, array in towers.items():
                short = "img_emb" if name == "image" else "text_emb"
                written[f"{short}/{short}_{number:06d}.npy"] = _npy(array[kept].astype(dtype))
        else:
            for name, array in towers.items():
                # Parquet knows no null lists of a fixed size: their numbers are null.
                lost = np.repeat(bad[begin:end], dim)
                flat = pa.array(array[begin:end].astype(dtype).ravel(), mask=lost)
                lists = pa.FixedSizeListArray.from_arrays(flat, dim)
                metadata = metadata.append_column(f"{name}_embedding", lists)
            written[f"embeddings/embeddings_{number:06d}.parquet"] = _parquet(metadata, row_group)
        files = {}
        for name, content in written.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
            digest = hashlib.sha256(content).hexdigest()
            files[name] = {"sha256": digest, "bytes": len(content)}
        shards.append(
            {
                "number": number,
                "items": end - begin,
                "embedded": len(kept),
                "failed": {"decode": end - begin - len(kept)},
                "files": files,
            }
        )
    manifest = {
        "version": 1,
        "model": model,
        "space": space,
        "dim": dim,
        "dtype": dtype,
        "layout": layout,
        "towers": list(towers),
        "source": {"kind": "folder", "address": "pictures"},
        "shard_size": 1000,
        "options": {},
        "plan_sha256": "00" * 32,
        "items": count,
        "embedded": int((~bad).sum()),
        "failed": {"decode": int(bad.sum())},
        "shards": shards,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def _npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _parquet(table: pa.Table, row_group: int) -> bytes:
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, row_group_size=row_group)
    return buffer.getvalue().to_pybytes()
