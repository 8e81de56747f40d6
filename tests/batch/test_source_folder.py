"""Folders of pictures, and patterns of names."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from batch_sources import content, items_of, keys_of, planned, put
from hypothesis import given
from hypothesis import strategies as st

from cliprt import InvalidInput
from cliprt_batch import _lines
from cliprt_batch._addresses import read_text
from cliprt_batch._folder import PICTURES, files
from cliprt_batch._patterns import braces, is_pattern, matching
from cliprt_batch._source import LISTING


def test_a_tree_gives_its_pictures_by_their_names(root: str, tmp_path: Path) -> None:
    for name in ("b/d/2.PNG", "a.jpg", "b.jpg", "b/1.webp", "ä/ö.gif", "notes.md", "b/none"):
        put(root, name, name)
    put(root, "b-c.jpg", "b-c.jpg")
    plan = planned(root, tmp_path / "plan")
    items = items_of(plan)
    assert [item.key for item in items] == [
        *("a.jpg", "b-c.jpg", "b.jpg", "b/1.webp", "b/d/2.PNG", "ä/ö.gif")
    ]
    assert [content(item) for item in items] == [item.key.encode() for item in items]
    assert [item.path for item in items] == [f"{root}/{item.key}" for item in items]
    assert plan.items == 6


def test_hidden_files_and_folders_are_passed_over(root: str, tmp_path: Path) -> None:
    for name in ("a.jpg", ".b.jpg", ".c/d.jpg", "e/.f/g.jpg"):
        put(root, name, b"")
    assert keys_of(planned(root, tmp_path / "plan")) == ["a.jpg"]


def test_the_output_of_a_run_is_no_source(root: str, tmp_path: Path) -> None:
    put(root, "a.txt", b"a cat")
    put(root, "out/_cliprt/run.json", b"{}")
    put(root, "out/summary.txt", b"100 items")
    put(root, "_cliprt/b.txt", b"no")
    assert keys_of(planned(root, tmp_path / "plan", towers=("text",))) == ["a.txt"]


def test_links_to_files_are_taken_and_loops_are_not_followed(tmp_path: Path) -> None:
    root = tmp_path / "source"
    put(str(root), "in/a.jpg", b"a")
    (root / "in" / "loop").symlink_to(root)
    (root / "b.jpg").symlink_to(root / "in" / "a.jpg")
    (root / "gone.jpg").symlink_to(root / "nowhere")
    items = items_of(planned(str(root), tmp_path / "plan"))
    assert [item.key for item in items] == ["b.jpg", "gone.jpg", "in/a.jpg"]
    assert content(items[0]) == b"a"
    with pytest.raises(InvalidInput, match="No such file"):
        content(items[1])


def test_what_is_no_file_fails_when_it_is_read(tmp_path: Path) -> None:
    root = tmp_path / "source"
    put(str(root), "folder/a.jpg", b"a")
    (root / "link.jpg").symlink_to(root / "folder")
    os.mkfifo(root / "pipe.jpg")
    items = items_of(planned(str(root), tmp_path / "plan"))
    assert [item.key for item in items] == ["folder/a.jpg", "link.jpg", "pipe.jpg"]
    for item in items[1:]:
        with pytest.raises(InvalidInput, match="not a regular file"):
            content(item)


@pytest.mark.parametrize("name", [b"\xff\xfe.jpg", b"new\nline.jpg", b'"%41"\\.jpg', b"a::b.jpg"])
def test_any_name_can_be_read(tmp_path: Path, name: bytes) -> None:
    root = tmp_path / "source"
    (root / "in").mkdir(parents=True)
    with open(os.fsencode(root) + b"/in/" + name, "wb") as file:  # noqa: PTH123 - of bytes
        file.write(name)
    (item,) = items_of(planned(str(root), tmp_path / "plan"))
    assert content(item) == name
    assert item.key.encode("utf-8").startswith(b"in/")
    for line in (tmp_path / "plan" / LISTING).read_text("ascii").splitlines():
        json.loads(line)


def test_a_name_that_is_not_utf_8_is_percent_encoded(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    with open(os.fsencode(tmp_path) + b"/source/\xff\xc3\xa4.jpg", "wb"):  # noqa: PTH123
        pass
    assert keys_of(planned(str(tmp_path / "source"), tmp_path / "plan")) == ["%FFä.jpg"]


def test_captions_lie_beside_the_pictures(root: str, tmp_path: Path) -> None:
    put(root, "a.b.jpg", b"")
    put(root, "a.b.txt", "a cat\n")
    put(root, "in/none.jpg", b"")
    put(root, "bad.jpg", b"")
    put(root, "bad.txt", b"\xff")
    items = items_of(planned(root, tmp_path / "plan", towers=("image", "text")))
    assert [(item.key, item.caption) for item in items] == [
        ("a.b.jpg", "a cat"),
        ("bad.jpg", None),
        ("in/none.jpg", None),
    ]
    assert [item.image is not None for item in items] == [True, False, True]
    assert "not UTF-8" in (items[1].fault or "")


def test_captions_are_kept_for_pictures_alone(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in (("a.b", b"a cat\n"), ("in/none", None), ("bad", b"\xff"), ("z", b"z")):
        put(root, f"{name}.jpg", b"")
        if text is not None:
            put(root, f"{name}.txt", text)
    plan = planned(root, tmp_path / "plan")
    asked: list[str] = []

    def read(address: str, limit: int) -> str:
        asked.append(address)
        return read_text(address, limit)

    monkeypatch.setattr(_lines, "read_text", read)
    items = items_of(plan)
    assert [(item.key, item.caption) for item in items] == [
        ("a.b.jpg", "a cat"),
        ("bad.jpg", None),
        ("in/none.jpg", None),
        ("z.jpg", "z"),
    ]
    assert all(item.image is not None and item.fault is None for item in items)
    # Where there is no text, none is looked for.
    assert sorted(asked) == [f"{root}/{name}.txt" for name in ("a.b", "bad", "z")]


def test_texts_alone_are_the_items_of_the_text_tower(root: str, tmp_path: Path) -> None:
    put(root, "a.jpg", b"")
    put(root, "a.txt", "a cat\n")
    put(root, "in/b.txt", b"\xff")
    items = items_of(planned(root, tmp_path / "plan", towers=("text",)))
    assert [(item.key, item.caption, item.image) for item in items] == [
        ("a.txt", "a cat", None),
        ("in/b.txt", None, None),
    ]
    assert "not UTF-8" in (items[1].fault or "")


@pytest.mark.skipif(os.getuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_that_cannot_be_listed_is_no_empty_one(tmp_path: Path) -> None:
    put(str(tmp_path), "source/a.jpg", b"")
    (tmp_path / "source" / "in").mkdir(mode=0)
    with pytest.raises(InvalidInput, match=r"in' cannot be listed: Permission denied"):
        planned(str(tmp_path / "source"), tmp_path / "plan")


NAME = st.text("ab-./~é", min_size=1, max_size=3).map(lambda name: name.strip("./").strip("."))


@given(
    st.sets(
        st.lists(NAME.filter(lambda n: n and "/" not in n), min_size=1, max_size=3).map("/".join)
    )
)
def test_names_come_in_the_order_of_their_bytes(
    tmp_path_factory: pytest.TempPathFactory, names: set[str]
) -> None:
    root = tmp_path_factory.mktemp("tree")
    for name in names:
        put(str(root), f"{name}.d/x.jpg", b"")
        put(str(root), f"{name}.jpg", b"")
    found = [name.encode() for name in files(str(root), PICTURES)]
    assert found == sorted(found)
    assert len(found) == 2 * len(names)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("{00008..00011}.tar", ["00008.tar", "00009.tar", "00010.tar", "00011.tar"]),
        ("{8..11}", ["8", "9", "10", "11"]),
        ("{2..0}", ["2", "1", "0"]),
        ("{a,b}/{0..1}", ["a/0", "a/1", "b/0", "b/1"]),
        ("{a,{0..1}}", ["a", "0", "1"]),
        ("{a,}x", ["ax", "x"]),
        ("{a}", ["{a}"]),
        ("plain", ["plain"]),
    ],
)
def test_braces_are_those_of_a_shell(pattern: str, expected: list[str]) -> None:
    assert braces(pattern) == expected


def test_wildcards_match_in_order(root: str) -> None:
    for name in ("b.tar", "a.tar", "in/c.tar", "d.jpg"):
        put(root, name, b"")
    assert matching(f"{root}/*.tar") == [f"{root}/a.tar", f"{root}/b.tar"]
    assert matching(f"{root}/**/c.tar") == [f"{root}/in/c.tar"]
    assert matching(f"{root}/{{b,a}}.*") == [f"{root}/b.tar", f"{root}/a.tar"]


def test_a_file_with_the_name_of_a_pattern_is_that_file(tmp_path: Path) -> None:
    address = put(str(tmp_path), "[a].tar", b"")
    assert not is_pattern(address)
    assert is_pattern(str(tmp_path / "[b].tar"))
