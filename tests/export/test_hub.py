"""Hub ids are downloaded by huggingface_hub, here from a hub on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from openclip_checkpoints import PLAIN, write_openclip
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from cliprt import Bundle, open_bundle

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(httpserver: HTTPServer, small_checkpoint: Path) -> HTTPServer:
    files = {path.name: path.read_bytes() for path in small_checkpoint.iterdir()}
    files["pytorch_model.bin"] = b"never wanted"
    files["open_clip_model.safetensors"] = b"the same weights in another form"
    files["open_clip_config.json"] = json.dumps({"model_cfg": {}, "preprocess_cfg": {}}).encode()
    return serve(httpserver, files)


def serve(httpserver: HTTPServer, files: dict[str, bytes]) -> HTTPServer:
    """Serves one repository the way the hub does."""
    info = {
        "id": "someone/small",
        "sha": COMMIT,
        "siblings": [{"rfilename": name} for name in files],
        "tags": [],
        "downloads": 0,
        "private": False,
    }
    tree = [
        {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
        for name, data in files.items()
    ]

    def answer(request: Request) -> Response:
        if request.path.startswith("/api/models/someone/small"):
            listing = "/tree/" in request.path
            return Response(json.dumps(tree if listing else info), mimetype="application/json")
        name = request.path.rsplit("/", 1)[-1]
        if f"/resolve/{COMMIT}/" not in request.path or name not in files:
            return Response(status=404)
        etag = hashlib.sha256(files[name]).hexdigest()
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        return Response(files[name], headers=headers, mimetype="application/octet-stream")

    httpserver.expect_request(re.compile(".*")).respond_with_handler(answer)
    return httpserver


def export(
    hub: HTTPServer, tmp_path: Path, source: str, *options: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cliprt", "export", source, "--out", str(tmp_path / "bundle")]
    command += options
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url_for("").rstrip("/"),
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
    }
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_hub_id_gives_the_same_bundle(
    hub: HTTPServer, tmp_path: Path, small_bundle: Bundle
) -> None:
    run = export(hub, tmp_path, "someone/small")
    assert run.returncode == 0, run.stderr
    card = open_bundle(tmp_path / "bundle").card
    assert card.space == small_bundle.card.space
    assert (card.name, card.revision) == ("someone/small", COMMIT)


def test_only_what_is_needed_is_downloaded(hub: HTTPServer, tmp_path: Path) -> None:
    export(hub, tmp_path, "someone/small")
    fetched = {Path(request.path).name for request, _ in hub.log if "/resolve/" in request.path}
    assert "model.safetensors" in fetched
    assert "pytorch_model.bin" not in fetched
    assert "open_clip_model.safetensors" not in fetched


def test_the_form_that_a_family_reads_is_downloaded(hub: HTTPServer, tmp_path: Path) -> None:
    run = export(hub, tmp_path, "someone/small", "--family", "openclip")
    fetched = {Path(request.path).name for request, _ in hub.log if "/resolve/" in request.path}
    assert "open_clip_model.safetensors" in fetched
    assert "model.safetensors" not in fetched
    # The hub of this test serves no OpenCLIP weights, only a file of their name.
    assert "open_clip_model.safetensors of someone/small cannot be read" in run.stderr


def test_what_was_downloaded_can_be_exported_offline(
    hub: HTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    online = export(hub, tmp_path, "someone/small")
    assert online.returncode == 0, online.stderr
    (tmp_path / "bundle").rename(tmp_path / "first")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    offline = export(hub, tmp_path, "someone/small")
    assert offline.returncode == 0, offline.stderr
    assert open_bundle(tmp_path / "bundle").card == open_bundle(tmp_path / "first").card


def test_a_repository_that_is_not_there(hub: HTTPServer, tmp_path: Path) -> None:
    run = export(hub, tmp_path, "nobody/nothing")
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
    run = export(serve(httpserver, files), tmp_path, "someone/small", *options)
    assert run.returncode == 0, run.stderr
    assert open_bundle(tmp_path / "bundle").card.family == "openclip"
