"""A hub on this machine, from which huggingface_hub downloads; well or badly."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

COMMIT, LATER = "0123456789abcdef" * 2 + "01234567", "f" * 40
WEIGHTS = "model.safetensors"


class Hub:
    """Serves the repository ``someone/small`` the way the hub does.

    Attributes:
        url: its address.
        asked: what was downloaded how often, by commit and name.
        cuts: so many downloads of the weights end in their middle.
        damage: a byte of the weights is another one.
        moves: the main branch is another commit whenever it is asked for after the first time.
    """

    def __init__(self, server: HTTPServer, files: Mapping[str, bytes]) -> None:
        self._files = files
        self.cuts, self.damage, self.moves = 0, False, False
        self.asked: Counter[tuple[str, str]] = Counter()
        self._commit = COMMIT
        self.url = server.url_for("").rstrip("/")
        server.expect_request(re.compile(".*")).respond_with_handler(self._answer)

    def _answer(self, request: Request) -> Response:
        if request.path.startswith("/api/models/someone/small"):
            found = self._described("/tree/" in request.path)
            return Response(json.dumps(found), mimetype="application/json")
        *_, commit, name = request.path.split("/")
        if name not in self._files:
            return Response(status=404)
        if request.method == "GET":
            self.asked[commit, name] += 1
        return self._file(request, commit, name)

    def _described(self, listing: bool) -> object:
        if listing:
            return [
                {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
                for name, data in self._files.items()
            ]
        commit = self._commit
        if self.moves:
            self._commit = LATER
        return {
            "id": "someone/small",
            "sha": commit,
            "siblings": [{"rfilename": name} for name in self._files],
            "tags": [],
            "downloads": 0,
            "private": False,
        }

    def _file(self, request: Request, commit: str, name: str) -> Response:
        data = self._files[name]
        etag = hashlib.sha256(data).hexdigest()
        headers = {"X-Repo-Commit": commit, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if self.damage and name == WEIGHTS:
            data = data[:-1] + bytes([data[-1] ^ 1])
        start, status = 0, 200
        if asked := request.headers.get("Range"):
            start, status = int(asked.removeprefix("bytes=").split("-")[0]), 206
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        part = data[start:]
        headers["Content-Length"] = str(len(part))
        if request.method == "GET" and name == WEIGHTS and self.cuts:
            self.cuts -= 1
            return Response(_broken_off(part), status, headers, direct_passthrough=True)
        return Response(part, status, headers, mimetype="application/octet-stream")


def _broken_off(data: bytes) -> Iterator[bytes]:
    yield data[: len(data) // 2]
    raise ConnectionError("cut")


def export_from(
    hub: Hub, folder: Path, source: str, *options: str
) -> subprocess.CompletedProcess[str]:
    """Exports into ``bundle`` of a folder; downloads are cached in ``hf`` of it."""
    command = [sys.executable, "-m", "cliprt", "export", source, "--out", str(folder / "bundle")]
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_DISABLE_XET": "1",
    }
    return subprocess.run(
        [*command, *options],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
