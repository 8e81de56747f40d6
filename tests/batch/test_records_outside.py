"""Records of a folder of somebody else: nothing outside it is read, moved or linked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from embedded_folders import random_units, write_folder
from run_folders import PLAN, config, do_unit, rows

from cliprt import DeploymentError
from cliprt_batch import merge
from cliprt_batch._collection import Collection
from cliprt_batch._inside import check_inside
from cliprt_batch._output_errors import OutputError
from cliprt_batch._run_folder import RunFolder

OUTSIDE = ["../secret", "img_emb/../../secret", "/etc/passwd", "", ".", "..", "a//b", "a/", "a\0b"]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A finished folder of two units, beside a file that is none of its business."""
    out = tmp_path / "out"
    settings = config()
    with RunFolder.open(out, settings) as run:
        run.note_plan(PLAN)
        for unit in range(2):
            do_unit(run, settings, unit)
        run.finish(2)
    (tmp_path / "secret").write_text("precious", encoding="utf-8")
    return out


def edit(path: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def renamed(files: dict[str, Any], name: str) -> None:
    """Lets the first file of a record have another name."""
    first = next(iter(files))
    files[name] = files.pop(first)


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_that_leads_out(name: str) -> None:
    with pytest.raises(ValueError, match="is no path within the output"):
        check_inside(name)


@pytest.mark.parametrize("name", ["a", "img_emb/img_emb_000000.npy", "..a/b..", "a b", "ä"])
def test_a_name_that_does_not(name: str) -> None:
    check_inside(name)


def test_a_manifest_names_nothing_outside(tmp_path: Path) -> None:
    write_folder(tmp_path, image=random_units(3))
    edit(tmp_path / "manifest.json", lambda made: renamed(made["shards"][0]["files"], "../x"))
    with pytest.raises(DeploymentError, match=r"is damaged.*'\.\./x' is no path within"):
        Collection(tmp_path)


def test_a_unit_whose_record_does_is_done_again(out: Path) -> None:
    record = out / "_cliprt" / "done" / "000000.json"
    edit(record, lambda made: renamed(made["files"], "../secret"))
    with RunFolder.open(out, config()) as run:
        assert list(run.done()) == [1]


def test_a_share_whose_record_does_is_not_merged(out: Path, tmp_path: Path) -> None:
    record = out / "_cliprt" / "done" / "000000.json"
    edit(record, lambda made: renamed(made["files"], "../secret"))
    with pytest.raises(OutputError, match="is no path within the output"):
        merge([out], tmp_path / "merged")
    assert not list((tmp_path / "merged").rglob("secret"))


@pytest.mark.parametrize("move", [("../secret", "stolen"), ("img_emb", "../moved")])
def test_an_intent_moves_nothing_in_or_out(
    move: tuple[str, str], out: Path, tmp_path: Path
) -> None:
    record = json.loads((out / "_cliprt" / "done" / "000000.json").read_text())
    intent = out / "_cliprt" / "intent" / "000000.json"
    intent.write_text(json.dumps({"record": record, "moves": [move]}), encoding="utf-8")
    with pytest.raises(OutputError, match=r"000000\.json is damaged.*no path within the output"):
        RunFolder.open(out, config())
    assert (tmp_path / "secret").read_text(encoding="utf-8") == "precious"
    assert (out / "img_emb").is_dir()
    assert not (tmp_path / "moved").exists()


LINK = "is a symbolic link"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder of the user, with files that a shard or an intent could be named like."""
    folder = tmp_path / "private"
    folder.mkdir()
    for name in ("authorized_keys", "img_emb_000000.npy", "img_emb_000001.npy", "000000.json"):
        (folder / name).write_text("precious", encoding="utf-8")
    return folder


def held(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}


def led(path: Path, target: Path) -> None:
    """Puts a link in the place of what lies there, if anything does."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def led_after(path: Path, elsewhere: Path) -> None:
    """Moves a file or folder away, and puts a link to it in its place."""
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def intend(out: Path, *moves: tuple[str, str]) -> None:
    record = json.loads((out / "_cliprt" / "done" / "000000.json").read_text(encoding="utf-8"))
    # As of a shard without files, so that nothing but the moves names any.
    intent = json.dumps({"record": record | {"files": {}}, "moves": moves})
    (out / "_cliprt" / "intent" / "000000.json").write_text(intent, encoding="utf-8")


@pytest.mark.parametrize(
    "move", [("planted", "led/authorized_keys"), ("led/authorized_keys", "stolen")]
)
@pytest.mark.parametrize("go_on", ["resume", "merge"])
def test_an_intent_moves_nothing_through_a_link(
    move: tuple[str, str], go_on: str, out: Path, outside: Path
) -> None:
    before = held(outside)
    (out / "planted").write_text("of somebody else", encoding="utf-8")
    (out / "led").symlink_to(outside)
    intend(out, move)
    with pytest.raises(OutputError, match=f"out/led {LINK}.*Put what it leads to in its place"):
        RunFolder.open(out, config()) if go_on == "resume" else merge([out], out)
    assert held(outside) == before
    assert (out / "planted").exists()
    assert (out / "manifest.json").exists()
    assert not (out / "stolen").exists()


def test_a_run_is_not_gone_on_with_where_shards_lie_behind_a_link(out: Path, outside: Path) -> None:
    before = held(outside)
    led(out / "img_emb", outside)
    with pytest.raises(OutputError, match=f"out/img_emb {LINK}"):
        RunFolder.open(out, config())
    assert held(outside) == before


def test_a_commit_writes_nothing_through_a_link(tmp_path: Path, outside: Path) -> None:
    out, settings, before = tmp_path / "out", config(), held(outside)
    with RunFolder.open(out, settings) as run:
        run.note_plan(PLAN)
        led(out / "img_emb", outside)
        with pytest.raises(OutputError, match=f"out/img_emb {LINK}"):
            do_unit(run, settings, 0)
        assert not run.is_done(0)
    assert held(outside) == before


@pytest.mark.parametrize("name", ["", "tmp", "work", "done", "failed", "intent", "share", "lock"])
def test_nothing_of_a_run_itself_lies_behind_a_link(name: str, out: Path, outside: Path) -> None:
    """Temporary files are removed, records written and locks opened there without any record."""
    before = held(outside)
    led(out / "_cliprt" / name, outside / "authorized_keys" if name == "lock" else outside)
    with pytest.raises(OutputError, match=LINK):
        RunFolder.open(out, config())
    with pytest.raises(OutputError, match=LINK):
        merge([out], out.parent / "merged")
    assert held(outside) == before


@pytest.mark.parametrize("name", ["tmp/planted", "tmp/1-of-1", "work/000000"])
def test_what_is_cleared_is_never_what_a_link_leads_to(name: str, out: Path, outside: Path) -> None:
    before = held(outside)
    led(out / "_cliprt" / name, outside)
    with pytest.raises(OutputError, match=LINK):
        RunFolder.open(out, config())
    assert held(outside) == before


@pytest.mark.parametrize("name", ["img_emb", "img_emb/img_emb_000001.npy"])
def test_nothing_is_merged_through_a_link(name: str, out: Path, tmp_path: Path) -> None:
    """Not even what has the hash of the record: where it lies could be anybody's."""
    led_after(out / name, tmp_path / "elsewhere")
    with pytest.raises(OutputError, match=f"{name} {LINK}"):
        merge([out], tmp_path / "merged")
    assert not (tmp_path / "merged" / "manifest.json").exists()


def test_nor_is_anything_merged_into_one(out: Path, outside: Path, tmp_path: Path) -> None:
    before = held(outside)
    merged = tmp_path / "merged"
    with RunFolder.open(merged, config()):
        led(merged / "img_emb", outside)
    with pytest.raises(OutputError, match=f"merged/img_emb {LINK}"):
        merge([out], merged)
    assert held(outside) == before


def test_failed_rows_are_not_put_into_what_lies_behind_a_link(tmp_path: Path) -> None:
    """A foreign record need not name the files that are read to replace rows of the shard."""
    out, settings = tmp_path / "out", config()
    with RunFolder.open(out, settings) as run:
        run.note_plan(PLAN)
        do_unit(run, settings, 0, bad=[3])
    edit(out / "_cliprt" / "done" / "000000.json", lambda made: made["files"].clear())
    with RunFolder.open(out, settings) as run:
        led_after(out / "metadata", tmp_path / "elsewhere")
        with pytest.raises(OutputError, match=f"out/metadata {LINK}"):
            run.amend(0, rows(settings, 0, [3]))


@pytest.mark.parametrize("name", ["img_emb", "img_emb/img_emb_000000.npy", "manifest.json"])
def test_a_collection_reads_nothing_through_a_link(name: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "folder", image=random_units(3))
    led_after(folder / name, tmp_path / "elsewhere")
    with pytest.raises(OutputError, match=f"{name} {LINK}"):
        Collection(folder)


def test_the_output_itself_may_be_a_link(out: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(out)
    with RunFolder.open(link, config()) as run:
        assert list(run.done()) == [0, 1]
    assert Collection(link).rows == 40
    assert merge([link], tmp_path / "merged").items == 40


def test_a_link_beside_the_plan_is_not_merged(out: Path, tmp_path: Path) -> None:
    (out / "_cliprt" / "planted").symlink_to(tmp_path / "secret")
    with pytest.raises(OutputError, match=f"_cliprt/planted {LINK}"):
        merge([out], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
