"""Adapters of rivals, as far as they can be tried without the rivals."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from rivals.adapters import infinity

# Answers as infinity does, and closes every connection after its answer without having said so: as
# a server does with one that was idle for long. The embedding is how many were answered before.
SERVER = """#!{python}
import base64, json, struct, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    answered = 0

    def do_GET(self):
        self.answer(b"")

    def do_POST(self):
        items = json.loads(self.rfile.read(int(self.headers["content-length"])))["input"]
        if items == ["refuse"]:
            return self.answer(b"no such word", 422)
        row = base64.b64encode(struct.pack("<2f", 1, Handler.answered)).decode()
        Handler.answered += 1
        data = [{{"index": index, "embedding": row}} for index in range(len(items))]
        self.answer(json.dumps({{"data": data}}).encode())

    def answer(self, content, status=200):
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        self.close_connection = True

    def log_message(self, *arguments):
        pass

port = int(sys.argv[sys.argv.index("--port") + 1])
ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server above in the place of infinity's program."""
    path = tmp_path / "infinity_emb"
    path.write_text(SERVER.format(python=sys.executable))
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))


@pytest.mark.usefixtures("program")
def test_a_connection_that_the_server_closed_is_made_anew() -> None:
    rival = infinity.Rival(checkpoint="somewhere")
    try:
        for number in range(3):
            found = rival.embed("text", ["a cat", "a dog"])
            np.testing.assert_array_equal(found, [[1, number]] * 2)
        with pytest.raises(RuntimeError, match="HTTP 422: no such word"):
            rival.embed("text", ["refuse"])
    finally:
        rival.close()
