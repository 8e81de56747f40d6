"""Reading a finished folder, in blocks, and finding out that it is none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from embedded_folders import random_units, write_folder

from cliprt import DeploymentError, InvalidInput
from cliprt_batch import OutputUnfinished, _collection
from cliprt_batch._collection import BLOCK_ROWS, Collection

LAYOUTS = ("npy", "parquet")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_embeddings_come_in_order(tmp_path: Path, layout: str, dtype: str) -> None:
    vectors = random_units(50)
    write_folder(tmp_path, image=vectors, layout=layout, dtype=dtype, cuts=(20, 21, 21))
    blocks = list(Collection(tmp_path).blocks("image"))
    stored = vectors.astype(dtype).astype(np.float32)
    assert np.array_equal(np.concatenate([block.vectors for block in blocks]), stored)
    assert np.array_equal(np.concatenate([block.places for block in blocks]), np.arange(50))
    assert {block.vectors.dtype for block in blocks} == {np.dtype(np.float32)}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_block_is_larger_than_the_bound(tmp_path: Path, layout: str) -> None:
    # One row group, so that it is not the file that cuts.
    count = 2 * BLOCK_ROWS + 5
    write_folder(tmp_path, image=random_units(count, 4), layout=layout, row_group=10**9)
    sizes = [len(block.vectors) for block in Collection(tmp_path).blocks("image")]
    assert max(sizes) <= BLOCK_ROWS
    assert sum(sizes) == count


@pytest.mark.parametrize("start", [0, 1, 10, 19, 20, 33, 49, 50])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_reading_may_begin_anywhere(
    tmp_path: Path, layout: str, start: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_collection, "BLOCK_ROWS", 7)
    vectors = random_units(50)
    write_folder(tmp_path, image=vectors, layout=layout, cuts=(20,), row_group=4)
    blocks = list(Collection(tmp_path).blocks("image", start))
    places = [place for block in blocks for place in block.places]
    assert places == list(range(start, 50))
    for block in blocks:
        assert np.array_equal(block.vectors, vectors[block.places])


def test_failed_items_of_parquet_are_no_embeddings(tmp_path: Path) -> None:
    vectors = random_units(10)
    write_folder(tmp_path, image=vectors, layout="parquet", failed=(0, 4, 9), cuts=(5,))
    blocks = list(Collection(tmp_path).blocks("image"))
    places = np.concatenate([block.places for block in blocks])
    assert places.tolist() == [1, 2, 3, 5, 6, 7, 8]
    assert np.array_equal(np.concatenate([block.vectors for block in blocks]), vectors[places])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_entries_come_in_the_order_asked_for(tmp_path: Path, layout: str) -> None:
    write_folder(tmp_path, image=random_units(30), layout=layout, cuts=(10, 20), row_group=3)
    entries = Collection(tmp_path).entries([29, 0, 11, 0])
    assert [(one.key, one.shard, one.row) for one in entries] == [
        ("item-29", 2, 9),
        ("item-0", 0, 0),
        ("item-11", 1, 1),
        ("item-0", 0, 0),
    ]


def test_a_folder_without_items(tmp_path: Path) -> None:
    write_folder(tmp_path, image=np.empty((0, 4), np.float32))
    collection = Collection(tmp_path)
    assert collection.rows == 0
    assert list(collection.blocks("image")) == []


def test_no_folder_says_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(DeploymentError, match="cliprt embed SOURCE --out FOLDER"):
        Collection(tmp_path / "none")


def test_an_unfinished_folder_says_how_it_is_finished(tmp_path: Path) -> None:
    (tmp_path / "_cliprt").mkdir()
    (tmp_path / "_cliprt" / "run.json").touch()
    with pytest.raises(OutputUnfinished, match="run the same command again"):
        Collection(tmp_path)


def test_a_tower_that_is_not_there(tmp_path: Path) -> None:
    write_folder(tmp_path, image=random_units(3))
    with pytest.raises(InvalidInput, match="no text embeddings.*--what both"):
        Collection(tmp_path).require_tower("text")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"layout": "npy"}'])
def test_a_damaged_manifest(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content, encoding="utf-8")
    with pytest.raises(DeploymentError, match="manifest.json is damaged"):
        Collection(tmp_path)


def test_a_missing_shard(tmp_path: Path) -> None:
    write_folder(tmp_path, image=random_units(3))
    (tmp_path / "img_emb" / "img_emb_000000.npy").unlink()
    with pytest.raises(DeploymentError, match="img_emb_000000.npy cannot be read"):
        Collection(tmp_path)


def test_a_truncated_shard(tmp_path: Path) -> None:
    write_folder(tmp_path, image=random_units(3))
    file = tmp_path / "img_emb" / "img_emb_000000.npy"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DeploymentError, match="319 bytes, its manifest says 320"):
        Collection(tmp_path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_embeddings_of_another_length(tmp_path: Path, layout: str) -> None:
    write_folder(tmp_path, image=random_units(3), layout=layout)
    _change(tmp_path, dim=8)
    with pytest.raises(DeploymentError, match="manifest"):
        list(Collection(tmp_path).blocks("image"))


def test_a_file_of_the_right_size_that_is_no_parquet(tmp_path: Path) -> None:
    write_folder(tmp_path, image=random_units(3), layout="parquet")
    file = tmp_path / "embeddings" / "embeddings_000000.parquet"
    file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(DeploymentError, match="no Parquet file"):
        list(Collection(tmp_path).blocks("image"))


def test_a_file_of_the_right_size_that_is_no_array(tmp_path: Path) -> None:
    write_folder(tmp_path, image=random_units(3))
    file = tmp_path / "img_emb" / "img_emb_000000.npy"
    file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(DeploymentError, match="no array"):
        list(Collection(tmp_path).blocks("image"))


def _change(folder: Path, **fields: object) -> None:
    file = folder / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}), encoding="utf-8")


def test_a_good_item_without_an_embedding(tmp_path: Path) -> None:
    write_folder(tmp_path, image=random_units(3), layout="parquet", failed=(1,))
    file = tmp_path / "embeddings" / "embeddings_000000.parquet"
    table = pq.read_table(file)
    at = table.column_names.index("error")
    pq.write_table(table.set_column(at, "error", pa.nulls(3, pa.string())), file)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["shards"][0]["files"][f"embeddings/{file.name}"]["bytes"] = file.stat().st_size
    _change(tmp_path, **manifest)
    with pytest.raises(DeploymentError, match="not every item that did not fail"):
        list(Collection(tmp_path).blocks("image"))
