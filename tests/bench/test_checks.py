"""What the checks of batch runs hold against a run."""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).resolve().parent.parent.parent / "bench"

FELL = {"planning": 4, "parts": 12, "commit": 10, "finish": 3, "end": 1}


@pytest.fixture(scope="module")
def kill_check() -> ModuleType:
    return _loaded("kill_check", BENCH / "kill_check.py")


@pytest.fixture(scope="module")
def batch_check() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCH / "batch_check"))
        patch.syspath_prepend(str(BENCH.parent / "demo"))
        return _loaded("batch_check_main", BENCH / "batch_check" / "__main__.py")


def _loaded(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_kills_of_each_run_must_have_fallen(kill_check: ModuleType) -> None:
    assert kill_check.missed([FELL, FELL], 30) == []
    assert kill_check.missed([FELL, {**FELL, "end": 0}], 30) == ["29 of 30 kills in run 1"]


@pytest.mark.parametrize("phase", ["planning", "parts", "commit", "finish"])
def test_a_kill_must_have_fallen_into_each_phase(kill_check: ModuleType, phase: str) -> None:
    without = {**FELL, "end": 1 + FELL[phase], phase: 0}
    assert kill_check.missed([without, FELL], 30) == []
    assert kill_check.missed([without, without], 30) == [f"a kill in {phase}"]
    del without[phase]
    assert kill_check.missed([without], 30) == [f"a kill in {phase}"]


@pytest.mark.parametrize(
    ("local", "ray", "times", "lines"),
    [
        (0.95, 0.9, 3.0, []),
        (0.9, 0.85, 2.5, []),
        (0.899, 0.9, 3.0, ["cliprt embed, fp32 reaches 0.899 of the ceiling, the goal is 0.9"]),
        (0.95, 0.84, 3.0, ["--engine ray, fp32 reaches 0.840 of the ceiling, the goal is 0.85"]),
        (0.95, None, 2.4, ["cliprt embed, int8-cpu is 2.40 times transformers, the goal is 2.5"]),
        (0.5, 0.5, 1.0, ["cliprt embed, fp32 reaches", "ray, fp32 reaches", "times transformers"]),
    ],
)
def test_goals_that_are_not_reached_are_named(
    batch_check: ModuleType, local: float, ray: float | None, times: float, lines: list[str]
) -> None:
    ways = {
        ("cliprt embed", "fp32"): {"of_ceiling": local, "times_rival": 1.5},
        ("cliprt embed", "int8-cpu"): {"of_ceiling": 0.7, "times_rival": times},
    }
    if ray is not None:
        ways["cliprt embed --engine ray", "fp32"] = {"of_ceiling": ray, "times_rival": 1.5}
    found = batch_check.unreached(ways)
    assert len(found) == len(lines)
    assert all(part in line for part, line in zip(lines, found, strict=True))


TICKS = """
import subprocess, sys, time
ticks = "import time; [print(time.monotonic(), flush=True) or time.sleep(0.01) for _ in range(150)]"
sys.exit(subprocess.run([sys.executable, "-c", ticks]).returncode)
"""


def test_a_command_and_its_children_stand_still_at_turns(tmp_path: Path) -> None:
    turns = []

    def meanwhile() -> None:
        begun = time.monotonic()
        time.sleep(0.3)
        turns.append((begun, time.monotonic()))

    run = _loaded("watched", BENCH / "batch_check" / "watched.py").watched(
        [sys.executable, "-c", TICKS],
        tmp_path / "log",
        every_s=0.2,
        meanwhile=meanwhile,
        turn_s=0.5,
    )
    ticks = [float(line) for line in run.output.split()]
    assert len(ticks) == 150
    assert turns
    assert not [tick for tick in ticks for begun, ended in turns if begun < tick < ended]
    stood_still = sum(ended - begun for begun, ended in turns)
    assert stood_still <= run.stopped_s
    assert run.wall_s + run.stopped_s >= ticks[-1] - ticks[0] >= stood_still


def test_seconds_in_which_a_job_stood_still_do_not_count(batch_check: ModuleType) -> None:
    seen, run = batch_check.Seen(), batch_check.Run('{"rate": 10.0}', 6.0, 4.0, 1.0, [(1.0, 2.0)])
    seen.add(run, 100)  # in 10 s by its own clock, of which it stood still for 4
    assert seen.rates == pytest.approx([100 / 6])
    assert seen.walls == pytest.approx([100 / 6])
