"""When `make fuzz` fails. What fuzzes is a process; here another one stands for it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from fuzz import run

EXECUTED = "stat::number_of_executed_units: 7"


def outcome(monkeypatch: pytest.MonkeyPatch, folder: Path, lines: list[str], status: int) -> Result:
    """What becomes of a run in which a target's process prints that, and ends so."""
    program = f"import sys; print({chr(10).join(lines)!r}); sys.exit({status})"
    monkeypatch.setattr(run, "_command", lambda *_: [sys.executable, "-c", program])
    arguments = ["--target", "card", "--seconds", "1", "--folder", str(folder)]
    return CliRunner().invoke(run.main, arguments)


def test_a_run_without_findings_passes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    done = outcome(monkeypatch, tmp_path, ["#5 NEW    cov: 12 ft: 9", EXECUTED], 0)
    assert (done.exit_code, "card: 7 executions, 0 found" in done.output) == (0, True)


def test_a_finding_fails_as_often_as_it_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It has the same name in each run, and its file lies there since the first."""
    (tmp_path / "found").mkdir()
    (tmp_path / "found" / "card-0a").write_bytes(b"{")
    for _ in range(2):
        done = outcome(monkeypatch, tmp_path, ["FOUND card-0a: ValueError: ''", EXECUTED], 0)
        assert (done.exit_code, "card: 7 executions, 1 found" in done.output) == (1, True)


@pytest.mark.parametrize(
    ("lines", "status"),
    [([], 0), (["stat::number_of_executed_units: 0"], 0), ([EXECUTED], 77)],
    ids=["it says nothing", "nothing was tried", "it ended with 77"],
)
def test_a_target_that_was_not_fuzzed_fails(
    lines: list[str], status: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert outcome(monkeypatch, tmp_path, lines, status).exit_code == 1
