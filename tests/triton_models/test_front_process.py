"""``cliprt serve --http``: one command for Triton and the front, which live and end together."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest
from click.testing import CliRunner
from conftest import ROOT
from http_front import Answer, Front, ask, post

from cliprt import Bundle, ServerStartError
from cliprt_triton import _cli
from cliprt_triton._cli import serve
from cliprt_triton._front._keys import read_api_keys

KEY = "sk-of-these-tests-alone"


@dataclass(frozen=True)
class Served:
    """The command while it runs, and what it printed when it was ready."""

    process: subprocess.Popen[str]
    told: dict[str, str]

    @property
    def front(self) -> Front:
        host, port = self.told["openai"].removeprefix("http://").removesuffix("/v1").split(":")
        return Front(host, int(port))


@contextmanager
def served(bundle: Bundle, *options: str) -> Iterator[Served]:
    command = [sys.executable, "-m", "cliprt", "serve", str(bundle.path), "--http"]
    ports = ["--grpc-port", "0", "--metrics-port", "0", "--openai-port", "0"]
    with subprocess.Popen(
        [*command, *ports, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline().strip() for _ in range(5)]
            assert lines[0].endswith("is ready"), process.communicate()
            told = dict(line.split(maxsplit=1) for line in lines[1:])
            assert set(told) == {"grpc", "metrics", "openai", "log"}
            yield Served(process, told)
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_after_the_requests_under_way(
    number: signal.Signals, demo_bundle: Bundle
) -> None:
    answers: list[Answer] = []
    # Long enough that the signal comes in between; the body has arrived once it is counted.
    request = {"model": "clip", "input": [f"some words and {n}" for n in range(2048)]}
    with served(demo_bundle) as running:
        front = running.front
        asking = threading.Thread(target=lambda: answers.append(post(front, request)))
        asking.start()
        wait_until_under_way(front)
        running.process.send_signal(number)
        asking.join(60)
        out, error = running.process.communicate(timeout=60)
        assert (running.process.returncode, out, error) == (0, "", "")
    (answer,) = answers
    assert answer.status == 200
    assert len(answer.json()["data"]) == 2048
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((front.host, front.port))


def wait_until_under_way(front: Front) -> None:
    for _ in range(1000):
        text = ask(front, "GET", "/metrics").body.decode()
        # The one that asks, and the other.
        if re.search(r"^cliprt_http_in_flight 2\.0$", text, re.MULTILINE):
            return
    pytest.fail("the request was never under way")


def test_the_page_works_as_it_stands(demo_bundle: Bundle) -> None:
    page = (ROOT / "triton_models" / "HTTP.md").read_text(encoding="utf-8")
    code, application = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    with served(demo_bundle) as running:
        code = code.replace("http://127.0.0.1:8080/v1", running.told["openai"])
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    right, wrong = (float(number) for number in done.stdout.split())
    assert right > wrong
    names: dict[str, object] = {}
    exec(application, names)
    assert callable(names["app"])


def test_a_triton_that_dies_ends_it(demo_bundle: Bundle) -> None:
    with served(demo_bundle, "--restarts", "0") as running:
        pid = running.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)
        _, error = running.process.communicate(timeout=60)
        assert running.process.returncode == 1
        assert "tritonserver ended by itself with status -9" in error
        assert "Traceback" not in error


def test_keys_and_the_access_log(demo_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "keys").touch(mode=0o600)
    (tmp_path / "keys").write_text(f"# ours\n\n{KEY}\n")
    options = ("--api-key-file", str(tmp_path / "keys"), "--access-log", "--name", "shop")
    with served(demo_bundle, *options) as running:
        url = running.told["openai"]
        with openai.OpenAI(base_url=url, api_key=KEY) as api:
            api.embeddings.create(model="shop", input=["a secret text", "b"])
        with (
            openai.OpenAI(base_url=url, api_key="another") as api,
            pytest.raises(openai.AuthenticationError),
        ):
            api.models.list()
        running.process.send_signal(signal.SIGTERM)
        _, error = running.process.communicate(timeout=60)
    lines = [json.loads(line) for line in error.splitlines()]
    told = [(line["method"], line["route"], line["status"]) for line in lines]
    assert told == [("POST", "/v1/embeddings", 200), ("GET", "/v1/models", 401)]
    assert (lines[0]["texts"], lines[0]["images"]) == (2, 0)
    assert "secret" not in error
    assert KEY not in error


def test_a_taken_port_is_named_before_anything_loads(demo_bundle: Bundle) -> None:
    command = [sys.executable, "-m", "cliprt", "serve", str(demo_bundle.path), "--http"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ports = ["--grpc-port", "0", "--metrics-port", "0", "--openai-port", port]
        done = subprocess.run([*command, *ports], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"Error: cannot listen on 127.0.0.1:{port}")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "option",
    ["--openai-port=1", "--api-key-file=keys", "--max-body-mib=1", "--access-log"],
)
def test_options_of_the_front_need_the_front(option: str, demo_bundle: Bundle) -> None:
    done = CliRunner().invoke(serve, [str(demo_bundle.path), option])
    assert done.exit_code == 2
    assert f"{option.partition('=')[0]} needs --http" in done.output


def test_tls_to_triton_needs_a_front_of_its_own(
    demo_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_cli, "_tls", lambda *files: object())
    done = CliRunner().invoke(serve, [str(demo_bundle.path), "--http"])
    assert done.exit_code == 2
    assert "run cliprt_triton.openai_app" in done.output


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no API key"),
        (b"# only a comment\n", "holds no API key"),
        (b"short\n", "API key 1 must have at least 16"),
        (b"good-enough-as-a-key\nwith some spaces in it\n", "API key 2 must have"),
        (b"\xff\xfe", "cannot be read: it is not UTF-8"),
    ],
)
def test_files_that_hold_no_keys(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "keys").write_bytes(content)
    with pytest.raises(ServerStartError, match=message) as caught:
        read_api_keys(tmp_path / "keys")
    assert "good-enough" not in str(caught.value)
    with pytest.raises(ServerStartError, match="cannot be read: No such file"):
        read_api_keys(tmp_path / "none")
