"""A plugin of pytest for ``hot_paths.py``: an option, and a table at the end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cliprt_bench._machine import cpu_fields

BASELINE = Path(__file__).with_name("hot_paths.json")

SEEN: pytest.StashKey[dict[str, tuple[str, float, float | None]]] = pytest.StashKey()
"""By path: the kind of its loop, how many times that it took, and of an earlier day."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--keep-baseline", action="store_true", help="write hot_paths.json again")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[SEEN] = {}


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    for name, (kind, multiple, was) in config.stash[SEEN].items():
        before = "" if was is None else f", it took {was:.3g}"
        terminalreporter.write_line(f"{name}: {multiple:.3g} times the loop '{kind}'{before}")
    if config.getoption("--keep-baseline"):
        multiples = {name: round(seen[1], 4) for name, seen in config.stash[SEEN].items()}
        kept = {"cpu": cpu_fields().get("model name"), "multiples": multiples}
        BASELINE.write_text(json.dumps(kept, indent=2) + "\n")
        terminalreporter.write_line(f"kept in {BASELINE.name}")
