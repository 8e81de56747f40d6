"""An output opens in what people have: numpy, pandas, pyarrow, DuckDB and faiss."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import faiss
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from numpy.typing import NDArray
from run_folders import DIM, PLAN, config, do_unit, rows

from cliprt_batch._records import Dtype
from cliprt_batch._run_config import Layout
from cliprt_batch._run_folder import RunFolder

BAD = (0, 7, 8)
UNITS, ITEMS = 3, 20
METADATA = ["key", "image_path", "caption", "width", "height", "sha256", "error"]


def output(out: Path, layout: Layout, dtype: Dtype = "float32") -> Path:
    settings = config(layout, dtype)
    with RunFolder.open(out, settings) as run:
        run.note_plan(PLAN)
        for unit in range(UNITS):
            # Only the middle shard has failures: datasets must not mind that shards differ.
            do_unit(run, settings, unit, items=ITEMS, bad=BAD if unit == 1 else ())
        run.finish(UNITS)
    return out


def expected(dtype: Dtype = "float32", *, all_rows: bool = False) -> NDArray[np.float64]:
    """The image embeddings; NaN for rows that failed."""
    settings, found = config("npy", dtype), []
    for unit in range(UNITS):
        for place in range(ITEMS):
            if unit == 1 and place in BAD:
                found += [[np.nan] * DIM] if all_rows else []
            else:
                found += rows(settings, unit, [place])["image_embedding"].to_pylist()
    return np.array(found, np.float64)


def test_arrays_and_metadata_belong_together(tmp_path: Path) -> None:
    out = output(tmp_path, "npy")
    arrays = [np.load(path, mmap_mode="r") for path in sorted(out.glob("img_emb/*.npy"))]
    texts = [np.load(path) for path in sorted(out.glob("text_emb/*.npy"))]
    tables = [pd.read_parquet(path) for path in sorted(out.glob("metadata/*.parquet"))]
    assert [len(array) for array in arrays] == [len(table) for table in tables] == [20, 17, 20]
    assert [len(array) for array in texts] == [20, 17, 20]
    assert arrays[0].dtype == np.float32
    np.testing.assert_array_equal(np.concatenate(arrays), expected())
    assert list(tables[1].columns) == METADATA
    assert list(tables[1]["key"][:3]) == ["1/1.jpg", "1/2.jpg", "1/3.jpg"]
    assert tables[1]["error"].isna().all()
    assert list(tables[0]["width"][:2]) == [100, 101]


def test_half_precision_is_rounded_as_numpy_does(tmp_path: Path) -> None:
    single = np.load(output(tmp_path / "single", "npy") / "img_emb" / "img_emb_000000.npy")
    half = np.load(output(tmp_path / "half", "npy", "float16") / "img_emb" / "img_emb_000000.npy")
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half, single.astype(np.float16))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_pyarrow_reads_fixed_size_lists(tmp_path: Path, dtype: Dtype) -> None:
    data = ds.dataset(output(tmp_path, "parquet", dtype) / "embeddings")
    number = pa.float32() if dtype == "float32" else pa.float16()
    assert data.schema.names == [*METADATA, "image_embedding", "text_embedding"]
    assert data.schema.field("image_embedding").type == pa.list_(number, DIM)
    assert data.schema.pandas_metadata is None
    table = data.to_table()
    numbers = table["image_embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    np.testing.assert_array_equal(numbers.reshape(-1, DIM), expected(dtype, all_rows=True))
    good = data.to_table(filter=ds.field("error").is_null())["image_embedding"].combine_chunks()
    assert good.flatten().null_count == 0
    np.testing.assert_array_equal(
        good.flatten().to_numpy(zero_copy_only=False).reshape(-1, DIM), expected(dtype)
    )
    bad = data.to_table(filter=ds.field("error").is_valid())
    assert bad["error"].to_pylist() == [
        "read: no good: 0",
        "decode: no good: 7",
        "encode: no good: 8",
    ]
    assert bad["key"].to_pylist() == ["1/0.jpg", "1/7.jpg", "1/8.jpg"]


def test_pandas_reads_the_rows(tmp_path: Path) -> None:
    table = pd.read_parquet(output(tmp_path, "parquet") / "embeddings")
    assert len(table) == UNITS * ITEMS
    good = table[table["error"].isna()]
    np.testing.assert_array_equal(np.stack(list(good["image_embedding"])), expected())


@pytest.mark.parametrize("layout", ["npy", "parquet"])
def test_duckdb_counts_and_compares(tmp_path: Path, layout: Layout) -> None:
    out = output(tmp_path, layout)
    folder = {"npy": "metadata", "parquet": "embeddings"}[layout]
    with duckdb.connect() as connection:
        files = f"'{out / folder}/*.parquet'"
        count = connection.sql(f"select count(*) from {files} where error is null").fetchall()
        assert count == [(UNITS * ITEMS - len(BAD),)]
        if layout == "parquet":
            # Fixed-size arrays: the functions for lists also look at rows that the filter drops.
            vector = f"image_embedding::float[{DIM}]"
            first = f"(select {vector} from {files} where key = '0/0.jpg')"
            nearest = connection.sql(
                f"select key from {files} where error is null "
                f"order by array_cosine_similarity({vector}, {first}) desc limit 1"
            ).fetchall()
            assert nearest == [("0/0.jpg",)]
        failures = connection.sql(f"select stage, count(*) from '{out}/failures.jsonl' group by 1")
        assert sorted(failures.fetchall()) == [("decode", 1), ("encode", 1), ("read", 1)]


def test_faiss_finds_what_was_put_in(tmp_path: Path) -> None:
    out = output(tmp_path, "npy")
    index = faiss.IndexFlatIP(DIM)
    for path in sorted(out.glob("img_emb/*.npy")):
        vectors = np.load(path)
        faiss.normalize_L2(vectors)
        index.add(vectors)
    wanted = expected().astype(np.float32)[[5, 25]]
    faiss.normalize_L2(wanted)
    assert index.search(wanted, 1)[1].ravel().tolist() == [5, 25]


def test_the_manifest_is_json(tmp_path: Path) -> None:
    manifest = json.loads((output(tmp_path, "npy") / "manifest.json").read_text())
    assert (manifest["items"], manifest["embedded"]) == (60, 57)
    assert manifest["failed"] == {"decode": 1, "encode": 1, "read": 1}
    assert [shard["number"] for shard in manifest["shards"]] == [0, 1, 2]
