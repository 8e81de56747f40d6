"""Parquet files with pictures, paths and texts."""

from __future__ import annotations

import io
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from batch_sources import content, items_of, keys_of, parquet, planned, put
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from cliprt import InvalidInput
from cliprt_batch import _parquet
from cliprt_batch._source import Source

BOTH = ("image", "text")


def test_paths_start_from_the_folder_of_the_file(root: str, tmp_path: Path) -> None:
    put(root, "in/a.jpg", b"a")
    data = parquet({"image_path": ["a.jpg", "/x/b.jpg"], "caption": ["a cat", "a dog"]})
    items = items_of(planned(put(root, "in/t.parquet", data), tmp_path / "plan", BOTH))
    assert [(item.key, item.path, item.caption) for item in items] == [
        ("a.jpg", f"{root}/in/a.jpg", "a cat"),
        ("/x/b.jpg", "/x/b.jpg", "a dog"),
    ]
    assert content(items[0]) == b"a"


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_bytes_are_pictures(root: str, tmp_path: Path, kind: pa.DataType) -> None:
    data = parquet({"jpg": pa.array([b"a", b""], kind), "TEXT": ["one", "two"], "key": [7, 8]})
    items = items_of(planned(put(root, "t.parquet", data), tmp_path / "plan", BOTH))
    assert [(item.key, item.image, item.caption) for item in items] == [
        ("7", b"a", "one"),
        ("8", b"", "two"),
    ]


def test_pictures_of_hugging_face_are_bytes_or_paths(root: str, tmp_path: Path) -> None:
    put(root, "c.jpg", b"c")
    pictures: list[Any] = [
        {"bytes": b"a", "path": "a.jpg"},
        {"bytes": b"b", "path": None},
        {"bytes": None, "path": "c.jpg"},
        {"bytes": None, "path": None},
        None,
    ]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    data = parquet({"image": pa.array(pictures, kind), "label": range(5)})
    items = items_of(planned(put(root, "t.parquet", data), tmp_path / "plan"))
    assert [item.key for item in items] == [
        *("a.jpg", "t.parquet/1", "c.jpg", "t.parquet/3", "t.parquet/4")
    ]
    assert [content(item) for item in items[:3]] == [b"a", b"b", b"c"]
    assert [item.path for item in items[:3]] == [None, None, f"{root}/c.jpg"]
    assert items[3].fault == items[4].fault == "the row has no value in 'image'"


@pytest.mark.parametrize("name", ["http://10.0.0.1/x", "/etc/passwd", "../a.jpg", "s3::http://x"])
def test_a_path_beside_bytes_is_a_name_and_no_place(tmp_path: Path, name: str) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pictures = pa.array([{"bytes": b"a", "path": name}] * 2, kind)
    data = parquet({"image": pictures, "key": ["own", None]})
    own, unnamed = items_of(planned(put(str(tmp_path), "t.parquet", data), tmp_path / "plan"))
    assert (own.key, own.path, own.image) == ("own", None, b"a")
    assert (unnamed.key, unnamed.path, unnamed.image) == (name, None, b"a")


def test_strings_of_every_type_are_read(tmp_path: Path) -> None:
    data = parquet(
        {
            "path": pa.array(["a.jpg", "a.jpg"]).dictionary_encode(),
            "text": pa.array(["one", "two"], pa.large_string()),
        }
    )
    items = items_of(planned(put(str(tmp_path), "t.parquet", data), tmp_path / "plan", BOTH))
    assert [(item.key, item.caption) for item in items] == [("a.jpg", "one"), ("a.jpg", "two")]


def test_nulls_are_items_that_say_so(tmp_path: Path) -> None:
    data = parquet({"path": ["a.jpg", None, None, ""], "text": [None, "b", None, None]})
    items = items_of(planned(put(str(tmp_path), "t.parquet", data), tmp_path / "plan", BOTH))
    assert [(item.image is not None, item.caption) for item in items[:2]] == [
        (True, None),
        (False, "b"),
    ]
    assert [item.fault for item in items] == [
        *(None, None, *["the row has no value in 'path' and 'text'"] * 2)
    ]


def test_a_text_that_is_not_utf_8_is_an_item_that_says_so(tmp_path: Path) -> None:
    bad = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"\xffa")]
    )
    address = put(str(tmp_path), "t.parquet", parquet({"text": bad}))
    first, last = items_of(planned(address, tmp_path / "plan", ("text",)))
    assert "not UTF-8" in (first.fault or "")
    assert last.caption == "a"


def test_texts_are_kept_for_pictures_alone(tmp_path: Path) -> None:
    bad = pa.Array.from_buffers(
        pa.string(),
        3,
        [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0"), pa.py_buffer(b"\xffab")],
    )
    data = parquet({"path": ["a.jpg", "b.jpg", None], "text": bad})
    *items, last = items_of(planned(put(str(tmp_path), "t.parquet", data), tmp_path / "plan"))
    assert [(item.key, item.caption, item.fault) for item in items] == [
        ("a.jpg", None, None),
        ("b.jpg", "a", None),
    ]
    assert last.fault == "the row has no value in 'path'"


def test_pictures_need_no_texts(tmp_path: Path) -> None:
    address = put(str(tmp_path), "t.parquet", parquet({"path": ["a.jpg"], "caption": [3]}))
    (item,) = items_of(planned(address, tmp_path / "plan"))
    assert (item.key, item.caption, item.fault) == ("a.jpg", None, None)


def test_rows_name_no_hosts(tmp_path: Path) -> None:
    data = parquet({"path": ["hdfs://namenode/a.jpg", "s3://bucket/a.jpg"]})
    one, other = items_of(planned(put(str(tmp_path), "t.parquet", data), tmp_path / "plan"))
    assert (one.key, one.image, one.path) == ("hdfs://namenode/a.jpg", None, None)
    assert "put the list into a file of that hdfs:// store" in (one.fault or "")
    assert (other.path, other.fault) == ("s3://bucket/a.jpg", None)


def test_columns_may_be_named(tmp_path: Path) -> None:
    columns = {"image": ["no"], "thumb": ["a.jpg"], "caption": ["no"], "alt": ["a"], "id": ["x"]}
    address = put(str(tmp_path), "t.parquet", parquet(columns))
    source = Source(address, image_column="thumb", text_column="alt", key_column="id")
    (item,) = items_of(planned(source, tmp_path / "plan", BOTH))
    assert (item.key, item.path, item.caption) == ("x", f"{tmp_path}/a.jpg", "a")


@pytest.mark.parametrize(
    ("options", "towers", "message"),
    [
        ({"image_column": "thumb"}, BOTH, r"no column 'thumb'; its columns are 'a', 'n', 'text'"),
        ({"key_column": "id"}, ("text",), "no column 'id'; its columns are 'a', 'n', 'text'"),
        ({}, BOTH, r"no column for the image tower .*image, .*; its columns are 'a', 'n', 'text'"),
        ({"image_column": "n"}, BOTH, "column 'n' .* of type int64, it must hold paths, bytes"),
        ({"text_column": "n"}, ("text",), "column 'n' .* of type int64, it must hold strings"),
        ({"image_column": "text", "text_column": "x"}, ("image",), "no column 'x'; its columns"),
        ({"key_column": "a"}, ("text",), "column 'a' .* of type list.*, it must hold strings or"),
    ],
)
def test_columns_that_cannot_be_used_are_refused_when_planning(
    root: str, tmp_path: Path, options: dict[str, str], towers: tuple[str, ...], message: str
) -> None:
    address = put(root, "t.parquet", parquet({"a": [[1]], "n": [1], "text": ["a"]}))
    with pytest.raises(InvalidInput, match=message):
        planned(Source(address, **options), tmp_path / "plan", towers)  # type: ignore[arg-type]


def test_what_is_no_parquet_is_refused(root: str, tmp_path: Path) -> None:
    for data in (b"", b"PAR1", b"PAR1" * 10):
        with pytest.raises(InvalidInput, match=r"t\.parquet' is no Parquet file"):
            planned(put(root, "t.parquet", data), tmp_path / "plan")


def test_a_file_without_rows_has_nothing_to_embed(tmp_path: Path) -> None:
    address = put(str(tmp_path), "t.parquet", parquet({"text": pa.array([], pa.string())}))
    with pytest.raises(InvalidInput, match="nothing to embed"):
        planned(address, tmp_path / "plan", ("text",))


def test_files_of_a_folder_are_cut_each_for_itself(root: str, tmp_path: Path) -> None:
    put(root, "a.parquet", parquet({"text": list("abcde")}))
    put(root, "in/b.parquet", parquet({"text": list("fg")}))
    plan = planned(root, tmp_path / "plan", ("text",))
    assert [unit.items for unit in plan.units] == [3, 2, 2]
    assert [unit.number for unit in plan.units] == [0, 1, 2]
    assert [unit.start for unit in plan.units] == [0, 3, 0]
    assert keys_of(plan) == [
        *(f"a.parquet/{row}" for row in range(5)),
        *(f"in/b.parquet/{row}" for row in range(2)),
    ]
    assert "".join(item.caption or "" for item in items_of(plan)) == "abcdefg"


@given(rows=st.integers(1, 200), group=st.integers(1, 90), size=st.integers(1, 150), data=st.data())
def test_reading_from_any_row_on_gives_the_rest(
    tmp_path_factory: pytest.TempPathFactory, rows: int, group: int, size: int, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("parquet")
    content = parquet({"text": [str(row) for row in range(rows)]}, row_group_size=group)
    plan = planned(put(str(folder), "t.parquet", content), folder / "plan", ("text",), size)
    assert [item.caption for item in items_of(plan)] == [str(row) for row in range(rows)]
    unit = data.draw(st.sampled_from(plan.units))
    items = list(plan.read(unit))
    for start in {0, 1, data.draw(st.integers(0, size)), len(items)}:
        assert list(plan.read(unit, start)) == items[start:]


def test_damaged_rows_are_items_and_the_others_are_read(tmp_path: Path) -> None:
    noise = random.Random(0)
    texts = [noise.randbytes(200).hex() for _ in range(300)]
    data = bytearray(
        parquet({"text": texts}, row_group_size=100, compression="gzip", use_dictionary=False)
    )
    chunk = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(1).column(0)
    middle = chunk.data_page_offset + chunk.total_compressed_size // 2
    data[middle : middle + 40] = bytes(40)
    plan = planned(put(str(tmp_path), "t.parquet", bytes(data)), tmp_path / "plan", ("text",), 150)
    items = items_of(plan)
    assert len(items) == plan.items == 300
    damaged = [row for row, item in enumerate(items) if item.fault is not None]
    assert damaged == list(range(damaged[0], 200))
    assert "row group 1 of" in (items[199].fault or "")
    assert [items[row].caption for row in (0, 99, 200, 299)] == [
        texts[row] for row in (0, 99, 200, 299)
    ]
    for unit in plan.units:
        whole = list(plan.read(unit))
        for start in (1, 60, 120):
            assert list(plan.read(unit, start)) == whole[start:]


def test_a_page_that_does_not_have_its_checksum_is_damaged(tmp_path: Path) -> None:
    texts = [f"text {row:03}" for row in range(100)]
    data = parquet(
        {"text": texts}, compression="none", use_dictionary=False, write_page_checksum=True
    )
    changed = data.replace(b"text 050", b"text 999")
    items = items_of(
        planned(put(str(tmp_path), "t.parquet", changed), tmp_path / "plan", ("text",))
    )
    assert len(items) == 100
    assert all("row group 0 of" in (item.fault or "") for item in items)


def test_rows_that_no_row_group_holds_are_items(tmp_path: Path) -> None:
    address = put(str(tmp_path), "t.parquet", parquet({"text": ["a", "b"]}))
    plan = planned(address, tmp_path / "plan", ("text",))
    # As a damaged footer has it, whose number of rows is not the sum of those of its row groups.
    claimed = replace(plan, units=[structs.replace(plan.units[0], end=4, items=4)])
    items = items_of(claimed)
    assert [item.key for item in items] == [f"t.parquet/{row}" for row in range(4)]
    assert [item.fault is None for item in items] == [True, True, False, False]
    assert "no row group holds the row 3" in (items[3].fault or "")


def test_a_file_that_promises_too_many_rows_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_parquet, "_MOST_UNITS", 2)
    address = put(str(tmp_path), "t.parquet", parquet({"caption": ["a"] * 7}))
    assert len(planned(address, tmp_path / "fits", ("text",), 4).units) == 2
    with pytest.raises(InvalidInput, match="says that it has 7 rows, which would be more than 2"):
        planned(address, tmp_path / "plan", ("text",), 3)
