"""Every kept input, among them each kind that once broke a promise, keeps that of its target."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cases import ROOT
from fuzz import make_corpus
from fuzz.harness import CORPUS, check, seeds
from fuzz.targets import TARGETS

KEPT = [(name, path) for name in sorted(TARGETS) for path in seeds(TARGETS[name])]


@pytest.mark.parametrize(("name", "path"), KEPT, ids=[f"{name}-{path.name}" for name, path in KEPT])
def test_it_keeps_its_promise(name: str, path: Path) -> None:
    check(TARGETS[name], path.read_bytes())


def test_the_corpus_is_of_the_targets_and_small() -> None:
    folders = {path.name for path in CORPUS.iterdir()}
    assert folders == set(TARGETS)
    assert all(list((CORPUS / name).iterdir()) for name in TARGETS)
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) < 2**20


def test_it_holds_what_the_program_makes() -> None:
    """By name: what Pillow and others write differs from version to version."""
    made = {(target, name) for target, name, _ in make_corpus.kept()}
    kept = {(path.parent.name, path.name) for path in CORPUS.glob("*/*")}
    assert kept >= made
    ours = (make_corpus.SEED, make_corpus.FOUND)
    assert {each for each in kept if each[1].startswith(ours)} == made


def test_what_was_found_is_small() -> None:
    found = list(CORPUS.glob(f"*/{make_corpus.FOUND}*"))
    assert found
    assert all(path.stat().st_size < 10_000 for path in found)


def test_the_documentation_names_every_reader() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    told = re.search(r"(\d+) readers of foreign bytes \(([^)]*)\)", page)
    assert told is not None
    names = re.split(r", | and ", " ".join(told[2].split()))
    assert int(told[1]) == len(names) == len(TARGETS)
