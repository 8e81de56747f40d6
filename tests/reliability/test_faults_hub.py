"""Downloads from a hub that are cut off, damaged, or overtaken by another revision."""

from __future__ import annotations

from pathlib import Path

import pytest
from hub import COMMIT, WEIGHTS, Hub, export_from
from pytest_httpserver import HTTPServer

from cliprt import Bundle, open_bundle


@pytest.fixture
def hub(httpserver: HTTPServer, small_checkpoint: Path) -> Hub:
    return Hub(httpserver, {path.name: path.read_bytes() for path in small_checkpoint.iterdir()})


def downloaded(tmp_path: Path) -> list[Path]:
    """Weights under their final name."""
    return [*(tmp_path / "hf").rglob(WEIGHTS)]


def test_a_download_that_was_cut_off_is_tried_again(
    hub: Hub, tmp_path: Path, small_bundle: Bundle
) -> None:
    hub.cuts = 1
    run = export_from(hub, tmp_path, "someone/small")
    assert run.returncode == 0, run.stderr
    assert hub.cuts == 0
    assert open_bundle(tmp_path / "bundle").card.space == small_bundle.card.space


def test_a_download_that_is_always_cut_off_is_refused_and_goes_on_later(
    hub: Hub, tmp_path: Path, small_bundle: Bundle
) -> None:
    hub.cuts = 10**6
    run = export_from(hub, tmp_path, "someone/small")
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].startswith("Error: someone/small cannot be downloaded: ")
    assert not downloaded(tmp_path)
    assert not (tmp_path / "bundle").exists()
    hub.cuts = 0
    run = export_from(hub, tmp_path, "someone/small")
    assert run.returncode == 0, run.stderr
    assert open_bundle(tmp_path / "bundle").card.space == small_bundle.card.space


def test_a_file_that_is_not_the_one_the_hub_names_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.damage = True
    run = export_from(hub, tmp_path, "someone/small")
    assert run.returncode == 1
    assert "model.safetensors of someone/small was damaged on its way" in run.stderr
    assert str(tmp_path) not in run.stderr
    assert not (tmp_path / "bundle").exists()


def test_a_revision_that_is_replaced_meanwhile_is_not_mixed_with_another(
    hub: Hub, tmp_path: Path
) -> None:
    hub.moves = True
    run = export_from(hub, tmp_path, "someone/small")
    assert run.returncode == 0, run.stderr
    assert {commit for commit, _ in hub.asked} == {COMMIT}
    assert open_bundle(tmp_path / "bundle").card.revision == COMMIT
