"""The examples in other languages, run against a real Triton as they are shown."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cases import demo_pictures
from conftest import ROOT
from proto_text import proto_text

from cliprt import Bundle, Client
from cliprt_triton import TritonServer, write_repository

EXAMPLES = ROOT / "client" / "examples"
PAGE = ROOT / "client" / "OTHER_LANGUAGES.md"

# Quotes, letters beyond ASCII, and one beyond the plane of 16 bits: what careless encoding breaks.
TEXT = 'a "red" square, naïve – 🟥'
PICTURE, OTHER = demo_pictures()[:2]

# A server that listens where no proxy could reach it.
ENVIRONMENT = {
    key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")
}


@pytest.fixture(scope="module")
def server(demo_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    repository = write_repository(demo_bundle, tmp_path_factory.mktemp("served") / "repository")
    with TritonServer(repository, http_port=0) as server:
        yield server


@pytest.fixture(scope="module")
def expected(server: TritonServer) -> tuple[np.ndarray, np.ndarray]:
    """What the Python client answers: texts and pictures, float32 [2, dim]."""
    with Client(server.address) as client:
        return client.encode_text([TEXT, "a"]), client.encode_image([PICTURE, OTHER])


def needed(program: str) -> str:
    if (found := shutil.which(program)) is None:
        pytest.skip(f"there is no {program} here")
    return found


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(each) for each in command],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
        env={**ENVIRONMENT, **environment},
    )


def curl(server: TritonServer, text: str, picture: Path) -> subprocess.CompletedProcess[str]:
    needed("curl")
    return run(EXAMPLES / "curl" / "embed.sh", str(server.http_url), text, picture)


def test_curl(server: TritonServer, expected: tuple[np.ndarray, np.ndarray]) -> None:
    done = curl(server, TEXT, PICTURE)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["model_name"] for answer in answers] == ["clip_text_string", "clip_image_file"]
    for answer, embeddings in zip(answers, expected, strict=True):
        (output,) = answer["outputs"]
        np.testing.assert_allclose(output["data"], embeddings[0], atol=1e-5)


def test_the_line_of_the_page(server: TritonServer) -> None:
    needed("curl")
    (block,) = re.findall(r"^```bash\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    command = block.replace("localhost:8000", str(server.http_url)).replace("curl ", "curl -sS ")
    done = run("sh", "-c", command)
    with Client(server.address) as client:
        text = client.encode_text("a photo of a cat")
    found = json.loads(done.stdout)["outputs"][0]["data"]
    np.testing.assert_allclose(found, text[0], atol=1e-5)


def test_curl_fails_with_the_reason(server: TritonServer) -> None:
    done = curl(server, TEXT, Path(__file__))
    assert done.returncode != 0
    assert "not an image in a supported format" in json.loads(done.stdout.splitlines()[-1])["error"]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's folder with its packages, as ``npm ci`` makes it."""
    needed("node")
    npm = needed("npm")
    folder = tmp_path_factory.mktemp("node") / "examples"
    ignored = shutil.ignore_patterns("node_modules")
    shutil.copytree(EXAMPLES, folder, ignore=ignored)
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(
        command, cwd=folder / "node", capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, done.stderr
    return folder / "node" / "embed.js"


def test_node(node: Path, server: TritonServer, expected: tuple[np.ndarray, np.ndarray]) -> None:
    done = run("node", node, server.address, TEXT, "a", "--", PICTURE, OTHER)
    assert done.returncode == 0, done.stderr
    found = [[float(number) for number in line.split()] for line in done.stdout.splitlines()]
    texts, pictures = expected
    np.testing.assert_allclose(found, pictures @ texts.T, atol=1e-5)


def test_node_fails_with_the_reason(node: Path, server: TritonServer) -> None:
    done = run("node", node, server.address, TEXT, "--", Path(__file__))
    assert done.returncode == 1
    assert done.stderr.startswith("INVALID_ARGUMENT: ")
    assert "item 0: not an image in a supported format" in done.stderr
    gone = run("node", node, "127.0.0.1:9", TEXT, "--", PICTURE)
    assert gone.returncode == 1
    assert gone.stderr.startswith("UNAVAILABLE: ")


@pytest.fixture(scope="module", params=["java", "go"])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command of an example that takes an address, a text and a picture."""
    if request.param == "java":
        return [needed("java"), str(EXAMPLES / "java" / "Embed.java")]
    binary = tmp_path_factory.mktemp("go") / "embed"
    built = run(
        needed("go"), "build", "-o", binary, EXAMPLES / "go" / "embed.go", GO111MODULE="off"
    )
    assert built.returncode == 0, built.stderr
    return [str(binary)]


def test_a_program_of_the_standard_library(
    program: list[str], server: TritonServer, expected: tuple[np.ndarray, np.ndarray]
) -> None:
    done = run(*program, str(server.http_url), TEXT, PICTURE)
    assert done.returncode == 0, done.stderr
    texts, pictures = expected
    assert float(done.stdout) == pytest.approx(float(texts[0] @ pictures[0]), abs=1e-5)
    failed = run(*program, str(server.http_url), TEXT, Path(__file__))
    assert failed.returncode == 1
    assert failed.stderr.startswith("status 400: ")
    assert "not an image in a supported format" in failed.stderr


def test_the_protocol_is_tritons() -> None:
    """Made again by: PYTHONPATH=tests python tests/proto_text.py > client/examples/proto/..."""
    assert (EXAMPLES / "proto" / "inference.proto").read_text(encoding="utf-8") == proto_text()


def test_the_page_shows_the_files_that_run_here() -> None:
    page = PAGE.read_text(encoding="utf-8")
    shown = dict(re.findall(r"^`(examples/[\w./]+)`:\n\n```\w+\n(.*?)^```$", page, re.M | re.S))
    for name, content in shown.items():
        assert (ROOT / "client" / name).read_text(encoding="utf-8") == content, name
    programs = {
        str(path.relative_to(EXAMPLES.parent))
        for path in EXAMPLES.rglob("*")
        if path.suffix in {".sh", ".js", ".java", ".go"} and "node_modules" not in path.parts
    }
    assert set(shown) == programs
    for name in re.findall(r"`(examples/[\w./-]+)`", page):
        assert (ROOT / "client" / name).exists(), name


def test_packages_are_pinned_without_addresses() -> None:
    wanted = json.loads((EXAMPLES / "node" / "package.json").read_text(encoding="utf-8"))
    assert all(re.fullmatch(r"[\d.]+", version) for version in wanted["dependencies"].values())
    lock = (EXAMPLES / "node" / "package-lock.json").read_text(encoding="utf-8")
    assert "://" not in re.sub(r'"(funding|url)": ".*"', "", lock)
    assert all("integrity" in entry for name, entry in json.loads(lock)["packages"].items() if name)
