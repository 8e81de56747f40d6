"""Folders that appear whole or not at all, when others make the same one."""

from __future__ import annotations

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


def test_one_that_takes_the_place_between_two_renames_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "target"
    target.mkdir()
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
