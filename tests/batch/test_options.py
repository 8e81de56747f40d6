"""Whoever comes first decides with which settings all of a job is computed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from cliprt_batch import OutputError
from cliprt_batch._options import agreed_settings, read_settings, recorded_settings


def test_the_first_one_decides(tmp_path: Path) -> None:
    path = tmp_path / "compute.json"
    assert agreed_settings(path, lambda: {"image": {"batch": 3}}) == {"image": {"batch": 3}}
    assert agreed_settings(path, lambda: pytest.fail("measured")) == {"image": {"batch": 3}}


def test_who_measures_at_the_same_time_takes_what_is_there(tmp_path: Path) -> None:
    path, barrier = tmp_path / "compute.json", Barrier(8)

    def one(number: int) -> object:
        def own() -> dict[str, object]:
            barrier.wait(30)
            return {"image": {"batch": number}}

        return agreed_settings(path, own)

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(one, range(8)))
    assert all(settings == found[0] for settings in found)
    assert read_settings(path) == found[0]
    assert list(tmp_path.iterdir()) == [path]


def test_servers_have_their_own(tmp_path: Path) -> None:
    assert agreed_settings(tmp_path / "compute.json", dict) == {}
    assert not list(tmp_path.iterdir())


def test_damaged_ones_name_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "_cliprt").mkdir()
    (tmp_path / "_cliprt" / "compute.json").touch()
    with pytest.raises(OutputError, match="delete it, and the same command measures anew"):
        recorded_settings(tmp_path, "fp32")


def test_a_folder_without_a_run_has_none(tmp_path: Path) -> None:
    assert recorded_settings(tmp_path, "fp32") == {}
