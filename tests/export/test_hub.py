"""Hub ids are downloaded by huggingface_hub, here from a hub on this machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hub import COMMIT, Hub, export_from
from openclip_checkpoints import PLAIN, write_openclip
from pytest_httpserver import HTTPServer

from cliprt import Bundle, open_bundle


@pytest.fixture
def hub(httpserver: HTTPServer, small_checkpoint: Path) -> Hub:
    files = {path.name: path.read_bytes() for path in small_checkpoint.iterdir()}
    files["pytorch_model.bin"] = b"never wanted"
    files["open_clip_model.safetensors"] = b"the same weights in another form"
    files["open_clip_config.json"] = json.dumps({"model_cfg": {}, "preprocess_cfg": {}}).encode()
    return Hub(httpserver, files)


def test_a_hub_id_gives_the_same_bundle(hub: Hub, tmp_path: Path, small_bundle: Bundle) -> None:
    run = export_from(hub, tmp_path, "someone/small")
    assert run.returncode == 0, run.stderr
    card = open_bundle(tmp_path / "bundle").card
    assert card.space == small_bundle.card.space
    assert (card.name, card.revision) == ("someone/small", COMMIT)


def test_only_what_is_needed_is_downloaded(hub: Hub, tmp_path: Path) -> None:
    export_from(hub, tmp_path, "someone/small")
    fetched = {name for _, name in hub.asked}
    assert "model.safetensors" in fetched
    assert "pytorch_model.bin" not in fetched
    assert "open_clip_model.safetensors" not in fetched


def test_the_form_that_a_family_reads_is_downloaded(hub: Hub, tmp_path: Path) -> None:
    run = export_from(hub, tmp_path, "someone/small", "--family", "openclip")
    fetched = {name for _, name in hub.asked}
    assert "open_clip_model.safetensors" in fetched
    assert "model.safetensors" not in fetched
    # The hub of this test serves no OpenCLIP weights, only a file of their name.
    assert "open_clip_model.safetensors of someone/small cannot be read" in run.stderr


def test_what_was_downloaded_can_be_exported_offline(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    online = export_from(hub, tmp_path, "someone/small")
    assert online.returncode == 0, online.stderr
    (tmp_path / "bundle").rename(tmp_path / "first")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    offline = export_from(hub, tmp_path, "someone/small")
    assert offline.returncode == 0, offline.stderr
    assert open_bundle(tmp_path / "bundle").card == open_bundle(tmp_path / "first").card


def test_a_repository_that_is_not_there(hub: Hub, tmp_path: Path) -> None:
    run = export_from(hub, tmp_path, "nobody/nothing")
    assert run.returncode == 1
    assert run.stderr.startswith("Error: nobody/nothing cannot be downloaded: ")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("options", [(), ("--family", "openclip")])
@pytest.mark.parametrize("weights", ["open_clip_model.safetensors", "model.safetensors"])
def test_openclip_beside_the_files_of_another_library(
    weights: str, options: tuple[str, ...], httpserver: HTTPServer, tmp_path: Path
) -> None:
    """timm writes a config.json of its own, and calls its weights like transformers."""
    folder = write_openclip(tmp_path / "open_clip", PLAIN)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    content = files.pop("open_clip_model.safetensors")
    files["config.json"] = json.dumps({"architecture": "vit_base_patch16_clip_224"}).encode()
    files["model.safetensors"] = b"weights of timm"
    files[weights] = content
    run = export_from(Hub(httpserver, files), tmp_path, "someone/small", *options)
    assert run.returncode == 0, run.stderr
    assert open_bundle(tmp_path / "bundle").card.family == "openclip"
