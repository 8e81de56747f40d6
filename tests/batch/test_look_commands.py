"""`cliprt search` and `cliprt dedup` as they are typed, on the demo's pictures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from conftest import ROOT
from embedded_folders import random_units, write_folder
from PIL import Image

from cliprt import Bundle, InvalidInput, SpaceMismatch
from cliprt_batch._cli_dedup import dedup
from cliprt_batch._cli_search import search
from cliprt_batch._words import in_a_line
from cliprt_engines import CpuSettings, LocalClip
from cliprt_triton import TritonServer

PICTURES = ROOT / "demo" / "pictures"
LISTED = json.loads((PICTURES / "captions.json").read_text(encoding="utf-8"))

Folder = Callable[..., Path]


@pytest.fixture(scope="module")
def local(demo_bundle: Bundle) -> LocalClip:
    return LocalClip(demo_bundle, settings=CpuSettings())


@pytest.fixture
def demo_folder(tmp_path: Path, local: LocalClip) -> Folder:
    """Embeds the demo's pictures, and others behind them."""

    def made(*others: Path, layout: str = "npy", dtype: str = "float32") -> Path:
        files = [*(PICTURES / each["file"] for each in LISTED), *others]
        captions = [*(each["caption"] for each in LISTED), *("a copy" for _ in others)]
        sizes = [opened(file).size for file in files]
        return write_folder(
            tmp_path / "out",
            image=local.encode_image(files),
            text=local.encode_text(captions),
            layout=layout,
            dtype=dtype,
            cuts=(10, 20),
            columns={
                "key": [file.name for file in files],
                "image_path": [str(file) for file in files],
                "caption": captions,
                "width": [width for width, _ in sizes],
                "height": [height for _, height in sizes],
                "sha256": [hashlib.sha256(file.read_bytes()).hexdigest() for file in files],
            },
            space=local.card.space,
            model="cliprt/demo",
        )

    return made


def opened(file: Path) -> Image.Image:
    with Image.open(file) as picture:
        return picture.convert("RGB")


def run(command: object, *arguments: object) -> Result:
    result = CliRunner().invoke(command, [str(one) for one in arguments])  # type: ignore[arg-type]
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.mark.parametrize(("layout", "dtype"), [("npy", "float32"), ("parquet", "float16")])
def test_a_caption_finds_its_picture(
    demo_folder: Folder, demo_bundle: Bundle, layout: str, dtype: str
) -> None:
    folder = demo_folder(layout=layout, dtype=dtype)
    asked = LISTED[0]
    result = run(search, folder, asked["caption"], "--bundle", demo_bundle.path, "--json")
    hits = json.loads(result.stdout)
    assert len(hits) == 10
    assert (hits[0]["key"], hits[0]["caption"]) == (asked["file"], asked["caption"])
    assert [hit["score"] for hit in hits] == sorted((h["score"] for h in hits), reverse=True)


def test_a_picture_finds_itself_and_its_caption(demo_folder: Folder, demo_bundle: Bundle) -> None:
    folder, file = demo_folder(), PICTURES / LISTED[4]["file"]
    options = ("--image", file, "--bundle", demo_bundle.path, "--json", "--top", 1)
    (hit,) = json.loads(run(search, folder, *options).stdout)
    assert hit["key"] == file.name
    assert hit["score"] == pytest.approx(1.0, abs=1e-5)
    (hit,) = json.loads(run(search, folder, *options, "--among", "text").stdout)
    assert hit["key"] == file.name


def test_a_server_embeds_the_query_as_well(
    demo_folder: Folder, demo_bundle: Bundle, demo_server: TritonServer
) -> None:
    folder, asked = demo_folder(), LISTED[0]["caption"]
    here = run(search, folder, asked, "--bundle", demo_bundle.path).stdout
    assert run(search, folder, asked, "--url", demo_server.address).stdout == here


def test_a_text_and_a_picture_together(demo_folder: Folder, demo_bundle: Bundle) -> None:
    folder = demo_folder()
    one, other = LISTED[0], PICTURES / LISTED[4]["file"]
    found = {}
    for name, query in (
        ("text", (one["caption"],)),
        ("image", ("--image", other)),
        ("both", (one["caption"], "--image", other)),
    ):
        arguments = (folder, *query, "--bundle", demo_bundle.path, "--json", "--top", 28)
        hits = json.loads(run(search, *arguments).stdout)
        found[name] = {hit["key"]: hit["score"] for hit in hits}
    mean = {key: found["text"][key] + found["image"][key] for key in found["text"]}
    assert list(found["both"]) == sorted(mean, key=lambda key: -mean[key])


def test_the_table_in_a_pipe(demo_folder: Folder, demo_bundle: Bundle) -> None:
    asked = LISTED[0]
    result = run(search, demo_folder(), asked["caption"], "--bundle", demo_bundle.path, "--top", 2)
    head, first, _ = result.stdout.splitlines()
    assert head.split() == ["score", "key", "caption"]
    assert first.split(maxsplit=2)[1:] == [asked["file"], asked["caption"]]


def test_the_contact_sheet_of_a_search(
    demo_folder: Folder, demo_bundle: Bundle, tmp_path: Path
) -> None:
    sheet = tmp_path / "sheet.html"
    result = run(
        search, demo_folder(), "<b>a star</b>", "--image", PICTURES / LISTED[4]["file"],
        "--bundle", demo_bundle.path, "--html", sheet, "--top", 3,
    )  # fmt: skip
    assert result.stdout.splitlines()[-1] == f"contact sheet: {sheet}"
    page = sheet.read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 4
    assert "&lt;b&gt;a star&lt;/b&gt; + 05-purple-checkered-moon.jpg" in page


def test_a_bundle_of_another_model_is_refused_before_anything_is_computed(
    demo_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(tmp_path / "out", image=random_units(3), model="other/model")
    monkeypatch.delattr(LocalClip, "encode_text")
    with pytest.raises(SpaceMismatch, match=r"other/model \(space 5a5a.*cliprt compare"):
        run(search, folder, "a star", "--bundle", demo_bundle.path)


def test_what_is_missing_is_said(tmp_path: Path, demo_bundle: Bundle) -> None:
    folder = write_folder(tmp_path / "out", image=random_units(3))
    with pytest.raises(InvalidInput, match="--what both"):
        run(search, folder, "a star", "--bundle", demo_bundle.path, "--among", "text")
    for arguments, reason in (
        ((folder, "--bundle", demo_bundle.path), "TEXT, --image FILE or both"),
        ((folder, "a star"), "--bundle DIR or --url HOST:PORT"),
        ((folder, "a star", "--bundle", "x", "--url", "y:1"), "--bundle DIR or --url HOST:PORT"),
    ):
        result = run(search, *arguments)
        assert result.exit_code == 2
        assert reason in result.stderr


@pytest.fixture
def copies(tmp_path: Path) -> list[Path]:
    """The same bytes, a smaller one, and one saved again twice as large."""
    first, second, third = (PICTURES / LISTED[number]["file"] for number in (3, 8, 14))
    made = [tmp_path / "same.png", tmp_path / "small.jpg", tmp_path / "large.png"]
    made[0].write_bytes(first.read_bytes())
    picture = opened(second)
    picture.resize((picture.width * 3 // 4, picture.height * 3 // 4)).save(made[1], quality=90)
    picture = opened(third)
    picture.resize((picture.width * 2, picture.height * 2)).save(made[2])
    return made


EXPECTED = [
    [LISTED[3]["file"], "same.png"],
    [LISTED[8]["file"], "small.jpg"],
    ["large.png", LISTED[14]["file"]],
]


def test_copies_are_found_and_the_largest_is_kept(demo_folder: Folder, copies: list[Path]) -> None:
    result = json.loads(run(dedup, demo_folder(*copies), "--json").stdout)
    found = [
        [group["representative"]["key"], *(one["key"] for one in group["duplicates"])]
        for group in result["groups"]
    ]
    assert found == EXPECTED
    assert (result["threshold"], result["items"]) == (0.98, 31)


def test_the_table_of_duplicates(demo_folder: Folder, copies: list[Path]) -> None:
    lines = run(dedup, demo_folder(*copies), "--show", 1).stdout.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["group", "1", "same"]
    assert lines[3] == "and 2 more groups (--show, --out, --json)"
    assert lines[4] == (
        "3 of 31 pictures are duplicates, in 3 groups; 1 have the same bytes as another"
    )


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_groups_as_a_file(
    demo_folder: Folder, copies: list[Path], tmp_path: Path, suffix: str
) -> None:
    target = tmp_path / f"groups.{suffix}"
    run(dedup, demo_folder(*copies), "--out", target)
    if suffix == "parquet":
        rows = pq.read_table(target).to_pylist()
    else:
        rows = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    assert [(row["group"], row["key"]) for row in rows] == [
        (number, key) for number, keys in enumerate(EXPECTED, start=1) for key in keys
    ]
    assert [row["keep"] for row in rows] == [True, False] * 3
    assert [row["exact"] for row in rows] == [False, True, False, False, False, False]
    assert rows[4]["image_path"] == str(copies[2])


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_no_groups_as_a_file(tmp_path: Path, suffix: str) -> None:
    folder = write_folder(tmp_path / "out", image=np.eye(4, dtype=np.float32))
    target = tmp_path / f"groups.{suffix}"
    run(dedup, folder, "--out", target, "--html", tmp_path / "a.html")
    if suffix == "parquet":
        assert pq.read_table(target).num_rows == 0
    else:
        assert target.read_bytes() == b""


def test_the_contact_sheet_of_duplicates(
    demo_folder: Folder, copies: list[Path], tmp_path: Path
) -> None:
    run(dedup, demo_folder(*copies), "--html", tmp_path / "a.html", "--show", 2)
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 4
    assert page.count('<figure class="marked">') == 2
    assert "the first 2 of 3 groups among 31 pictures" in page


def test_a_file_of_another_kind_is_refused_at_once(tmp_path: Path) -> None:
    result = run(dedup, tmp_path, "--out", "groups.csv")
    assert result.exit_code == 2
    assert "must end with .parquet or .jsonl" in result.stderr


def test_a_long_run_is_announced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cliprt_batch._cli_dedup._LONG_FROM", 2)
    monkeypatch.setattr("cliprt_batch._cli_dedup.seconds_for", lambda count, dim: 10_000.0)
    folder = write_folder(tmp_path, image=random_units(3))
    assert "all pairs of 3 pictures: about 3 h" in run(dedup, folder).stderr


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (None, ""),
        ("a cat", "a cat"),
        ("a\ncat\t \r\nsits", "a cat sits"),
        ("\x1b[2Jcat\x07", "[2Jcat"),
        ("\u202ecat", "cat"),
        ("c" * 101, "c" * 99 + "…"),
        ("c" * 100, "c" * 100),
    ],
)
def test_texts_fit_a_line(text: str | None, line: str) -> None:
    assert in_a_line(text) == line
