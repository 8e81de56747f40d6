"""The configurations that are kept for readers are those that are generated."""

from __future__ import annotations

from pathlib import Path

from repository_examples import EXAMPLES, rendered


def test_the_examples_are_what_is_generated(tmp_path: Path) -> None:
    kept = {
        str(path.relative_to(EXAMPLES)): path.read_text(encoding="utf-8")
        for path in EXAMPLES.rglob("*.pbtxt")
    }
    assert kept == rendered(tmp_path), "generated files differ; write them with: make examples"
