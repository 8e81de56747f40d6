"""Tars of webdataset."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
from pathlib import Path

import pytest
from batch_sources import content, items_of, keys_of, planned, put, samples, tar
from hypothesis import given
from hypothesis import strategies as st

from cliprt_batch import _tars
from cliprt_batch._items import Ref

BOTH = ("image", "text")


@pytest.mark.parametrize("packed", [False, True])
def test_samples_are_pictures_with_captions(root: str, tmp_path: Path, packed: bool) -> None:
    address = put(root, "00000.tar", tar(samples(4), packed=packed))
    plan = planned(address, tmp_path / "plan", BOTH)
    items = items_of(plan)
    assert [item.key for item in items] == [f"00000.tar/{number:04}" for number in range(4)]
    assert [item.caption for item in items] == [f"picture {number}" for number in range(4)]
    assert [content(item) for item in items] == [bytes([number]) * 700 for number in range(4)]
    assert plan.items is None
    assert {item.path for item in items} == {None}


def test_pictures_of_a_plain_tar_stay_where_they_lie(tmp_path: Path) -> None:
    address = put(str(tmp_path), "a.tar", tar(samples(2)))
    items = items_of(planned(address, tmp_path / "plan"))
    assert all(isinstance(item.image, Ref) and item.image.address == address for item in items)
    assert [item.caption for item in items] == ["picture 0", "picture 1"]


def test_a_text_that_is_only_kept_costs_no_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_tars, "MAX_TEXT", 5)
    members = [("a.jpg", b"p"), ("a.txt", b"\xff"), ("b.jpg", b"p"), ("b.json", b"{")]
    members += [("c.jpg", b"p"), ("c.txt", b"too long"), ("d.txt", b"d")]
    *items, last = items_of(planned(put(str(tmp_path), "a.tar", tar(members)), tmp_path / "plan"))
    assert [(item.caption, item.fault) for item in items] == [(None, None)] * 3
    assert [content(item) for item in items] == [b"p"] * 3
    assert last.fault == "the sample has no picture; its members are .txt"


def test_tars_are_told_apart_by_their_folders(root: str, tmp_path: Path) -> None:
    for name in ("0.tar", "x/0.tar", "x/1.tar.gz"):
        put(root, name, tar(samples(1), packed=name.endswith("gz")))
    expected = ["0.tar/0000", "x/0.tar/0000", "x/1.tar.gz/0000"]
    advanced: list[int] = []
    assert keys_of(planned(root, tmp_path / "plan", advanced=advanced)) == expected
    assert sum(advanced) == 3
    assert keys_of(planned(f"{root}/**/0.tar", tmp_path / "glob"))[-1] == "x/0.tar/0000"
    assert keys_of(planned(f"{root}/x/{{0..0}}.tar", tmp_path / "braces")) == ["0.tar/0000"]


@pytest.mark.parametrize(
    ("members", "key", "picture", "caption"),
    [
        ([("a.JPG", b"p"), ("a.caption", b"c\n")], "a", b"p", "c"),
        ([("a.txt", b"c"), ("a.webp", b"p")], "a", b"p", "c"),
        ([("in/x.y/a.png", b"p"), ("in/x.y/a.txt", b"c")], "in/x.y/a", b"p", "c"),
        ([("./a.jpg", b"p"), ("./a.txt", b"c")], "./a", b"p", "c"),
        ([("a.v1.jpg", b"p"), ("a.txt", b"c")], "a", b"p", "c"),
        ([("a.seg.png", b"no"), ("a.jpg", b"p"), ("a.txt", b"c")], "a", b"p", "c"),
        ([("a.jpg", b"p"), ("a.png", b"no"), ("a.txt", b"c")], "a", b"p", "c"),
        ([("a.jpg", b"p"), ("a.json", b'{"caption": "c"}')], "a", b"p", "c"),
        ([("a.json", b'{"caption": "no"}'), ("a.jpg", b"p"), ("a.txt", b"c")], "a", b"p", "c"),
        ([("a.jpg", b"p"), ("a.json", b"[]")], "a", b"p", None),
        ([("a.jpg", b"p"), ("a.json", b'{"caption": 3}')], "a", b"p", None),
        ([("a.jpg", b"p"), ("a.cls", b"3")], "a", b"p", None),
        ([("a.cls", b"3"), ("a.txt", b"c")], "a", None, "c"),
        ([("a" * 200 + ".jpg", b"p"), ("a" * 200 + ".txt", b"c")], "a" * 200, b"p", "c"),
        ([("ä.jpg", b"p"), ("ä.txt", "ö".encode())], "ä", b"p", "ö"),
        ([("a.jpg", b""), ("a.txt", b"")], "a", b"", ""),
    ],
)
@pytest.mark.parametrize("layout", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_members_make_a_sample(
    tmp_path: Path,
    members: list[tuple[str, bytes]],
    key: str,
    picture: bytes | None,
    caption: str | None,
    layout: int,
) -> None:
    address = put(str(tmp_path), "t.tar", tar(members, format=layout))
    (item,) = items_of(planned(address, tmp_path / "plan", BOTH))
    assert (item.key, content(item), item.caption) == (f"t.tar/{key}", picture, caption)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.cls", b"3"), ("a.npy", b"")], "no picture and no text; its members are .cls, .npy"),
        ([("a.jpg", b""), ("a.txt", b"\xff")], "its text cannot be read"),
        ([("a.jpg", b""), ("a.json", b"{")], "its text cannot be read"),
    ],
)
def test_a_sample_that_is_none_says_why(
    tmp_path: Path, members: list[tuple[str, bytes]], message: str
) -> None:
    good = [("b.jpg", b"")]
    address = put(str(tmp_path), "t.tar", tar(members + good))
    bad, after = items_of(planned(address, tmp_path / "plan", BOTH))
    assert message in (bad.fault or "")
    assert (after.key, after.fault) == ("t.tar/b", None)


def test_other_members_are_passed_over(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        for name, kind in (("d.jpg", tarfile.DIRTYPE), ("l.jpg", tarfile.SYMTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            file.addfile(member)
        for name in ("._a.jpg", "none", "__meta__.jpg", "in/.hidden.jpg", "a.jpg"):
            file.addfile(tarfile.TarInfo(name))
    assert keys_of(planned(put(str(tmp_path), "t.tar", out.getvalue()), tmp_path / "plan")) == [
        "t.tar/a"
    ]


def test_names_that_lead_out_are_keys_and_nothing_else(tmp_path: Path) -> None:
    """Nothing of an archive is ever written to the disk, whatever its members are called."""
    names = ("../../out.jpg", "/tmp/out.jpg", "a/../../b.jpg", "\\tmp\\c.jpg")
    (tmp_path / "in").mkdir()
    address = put(str(tmp_path / "in"), "t.tar", tar([(name, b"p") for name in names]))
    before = sorted(tmp_path.rglob("*"))
    plan = planned(address, tmp_path / "plan")
    found = items_of(plan)
    assert [content(item) for item in found] == [b"p"] * 4
    assert [item.key for item in found] == [f"t.tar/{name[:-4]}" for name in names]
    after = [path for path in tmp_path.rglob("*") if (tmp_path / "plan") not in path.parents]
    assert sorted(after) == [*before, tmp_path / "plan"]


def test_names_that_are_not_utf_8_have_keys_that_are(tmp_path: Path) -> None:
    data = tar([("\udcff.jpg", b"p")], format=tarfile.GNU_FORMAT)
    (item,) = items_of(planned(put(str(tmp_path), "t.tar", data), tmp_path / "plan"))
    assert item.key == "t.tar/%FF"
    assert content(item) == b"p"


def test_a_member_that_is_too_long_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_tars, "MAX_MEMBER", 10)
    data = tar([("a.jpg", bytes(11)), ("b.jpg", bytes(10))], packed=True)
    bad, good = items_of(planned(put(str(tmp_path), "t.tar.gz", data), tmp_path / "plan"))
    assert "'a.jpg' has 11 bytes, more than 10 are not read" in (bad.fault or "")
    assert content(good) == bytes(10)


@pytest.mark.parametrize("packed", [False, True])
def test_an_empty_tar_has_no_items(tmp_path: Path, packed: bool) -> None:
    address = put(str(tmp_path), "t.tar", tar([], packed=packed))
    assert items_of(planned(address, tmp_path / "plan")) == []


@pytest.mark.parametrize("data", [b"", b"no tar", bytes(range(256)) * 8, b"\x1f\x8bno gzip"])
def test_what_is_no_tar_is_an_item_that_says_so(root: str, tmp_path: Path, data: bytes) -> None:
    (item,) = items_of(planned(put(root, "t.tar", data), tmp_path / "plan"))
    assert item.key == "t.tar"
    assert f"the tar '{root}/t.tar' is damaged or cut off at byte 0" in (item.fault or "")


@pytest.mark.parametrize(
    "end",
    [1, 511, 513, 1000, 2500, 2600, 3072, 5 * 2560 - 1, 5 * 2560 + 511, 9 * 2560 - 505],
)
def test_a_tar_that_is_cut_off_gives_what_is_before(root: str, tmp_path: Path, end: int) -> None:
    # A sample has 512 + 1024 bytes of picture and 512 + 512 of caption.
    data = tar(samples(9))
    whole = items_of(planned(put(root, "t.tar", data), tmp_path / "whole", BOTH))
    cut = items_of(planned(put(root, "t.tar", data[:end]), tmp_path / "cut", BOTH))
    # Whether a sample is complete only the header behind it tells.
    complete = max(0, end - 512) // 2560
    assert cut[:complete] == whole[:complete]
    assert len(cut) == complete + 1
    assert "damaged or cut off at byte" in (cut[-1].fault or "")


@pytest.mark.parametrize("packed", [False, True])
def test_a_damaged_header_is_not_taken_for_the_end(tmp_path: Path, packed: bool) -> None:
    data = bytearray(tar(samples(5)))
    data[2 * 2560 : 2 * 2560 + 8] = b"\xff" * 8
    if packed:
        data = bytearray(gzip.compress(bytes(data)))
    items = items_of(planned(put(str(tmp_path), "t.tar", bytes(data)), tmp_path / "plan"))
    assert [item.fault is None for item in items] == [True, False]
    assert "at byte 5,120" in (items[1].fault or "")


@pytest.mark.parametrize("packed", [False, True])
@given(
    count=st.integers(0, 6),
    damage=st.none() | st.tuples(st.floats(0, 1), st.sampled_from(["cut", "flip"])),
    seed=st.integers(0, 9),
)
def test_reading_from_any_sample_on_gives_the_rest(
    tmp_path_factory: pytest.TempPathFactory,
    packed: bool,
    count: int,
    damage: tuple[float, str] | None,
    seed: int,
) -> None:
    folder = tmp_path_factory.mktemp("tar")
    noise = random.Random(seed)
    members = [
        (name, noise.randbytes(noise.choice([0, 100, 512, 30_000])) if ".jpg" in name else data)
        for name, data in samples(count)
    ]
    data = tar(members, packed=packed)
    if damage is not None:
        place = int(damage[0] * (len(data) - 1))
        rest = bytes([data[place] ^ 0x55]) + data[place + 1 :] if damage[1] == "flip" else b""
        data = data[:place] + rest
    plan = planned(put(str(folder), "t.tar", data), folder / "plan", BOTH)
    (unit,) = plan.units
    items = list(plan.read(unit))
    if damage is None:
        assert len(items) == count
    for start in range(len(items) + 2):
        assert list(plan.read(unit, start)) == items[start:]


def test_memory_does_not_grow_with_the_members(tmp_path: Path) -> None:
    address = put(str(tmp_path), "t.tar", tar([(f"{n}.jpg", b"") for n in range(2000)]))
    plan = planned(address, tmp_path / "plan")
    seen: list[int] = []
    original = _tars._Tar.open

    def watched(*args: object, **options: object) -> tarfile.TarFile:
        file: tarfile.TarFile = original(*args, **options)  # type: ignore[call-overload]
        step = file.next

        def following() -> tarfile.TarInfo | None:
            seen.append(len(file.members))  # type: ignore[attr-defined]
            return step()

        file.next = following  # type: ignore[method-assign]
        return file

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_tars._Tar, "open", watched)
        assert len(items_of(plan)) == 2000
    assert max(seen) <= 1
