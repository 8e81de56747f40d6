"""Which source an address is, and what a plan of it keeps to."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import sys
from pathlib import Path

import fsspec
import msgspec
import pytest
from batch_sources import items_of, keys_of, parquet, planned, put, samples, tar
from hypothesis import given
from hypothesis import strategies as st

from cliprt import DeploymentError, InvalidInput
from cliprt_batch._source import LISTING, PLAN, Source, SourceChanged, make_plan, open_plan

LINES = "\n".join(f"{number}.jpg" for number in range(7)) + "\n"


def type_in(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.txt", LINES.encode(), "list"),
        ("a.LST", LINES.encode(), "list"),
        ("a.jsonl", b'{"path": "a.jpg"}', "jsonl"),
        ("a.ndjson", b'{"path": "a.jpg"}', "jsonl"),
        ("a.tar", tar(samples(1)), "tar"),
        ("a.tar.gz", tar(samples(1), packed=True), "tar"),
        ("a.parquet", parquet({"path": ["a.jpg"]}), "parquet"),
    ],
)
def test_a_file_is_known_by_its_suffix(root: str, name: str, content: bytes, kind: str) -> None:
    address = put(root, name, content)
    assert Source(address).describe() == {"kind": kind, "address": address}


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["a.jpg"], "folder"),
        (["in/a.jpg", "in/b.tar"], "folder"),
        (["a.tar", "a.parquet"], "tar"),
        (["a.parquet", "a.json"], "parquet"),
        (["a.tar", "a.PNG"], "folder"),
        ([".a.tar", "in/a.jpg"], "folder"),
    ],
)
def test_a_folder_is_known_by_what_lies_in_it(root: str, names: list[str], kind: str) -> None:
    for name in names:
        put(root, name, b"")
    assert Source(root).describe() == {"kind": kind, "address": root}


def test_a_description_is_the_same_from_every_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(str(tmp_path), "in/a.jpg", b"")
    monkeypatch.chdir(tmp_path)
    described = Source("in").describe()
    monkeypatch.chdir(tmp_path / "in")
    assert Source("../in/.").describe() == described == Source(str(tmp_path / "in")).describe()


def test_columns_are_part_of_the_description(tmp_path: Path) -> None:
    address = put(str(tmp_path), "a.jsonl", b"")
    described = Source(address, image_column="pic", key_column="id").describe()
    assert described["image_column"] == "pic"
    assert described["key_column"] == "id"
    assert "text_column" not in described


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Source("{}/no"), "No such file"),
        (Source("{}/no.tar"), "No such file"),
        (Source("{}/no.parquet"), "No such file"),
        (Source("{}/no.jsonl"), "No such file"),
        (Source("{}/no", kind="folder"), "No such file"),
        (Source("{}/*.tar"), "nothing matches"),
        (Source("{}/{{0..1}}.tar"), r"0\.tar' cannot be read: No such file"),
        (Source("{}/a.bin"), r"of no known kind.*\*\.jsonl.*name the kind"),
        (Source("{}/a.bin", kind="folder"), "needs a folder"),
        (Source("{}", kind="tar"), r"holds no file named \*\.tar, "),
        (Source("{}"), "nothing to embed: the folder .* holds no file with one of the suffixes"),
        (Source("{}/empty.txt"), "nothing to embed"),
        (Source("{}/a.bin", kind="list", image_column="x"), "columns can be named in JSON lines"),
        (Source("{}/a.bin", kind="zip"), "no such kind of source: 'zip'"),  # type: ignore[arg-type]
        (Source(""), "the source is empty"),
        (Source("-", kind="tar"), "standard input cannot be"),
        (Source("{}/a.bin", kind="stdin"), "standard input is given as '-'"),
        (Source("http://example.com/a.tar"), "URLs are not fetched"),
        (Source("https://example.com/{{0..9}}.tar"), "URLs are not fetched"),
        (Source("https://example.com/*.tar"), "URLs are not fetched"),
        (Source("{}/{{0..99999999}}.tar"), "more than 1,000,000 files"),
        (Source("{}/a\0b.tar"), "null"),
    ],
)
def test_a_source_that_cannot_be_is_refused_in_words(
    tmp_path: Path, source: Source, message: str
) -> None:
    root = tmp_path / "source"
    put(str(root), "a.bin", b"x")
    put(str(root), "empty.txt", b"\n# a.jpg\n")
    source = Source(source.address.format(root), source.kind, source.image_column)
    with pytest.raises(InvalidInput, match=message):
        planned(source, tmp_path / "plan")
    assert not list((tmp_path / "plan").glob("*"))


def test_a_plan_is_cut_into_units_and_counts_its_items(root: str, tmp_path: Path) -> None:
    advanced: list[int] = []
    plan = planned(put(root, "a.txt", LINES), tmp_path / "plan", advanced=advanced)
    assert [unit.items for unit in plan.units] == [3, 3, 1]
    assert [unit.number for unit in plan.units] == [0, 1, 2]
    assert plan.items == sum(advanced) == 7
    assert keys_of(plan) == LINES.split()


def test_a_plan_is_the_same_when_it_is_made_again(root: str, tmp_path: Path) -> None:
    for name in ("b/2.jpg", "a.jpg", "b.jpg", "b-c.jpg", "b/1.jpg"):
        put(root, name, b"")
    one, other = planned(root, tmp_path / "one"), planned(root, tmp_path / "two" / "other")
    assert one.sha256 == other.sha256
    for name in (PLAN, LISTING):
        assert (tmp_path / "one" / name).read_bytes() == (
            tmp_path / "two" / "other" / name
        ).read_bytes()


def test_a_listing_does_not_depend_on_where_the_folder_lies(tmp_path: Path) -> None:
    for name in ("b/2.jpg", "a.jpg", "b/1.jpg"):
        put(str(tmp_path / "here"), name, b"")
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    for name in ("here", "there"):
        planned(str(tmp_path / name), tmp_path / f"plan of {name}")
    one, other = ((tmp_path / f"plan of {name}" / LISTING) for name in ("here", "there"))
    assert one.read_bytes() == other.read_bytes()


def test_other_sources_have_other_plans(tmp_path: Path) -> None:
    root = str(tmp_path / "source")
    put(root, "a.jpg", b"")
    put(root, "b.jpg", b"")
    hashes = {
        planned(root, tmp_path / "1").sha256,
        planned(root, tmp_path / "2", towers=("image", "text")).sha256,
        planned(root, tmp_path / "3", shard_size=1).sha256,
    }
    put(root, "c.jpg", b"")
    hashes.add(planned(root, tmp_path / "4").sha256)
    assert len(hashes) == 4


def test_a_frozen_listing_does_not_see_later_files(tmp_path: Path) -> None:
    root = str(tmp_path / "source")
    put(root, "b.jpg", b"")
    planned(root, tmp_path / "plan")
    put(root, "a.jpg", b"")
    assert keys_of(open_plan(tmp_path / "plan")) == ["b.jpg"]


@pytest.mark.parametrize("change", ["longer", "gone", "touched"])
@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.txt", LINES.encode()),
        ("a.jsonl", b'{"path": "a.jpg"}'),
        ("a.tar", tar(samples(2))),
        ("a.parquet", parquet({"path": ["a.jpg"]})),
    ],
)
def test_a_file_that_changed_is_not_read(
    tmp_path: Path, name: str, data: bytes, change: str
) -> None:
    address = put(str(tmp_path), name, data)
    plan = planned(address, tmp_path / "plan")
    before = plan.units[0].stamp
    if change == "longer":
        put(str(tmp_path), name, data + data)
    elif change == "gone":
        Path(address).unlink()
    else:
        os.utime(address, ns=(1, 1))
    with pytest.raises(SourceChanged) as caught:
        next(plan.read(plan.units[0]))
    assert before in str(caught.value)
    assert name in str(caught.value)
    if change == "touched":
        assert "mtime=1;" in str(caught.value)


def test_a_stored_file_that_changed_is_not_read(tmp_path: Path) -> None:
    plan = planned(put("memory://changing", "a.tar", tar(samples(2))), tmp_path / "plan")
    put("memory://changing", "a.tar", tar(samples(3)))
    with pytest.raises(SourceChanged, match="is not what was planned"):
        items_of(plan)


def test_a_file_that_changes_while_it_is_read_is_told(tmp_path: Path) -> None:
    address = put(str(tmp_path), "a.tar", tar(samples(3)))
    plan = planned(address, tmp_path / "plan")
    items = plan.read(plan.units[0])
    assert next(items).key == "a.tar/0000"
    os.utime(address, ns=(1, 1))
    with pytest.raises(SourceChanged, match="mtime=1;"):
        list(items)


@pytest.mark.parametrize("change", ["shorter", "gone"])
def test_a_listing_that_was_lost_is_told(tmp_path: Path, change: str) -> None:
    put(str(tmp_path / "source"), "a.jpg", b"")
    plan = planned(str(tmp_path / "source"), tmp_path / "plan")
    (tmp_path / "plan" / LISTING).unlink()
    if change == "shorter":
        (tmp_path / "plan" / LISTING).touch()
    with pytest.raises(SourceChanged, match="listing"):
        items_of(plan)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data.replace(b'"number":0', b'"number":1'),
        lambda data: data.replace(b'"cliprt_plan":1', b'"cliprt_plan":99'),
        lambda data: b"\xff" + data,
    ],
)
def test_a_damaged_plan_is_refused(tmp_path: Path, damage: object) -> None:
    planned(put(str(tmp_path), "a.txt", LINES), tmp_path / "plan")
    path = tmp_path / "plan" / PLAN
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(DeploymentError, match=r"the plan .*(damaged|version 99)"):
        open_plan(tmp_path / "plan")


def test_a_folder_without_a_plan_is_named(tmp_path: Path) -> None:
    with pytest.raises(DeploymentError, match=r"plan\.jsonl cannot be read: No such file"):
        open_plan(tmp_path)


def test_a_plan_that_cannot_be_written_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    address = put(str(tmp_path), "a.txt", LINES)
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(DeploymentError, match="No space left"):
        planned(address, tmp_path / "plan")
    assert not list((tmp_path / "plan").iterdir())


def test_impossible_plans_are_refused(tmp_path: Path) -> None:
    for towers, size in (((), 3), (("sound",), 3), (("image",), 0)):
        with pytest.raises(InvalidInput, match="cannot be planned"):
            make_plan(Source("x"), tmp_path, towers=towers, shard_size=size, advance=print)


def test_paths_come_through_the_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    type_in(monkeypatch, b"\xef\xbb\xbf\n# skipped\na.jpg\n/x/b.jpg\r\ns3://bucket/c.jpg\n\xff.jpg")
    plan = planned("-", tmp_path / "plan")
    monkeypatch.chdir("/")
    items = items_of(open_plan(tmp_path / "plan"))
    assert [item.key for item in items] == ["a.jpg", "/x/b.jpg", "s3://bucket/c.jpg", "%FF.jpg"]
    assert [item.path for item in items] == [
        f"{tmp_path}/a.jpg",
        "/x/b.jpg",
        "s3://bucket/c.jpg",
        f"file://{tmp_path}/%FF.jpg",
    ]
    assert plan.items == 4


def test_texts_come_through_the_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    type_in(monkeypatch, "a cat\n\n#a tag\n ä \n".encode() + b"\xff\n")
    items = items_of(planned("-", tmp_path / "plan", towers=("text",)))
    assert [(item.key, item.caption) for item in items] == [
        ("1", "a cat"),
        ("3", "#a tag"),
        ("4", " ä "),
        ("5", None),
    ]
    assert items[3].fault == "the line is not UTF-8"


def test_objects_come_through_the_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    type_in(monkeypatch, b'\n  {"path": "a.jpg"}\nno\n\n{"path": "b.jpg", "key": 7}')
    items = items_of(planned("-", tmp_path / "plan"))
    assert [item.key for item in items] == ["a.jpg", "3", "7"]
    assert items[0].path == f"{tmp_path}/a.jpg"
    assert items[1].fault is not None


def test_a_list_of_texts_may_begin_with_a_brace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    type_in(monkeypatch, b"{a}\nb")
    plan = planned(Source("-", kind="list"), tmp_path / "plan", towers=("text",))
    assert [item.caption for item in items_of(plan)] == ["{a}", "b"]


def test_an_empty_standard_input_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    type_in(monkeypatch, b"\n\n")
    with pytest.raises(InvalidInput, match="the standard input is empty"):
        planned("-", tmp_path / "plan")


@pytest.mark.parametrize("name", ["a.txt", "a.tar"])
def test_a_plan_can_be_sent_to_other_processes(tmp_path: Path, name: str) -> None:
    address = put(str(tmp_path), name, LINES if name == "a.txt" else tar(samples(2)))
    plan = planned(address, tmp_path / "plan")
    sent = pickle.loads(pickle.dumps(plan))
    assert sent == plan
    assert items_of(sent) == items_of(plan)


def test_what_a_run_that_was_killed_left_is_taken_over(tmp_path: Path) -> None:
    put(str(tmp_path / "source"), "a.jpg", b"")
    for name in (PLAN, LISTING):
        put(str(tmp_path / "plan"), f".{name}.new", b"half a li")
    assert keys_of(planned(str(tmp_path / "source"), tmp_path / "plan")) == ["a.jpg"]
    assert sorted(path.name for path in (tmp_path / "plan").iterdir()) == [LISTING, PLAN]


def test_a_store_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> bool:
        raise PermissionError("no credentials")

    monkeypatch.setattr(fsspec.filesystem("memory"), "isdir", fail)
    with pytest.raises(InvalidInput, match="'memory://source' cannot be read: Permission denied"):
        Source("memory://source").describe()


def test_what_a_source_gives_can_be_sent(tmp_path: Path) -> None:
    root = str(tmp_path / "source")
    put(root, "a.jpg", b"")
    name = os.fsencode(root) + b"/\xff.jpg"
    with open(name, "wb"):  # noqa: PTH123 - of bytes
        pass
    items = items_of(planned(root, tmp_path / "plan"))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(items)) == msgspec.to_builtins(items)


LINE = st.one_of(
    st.sampled_from([b"", b"  ", b"# a", b"\xef\xbb\xbf", b"{", b'{"path": "a"}', b'"a"', b"\\"]),
    st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"")),
    st.text(max_size=8).map(lambda line: line.replace("\n", "").encode()),
)
BOTH = [("image",), ("text",), ("image", "text")]


@pytest.mark.parametrize("kind", ["list", "jsonl", "stdin"])
@given(
    lines=st.lists(LINE, max_size=12).map(lambda lines: [*lines, b"last"]),
    size=st.integers(1, 5),
    towers=st.sampled_from(BOTH),
)
def test_reading_from_any_item_on_gives_the_rest(
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    lines: list[bytes],
    size: int,
    towers: tuple[str, ...],
) -> None:
    folder = tmp_path_factory.mktemp("lines")
    source = Source(put(str(folder), "lines", b"\n".join(lines)), kind=kind)  # type: ignore[arg-type]
    with pytest.MonkeyPatch.context() as patch:
        if kind == "stdin":
            type_in(patch, b"\n".join(lines))
            source = Source("-")
        plan = planned(source, folder / "plan", towers, size)
    for unit in plan.units:
        items = list(plan.read(unit))
        assert len(items) == unit.items
        for start in range(len(items) + 1):
            assert list(plan.read(unit, start)) == items[start:]
    whole = planned_again(source, folder, towers, lines, kind)
    assert items_of(whole) == items_of(plan)


def planned_again(
    source: Source, folder: Path, towers: tuple[str, ...], lines: list[bytes], kind: str
) -> object:
    """The same in one unit."""
    with pytest.MonkeyPatch.context() as patch:
        if kind == "stdin":
            type_in(patch, b"\n".join(lines))
        return planned(source, folder / "whole", towers, 1000)
