"""Folders that appear whole or not at all, when others make the same one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cliprt import BundleError
from cliprt._folders import folder_that_becomes


def content(target: Path) -> list[str]:
    return [path.name for path in target.iterdir()]


def test_of_two_that_replace_the_last_stays(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with folder_that_becomes(target, replace=True) as outer:
        (outer / "outer").touch()
        with folder_that_becomes(target, replace=True) as inner:
            (inner / "inner").touch()
        assert content(target) == ["inner"]
    assert content(target) == ["outer"]
    assert content(tmp_path) == ["target"]


def test_of_two_that_do_not_the_first_stays(tmp_path: Path) -> None:
    target = tmp_path / "target"

    def both() -> None:
        with folder_that_becomes(target) as outer:
            (outer / "outer").touch()
            with folder_that_becomes(target) as inner:
                (inner / "inner").touch()

    with pytest.raises(BundleError, match="appeared meanwhile"):
        both()
    assert content(target) == ["inner"]
    assert content(tmp_path) == ["target"]


def test_a_target_is_exchanged_in_one_step(tmp_path: Path) -> None:
    """At no moment is there no target: a watcher in another process always finds one."""
    target, stop = tmp_path / "target", tmp_path / "stop"
    target.mkdir()
    (target / "0").touch()
    watch = (
        "import os, sys\n"
        "found = lost = 0\n"
        "while not os.path.exists(sys.argv[2]):\n"
        "    names = os.path.exists(sys.argv[1])\n"
        "    found, lost = found + names, lost + (not names)\n"
        "print(found, lost)\n"
    )
    command = [sys.executable, "-c", watch, str(target), str(stop)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watcher:
        for turn in range(1, 200):
            with folder_that_becomes(target, replace=True) as folder:
                (folder / str(turn)).touch()
        stop.touch()
        found, lost = map(int, watcher.communicate()[0].split())
    assert content(target) == ["199"]
    assert found > 0
    assert lost == 0


def test_one_that_takes_the_place_between_two_renames_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where names cannot be exchanged, as on some network file systems."""
    target = tmp_path / "target"
    target.mkdir()
    monkeypatch.setattr("cliprt._folders._exchange", lambda one, other: False)
    original = Path.rename

    def rename(self: Path, to: Path) -> Path:
        moved = original(self, to)
        if self == target:
            target.mkdir()
            (target / "theirs").touch()
        return moved

    monkeypatch.setattr(Path, "rename", rename)
    with (
        pytest.raises(BundleError, match="Directory not empty"),
        folder_that_becomes(target, replace=True) as folder,
    ):
        (folder / "mine").touch()
    assert content(target) == ["theirs"]
    assert content(tmp_path) == ["target"]


def test_a_file_is_not_replaced_by_a_folder(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    with (
        pytest.raises(BundleError, match="is a file"),
        folder_that_becomes(target, replace=True) as folder,
    ):
        (folder / "mine").touch()
    assert target.read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
