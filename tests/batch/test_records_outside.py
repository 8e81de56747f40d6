"""Records of a folder of somebody else: nothing outside it is read, moved or linked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from embedded_folders import random_units, write_folder
from run_folders import PLAN, config, do_unit

from cliprt import DeploymentError
from cliprt_batch import merge
from cliprt_batch._collection import Collection
from cliprt_batch._manifest import check_inside
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


def test_a_link_beside_the_plan_is_not_merged(out: Path, tmp_path: Path) -> None:
    (out / "_cliprt" / "planted").symlink_to(tmp_path / "secret")
    merge([out], tmp_path / "merged")
    assert not (tmp_path / "merged" / "_cliprt" / "planted").exists()
