"""What the documentation shows works: commands and code of the README, links, names of files."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent
FOLDERS = ("client", "export", "engines", "triton_models", "bench", "demo", "docs", "tests")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    lines = "\n".join(blocks("bash")).splitlines()
    return [line.split("  #")[0].strip() for line in lines if line.strip()]


def test_every_command_of_the_readme_is_known() -> None:
    """So that a command added to the README is also added to a test."""
    assert commands() == [
        "make demo",
        "make test",
        "pip install 'cliprt[export,serve]'",
        "cliprt export demo/checkpoint --out /tmp/bundle",
        "cliprt serve /tmp/bundle",
        "cliprt repository /tmp/bundle --out /tmp/repository",
    ]


def test_the_readme_from_export_to_embeddings(tmp_path: Path) -> None:
    export, serve, repository = (
        [str(BIN / "cliprt"), *shlex.split(line.replace("/tmp/", f"{tmp_path}/"))[1:]]
        for line in commands()
        if line.startswith("cliprt ")
    )
    subprocess.run(export, cwd=ROOT, check=True, capture_output=True)
    subprocess.run(repository, cwd=ROOT, check=True, capture_output=True)
    ports = ["--grpc-port", "0", "--metrics-port", "0"]
    with subprocess.Popen([*serve, *ports], cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            server.stdout.readline()
            address = server.stdout.readline().split()[1]
            ran, awaited, alone = (
                subprocess.run(
                    [sys.executable, "-c", code],
                    cwd=ROOT,
                    check=True,
                    capture_output=True,
                    text=True,
                )
                for code in (
                    block.replace("localhost:8001", address).replace("/tmp/", f"{tmp_path}/")
                    for block in blocks("python")
                )
            )
        finally:
            server.terminate()
    similarity, chances = ran.stdout.strip().splitlines()
    right, wrong = (float(number) for number in similarity.strip("[]").split())
    assert right > wrong
    star, ring = (float(number) for number in chances.strip("[]").split())
    assert star > ring
    files = list((ROOT / "demo" / "pictures").iterdir())
    pictures = [file for file in files if file.suffix in (".jpg", ".png")]
    assert awaited.stdout == f"{len(pictures)} of {len(files)} files and 2 texts\n"
    # Another runtime or batch may be the fastest in process, and rounds differently.
    found = [float(number) for number in alone.stdout.strip().strip("[]").split()]
    assert found == pytest.approx([star, ring], rel=1e-3)


def test_make_help_lists_every_target() -> None:
    # A make around the tests must not speak through the one within.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    listed = subprocess.run(
        ["make", "help"], cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    )
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert [line.split()[1] for line in listed.stdout.splitlines()] == phony.split()


@pytest.mark.parametrize(
    "page", ["README.md", "ARCHITECTURE.md", "docs/benchmarks.md", "docs/reliability.md"]
)
def test_files_that_are_named_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    present = [
        str(path.relative_to(ROOT))
        for folder in (*FOLDERS, ".")
        for path in (ROOT.glob("*") if folder == "." else (ROOT / folder).rglob("*"))
    ]
    named = set(re.findall(r"`([\w/.-]+\.(?:py|md|toml|txt))`", text))
    assert named
    for name in named:
        assert any(path == name or path.endswith(f"/{name}") for path in present), name


@pytest.mark.parametrize("page", ["SECURITY.md", "docs/reliability.md"])
def test_the_tests_that_hold_a_promise_exist(page: str) -> None:
    """``::name`` alone is in the file that was named before it; ``name*`` is any that begins so."""
    text = (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)?(?:::(\w+)(\*?))?`", text)
    named = [each for each in named if any(each)]
    assert len(named) >= 30
    path = ""
    for file, test, open_ended in named:
        path = file or path
        assert (ROOT / path).is_file(), path
        begun = rf"def {test}" + ("" if open_ended else r"\(")
        assert not test or re.search(begun, (ROOT / path).read_text(encoding="utf-8")), (path, test)


def test_packages_know_only_each_others_public_names() -> None:
    for folder in ("client", "export", "engines", "triton_models", "bench"):
        for path in (ROOT / folder).rglob("*.py"):
            own = path.relative_to(ROOT / folder).parts[0]
            if not own.startswith("cliprt"):  # programs that measure look inside, as tests do
                continue
            for package in re.findall(r"(?:from|import) (cliprt_\w+)\._", path.read_text()):
                assert package == own, path
            if own == "cliprt":
                assert not re.search(r"(?:from|import) cliprt_", path.read_text()), path


def test_files_stay_readable() -> None:
    """About 400 lines a file, as the house style says."""
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            assert len(path.read_text(encoding="utf-8").splitlines()) <= 460, path
