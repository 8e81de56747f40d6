"""Lists of pictures and texts, and JSON lines."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
from batch_sources import content, items_of, keys_of, planned, put

from cliprt import DeploymentError, InvalidInput
from cliprt_batch import _lines
from cliprt_batch._fields import Wanted
from cliprt_batch._lines import Lines, LineUnit, read_lines
from cliprt_batch._source import Source

BOTH = ("image", "text")


def test_paths_of_a_list_start_from_its_folder(root: str, tmp_path: Path) -> None:
    put(root, "in/a.jpg", b"a")
    put(root, "b.jpg", b"b")
    elsewhere = put(str(tmp_path), "c.jpg", b"c")
    address = put(root, "in/list.txt", f"a.jpg\n../b.jpg\n{elsewhere}\n")
    items = items_of(planned(address, tmp_path / "plan"))
    assert [item.key for item in items] == ["a.jpg", "../b.jpg", elsewhere]
    assert content(items[0]) == b"a"
    assert content(items[2]) == b"c"
    if not root.startswith("memory"):
        assert content(items[1]) == b"b"


def test_blank_lines_and_remarks_are_no_pictures(root: str, tmp_path: Path) -> None:
    address = put(root, "a.txt", b"\xef\xbb\xbf# of today\r\na.jpg\r\n\r\n \n#b.jpg\nc.jpg\n\n")
    plan = planned(address, tmp_path / "plan", shard_size=1)
    assert keys_of(plan) == ["a.jpg", "c.jpg"]
    assert [unit.items for unit in plan.units] == [1, 1]


def test_a_list_may_hold_anything(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    lines = [
        (b"pipe.jpg", "not a regular file"),
        (b"folder.jpg", "not a regular file"),
        (b"missing.jpg", "No such file"),
        (b"with\0nul.jpg", "null"),
        (b"http://example.com/a.jpg", "URLs are not fetched"),
        (b"\xff.jpg", r"%FF\.jpg' cannot be read: No such file"),
        (b"x" * 5000, "name too long"),
        (b"/dev/zero", "not a regular file"),
    ]
    address = put(str(tmp_path), "a.txt", b"\n".join(line for line, _ in lines))
    items = items_of(planned(address, tmp_path / "plan"))
    assert len(items) == len(lines)
    for item, (_, message) in zip(items, lines, strict=True):
        with pytest.raises(InvalidInput, match=message):
            content(item)


def test_pictures_of_a_list_have_the_texts_beside_them(root: str, tmp_path: Path) -> None:
    put(root, "a.txt", "a cat")
    address = put(root, "pictures.lst", "a.jpg\nb.jpg\nhttp://example.com/c.jpg")
    items = items_of(planned(address, tmp_path / "plan", BOTH))
    assert [item.caption for item in items] == ["a cat", None, None]
    assert items[1].image is not None
    assert "URLs are not fetched" in (items[2].fault or "")


def test_texts_of_a_list_are_named_by_their_lines(root: str, tmp_path: Path) -> None:
    address = put(root, "a.txt", "a cat\n\n#tag\n\n  a dog  ")
    items = items_of(planned(address, tmp_path / "plan", ("text",), shard_size=1))
    assert [(item.key, item.caption) for item in items] == [
        ("1", "a cat"),
        ("3", "#tag"),
        ("5", "  a dog  "),
    ]


def test_lines_of_several_files_are_named_by_both(root: str, tmp_path: Path) -> None:
    put(root, "a.txt", "one\ntwo")
    put(root, "b.txt", "one")
    plan = planned(f"{root}/{{b,a}}.txt", tmp_path / "plan", ("text",))
    assert [(item.key, item.caption) for item in items_of(plan)] == [
        ("b.txt/1", "one"),
        ("a.txt/1", "one"),
        ("a.txt/2", "two"),
    ]
    assert [unit.number for unit in plan.units] == [0, 1]


def test_a_line_without_end_is_passed_over_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_lines, "MAX_LINE", 10)
    lines = [b"1234567.jpg", b"x" * 95, b"y" * 8 + b"\r", b"z" * 20, b"last"]
    address = put(str(tmp_path), "a.txt", b"\n".join(lines))
    items = items_of(planned(address, tmp_path / "plan"))
    assert [item.key for item in items] == ["1", "2", "y" * 8, "4", "last"]
    assert items[1].fault == "line 2 has more than 10 bytes"


def test_fields_of_objects_are_found_by_their_names(root: str, tmp_path: Path) -> None:
    put(root, "a.jpg", b"a")
    address = put(
        root,
        "a.jsonl",
        '{"image": "a.jpg", "caption": "a cat", "other": [1]}\n'
        '{"Image_Path": "b.jpg", "TEXT": "a dog", "key": 17}\n'
        '{"file_name": "c.jpg", "text": "", "__key__": "c"}\n',
    )
    items = items_of(planned(address, tmp_path / "plan", BOTH))
    assert [(item.key, item.path, item.caption) for item in items] == [
        ("a.jpg", f"{root}/a.jpg", "a cat"),
        ("17", f"{root}/b.jpg", "a dog"),
        ("c", f"{root}/c.jpg", ""),
    ]
    assert content(items[0]) == b"a"


def test_fields_may_be_named(tmp_path: Path) -> None:
    line = '{"image": "no.jpg", "thumb": "a.jpg", "caption": "no", "alt": "a cat", "id": "x"}'
    address = put(str(tmp_path), "a.jsonl", line)
    source = Source(address, image_column="thumb", text_column="alt", key_column="id")
    (item,) = items_of(planned(source, tmp_path / "plan", BOTH))
    assert (item.key, item.path, item.caption) == ("x", f"{tmp_path}/a.jpg", "a cat")


def test_each_tower_gets_what_is_its_own(tmp_path: Path) -> None:
    address = put(str(tmp_path), "a.jsonl", '{"image": "a.jpg", "caption": "a cat"}')
    (item,) = items_of(planned(address, tmp_path / "image", ("image",)))
    assert item.image is not None
    assert item.caption == "a cat"
    (item,) = items_of(planned(address, tmp_path / "text", ("text",)))
    assert (item.key, item.image, item.caption) == ("1", None, "a cat")


def test_one_of_two_sides_may_be_missing(tmp_path: Path) -> None:
    address = put(str(tmp_path), "a.jsonl", '{"image": "a.jpg"}\n{"text": "b", "image": null}')
    one, other = items_of(planned(address, tmp_path / "plan", BOTH))
    assert one.image is not None
    assert one.caption is None
    assert (other.key, other.image, other.caption, other.fault) == ("2", None, "b", None)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"no", "not JSON"),
        (b'{"image": "a.jpg"', "not JSON"),
        (b'{"image": "\xff"}', "not JSON"),
        (b'{"image": "\\ud800"}', "not JSON"),
        (b'{"image": "a.jpg"} {}', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "no JSON object but an array"),
        (b"null", "no JSON object but null"),
        (b"1e999", "not JSON"),
        (b"{}", "no picture and no text; its names are "),
        (b'{"url": "a.jpg", "n": 1}', "no picture and no text; its names are 'url', 'n'"),
        (b'{"image": null, "text": null}', "no picture and no text"),
        (b'{"image": ""}', "no picture and no text"),
        (b'{"image": {"path": "a.jpg"}}', "'image' is an object, it must be a path"),
        (b'{"image": "a.jpg", "text": 3}', "'text' is a number, it must be a text"),
        (b'{"image": "a.jpg", "text": true}', "'text' is true or false"),
        (b'{"image": "a.jpg", "key": []}', "'key' is an array"),
    ],
)
def test_a_bad_line_is_an_item_that_says_so(tmp_path: Path, line: bytes, message: str) -> None:
    good = b'{"image": "good.jpg"}'
    address = put(str(tmp_path), "a.jsonl", b"\n".join([good, line, good]))
    plan = planned(address, tmp_path / "plan", BOTH)
    first, bad, last = items_of(plan)
    assert first.fault is None
    assert first == last
    assert message in (bad.fault or "")
    assert bad.image is None
    assert plan.items == 3


def test_a_named_field_that_is_missing_is_named(tmp_path: Path) -> None:
    address = put(str(tmp_path), "a.jsonl", '{"image": "a.jpg"}')
    source = Source(address, image_column="thumb")
    (item,) = items_of(planned(source, tmp_path / "plan"))
    assert item.fault == "the object has no picture under 'thumb'; its names are 'image'"


def test_keys_may_occur_twice(tmp_path: Path) -> None:
    address = put(str(tmp_path), "a.txt", "a.jpg\na.jpg\n")
    assert keys_of(planned(address, tmp_path / "plan")) == ["a.jpg", "a.jpg"]


@pytest.mark.parametrize("text", ["3", "null", '{"a": 1}', '""'])
def test_a_text_that_is_only_kept_costs_no_picture(tmp_path: Path, text: str) -> None:
    line = f'{{"image": "a.jpg", "caption": {text}}}\n{{"image": null, "caption": "a cat"}}'
    one, other = items_of(planned(put(str(tmp_path), "a.jsonl", line), tmp_path / "plan"))
    assert (one.path, one.fault) == (f"{tmp_path}/a.jpg", None)
    assert one.caption == ("" if text == '""' else None)
    assert "the object has no picture" in (other.fault or "")


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
@pytest.mark.parametrize(
    ("address", "way_out"),
    [
        ("hdfs://namenode:8020/a.jpg", "put the list into a file of that hdfs:// store"),
        ("HDFS://namenode/a.jpg", "put the list into a file of that hdfs:// store"),
        ("oss://bucket/a.jpg", "put the list into a file of that oss:// store"),
        ("adl://host/a.jpg", "put the list into a file of that adl:// store"),
        ("abfs://container@host/a.jpg", "leave out @host"),
        ("abfss://container@host/a.jpg", "leave out @host"),
    ],
)
def test_rows_name_no_hosts(tmp_path: Path, name: str, address: str, way_out: str) -> None:
    line = f'{{"image": "{address}"}}' if name == "a.jsonl" else address
    (item,) = items_of(planned(put(str(tmp_path), name, line), tmp_path / "plan", BOTH))
    assert (item.image, item.path) == (None, None)
    assert way_out in (item.fault or "")


def test_rows_name_object_stores(tmp_path: Path) -> None:
    lines = ["s3://b/a.jpg", "gs://b/a.jpg", "gcs://b/a.jpg", "az://b/a.jpg", "abfs://b/a.jpg"]
    items = items_of(planned(put(str(tmp_path), "a.txt", "\n".join(lines)), tmp_path / "plan"))
    assert [item.path for item in items] == lines


@pytest.mark.parametrize("line", [b"{", b"[]", b"7", b'["a.jpg", "b"]', b"[" * 100_000, b"\xff"])
def test_a_damaged_listing_is_no_picture(line: bytes) -> None:
    lines = Lines(form="paths", wanted=Wanted(("image",)), base="/folder", quoted=True)
    unit = LineUnit(number=0, address="", stamp="", items=1, start=0, end=len(line))
    with pytest.raises(DeploymentError, match="the frozen listing of the source is damaged"):
        list(read_lines(io.BufferedReader(io.BytesIO(line)), unit, lines, 0))


def test_long_names_of_objects_are_not_remembered() -> None:
    lines = Lines(form="objects", wanted=Wanted(("text",)), base="/folder")
    _lines._chosen.cache_clear()
    rows = [json.dumps({"x" * 5000: n, "caption": "a"}) for n in range(3)]
    rows += [json.dumps({**dict.fromkeys(map(str, range(300))), "caption": "a"})]
    data = "\n".join(rows).encode()
    unit = LineUnit(number=0, address="", stamp="", items=4, start=0, end=len(data))
    found = list(read_lines(io.BufferedReader(io.BytesIO(data)), unit, lines, 0))
    assert [item.caption for item in found] == ["a"] * 4
    assert _lines._chosen.cache_info().currsize == 0
