"""Every kept input, among them all that ever broke a promise, keeps the promise of its target."""

from __future__ import annotations

from pathlib import Path

import pytest
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


def test_the_seeds_are_those_that_the_program_makes() -> None:
    """By name: what Pillow and others write differs from version to version."""
    made = {(target, f"{make_corpus.SEED}{name}") for target, name, _ in make_corpus.seeds()}
    kept = {(path.parent.name, path.name) for path in CORPUS.glob(f"*/{make_corpus.SEED}*")}
    assert kept == made
