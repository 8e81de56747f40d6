"""A process that dies at any instant: what it leaves is completed to the same bytes."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from run_folders import (
    LAYOUTS,
    PLAN,
    config,
    do_unit,
    dying_at_every_call,
    files,
    left_over,
    rows,
    unsynced,
    write_parts,
)

from cliprt_batch import _rewriting
from cliprt_batch._manifest import read_manifest
from cliprt_batch._merge import merge
from cliprt_batch._output_errors import OutputUnfinished
from cliprt_batch._run_config import Layout, RunConfig
from cliprt_batch._run_folder import RunFolder

__all__ = ["unsynced"]
pytestmark = pytest.mark.usefixtures("unsynced")
BAD = (1, 8, 19)


def run_it(out: Path, settings: RunConfig, *, units: int = 1) -> None:
    with RunFolder.open(out, settings) as run:
        run.note_plan(PLAN)
        for unit in range(units):
            do_unit(run, settings, unit, bad=BAD, size=10)
        run.finish(units)


def complete_or_absent(out: Path) -> None:
    """A manifest is only there if every file is as it says."""
    try:
        manifest = read_manifest(out)
    except OutputUnfinished:
        return
    manifest.check(out)


@LAYOUTS
def test_a_run_that_dies_at_any_call_is_completed(
    tmp_path: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, out = config(layout), tmp_path / "out"
    run_it(tmp_path / "whole", settings)
    whole = files(tmp_path / "whole")

    def attempt() -> None:
        run_it(out, settings)

    def after() -> None:
        if (out / "manifest.json").exists():
            complete_or_absent(out)
        run_it(out, settings)
        assert files(out) == whole
        assert left_over(out) == []
        shutil.rmtree(out)

    # Files alone are opened, synced and renamed more often than this.
    assert dying_at_every_call(monkeypatch, attempt, after) > 40


@LAYOUTS
def test_a_commit_that_dies_keeps_the_parts_or_is_done(
    tmp_path: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, out, kept = config(layout), tmp_path / "out", tmp_path / "kept"
    with RunFolder.open(kept, settings) as run:
        run.note_plan(PLAN)
        write_parts(run, settings, 0, 20, bad=BAD)
    run_it(tmp_path / "whole", settings)
    seen = set()

    def attempt() -> None:
        shutil.copytree(kept, out)
        with RunFolder.open(out, settings) as run:
            run.commit(0, 4)

    def after() -> None:
        if (out / "_cliprt" / "run.json").exists():
            with RunFolder.open(out, settings) as run:
                seen.add(run.is_done(0))
                assert run.is_done(0) or run.parts(0) == {0: 6, 1: 6, 2: 6, 3: 2}
                if not run.is_done(0):
                    run.commit(0, 4)
                run.finish(1)
            assert files(out) == files(tmp_path / "whole")
            assert left_over(out) == []
        shutil.rmtree(out)

    dying_at_every_call(monkeypatch, attempt, after)
    assert seen == {True, False}


@LAYOUTS
def test_an_amendment_that_dies_leaves_the_old_or_the_new_shard(
    tmp_path: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_rewriting, "PART_ITEMS", 7)
    settings, out, kept = config(layout), tmp_path / "out", tmp_path / "kept"
    run_it(kept, settings)
    old = files(kept)
    shutil.copytree(kept, tmp_path / "amended")
    better = rows(settings, 0, [8, 19], bad=(19,))
    with RunFolder.open(tmp_path / "amended", settings) as run:
        run.amend(0, better)
        run.finish(1)
    new = files(tmp_path / "amended")
    assert new != old
    seen = set()

    def attempt() -> None:
        shutil.copytree(kept, out, dirs_exist_ok=True)
        with RunFolder.open(out, settings) as run:
            run.amend(0, better)

    def after() -> None:
        if (out / "manifest.json").exists():
            assert files(out) == old
        # What a run does that was not told to retry: it completes what was begun.
        run_it(out, settings)
        seen.add(files(out) == new)
        assert files(out) in (old, new)
        assert left_over(out) == []
        with RunFolder.open(out, settings) as run:
            if 8 in [failure.row for failure in run.failed(0)]:
                run.amend(0, better)
            run.finish(1)
        assert files(out) == new
        shutil.rmtree(out)

    out.mkdir()
    dying_at_every_call(monkeypatch, attempt, after)
    assert seen == {True, False}


def test_a_recovery_that_dies_is_recovered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, out, kept = config(), tmp_path / "out", tmp_path / "kept"
    run_it(kept, settings)
    better = rows(settings, 0, list(BAD))
    shutil.copytree(kept, tmp_path / "amended")
    with RunFolder.open(tmp_path / "amended", settings) as run:
        run.amend(0, better)
        run.finish(1)

    class Gone(BaseException):
        pass

    def die(*_: object) -> None:
        raise Gone

    with monkeypatch.context() as within:
        within.setattr("cliprt_batch._run_state.RunState.redo", die)
        with pytest.raises(Gone), RunFolder.open(kept, settings) as run:
            run.amend(0, better)
    assert any(name.startswith("intent") for name in left_over(kept))

    def attempt() -> None:
        shutil.copytree(kept, out, dirs_exist_ok=True)
        RunFolder.open(out, settings).close()

    def after() -> None:
        run_it(out, settings)
        assert files(out) == files(tmp_path / "amended")
        assert left_over(out) == []
        shutil.rmtree(out)

    out.mkdir()
    assert dying_at_every_call(monkeypatch, attempt, after) > 10


def test_a_merge_that_dies_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, out = config(), tmp_path / "out"
    run_it(tmp_path / "whole", settings, units=2)
    for index in (1, 2):
        with RunFolder.open(tmp_path / str(index), settings, share=(index, 2)) as run:
            run.note_plan(PLAN)
            do_unit(run, settings, index - 1, bad=BAD, size=10)
            run.finish(2)

    def attempt() -> None:
        merge([tmp_path / "1", tmp_path / "2"], out)

    def after() -> None:
        attempt()
        assert files(out) == files(tmp_path / "whole")
        assert left_over(out) == []
        shutil.rmtree(out)

    assert dying_at_every_call(monkeypatch, attempt, after) > 20


SCRIPT = """
import sys
from pathlib import Path
from run_folders import PLAN, unsynced, config, do_unit
from cliprt_batch._run_folder import RunFolder
settings = config(sys.argv[2])
with RunFolder.open(Path(sys.argv[1]), settings) as run:
    run.note_plan(PLAN)
    print("open", flush=True)
    for unit in range(12):
        do_unit(run, settings, unit, items=60, bad=(1, 8, 19), size=10)
        print("done", flush=True)
    run.finish(12)
sys.stdin.read()
"""


@LAYOUTS
def test_a_process_that_is_killed_again_and_again(tmp_path: Path, layout: Layout) -> None:
    """SIGKILL from without, at instants that nobody chose, farther on each time."""
    settings, out = config(layout), tmp_path / "out"
    with RunFolder.open(tmp_path / "whole", settings) as run:
        run.note_plan(PLAN)
        for unit in range(12):
            do_unit(run, settings, unit, items=60, bad=BAD, size=10)
        run.finish(12)
    path = [str(Path(__file__).resolve().parent.parent), *sys.path]
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}\n{SCRIPT}"]
    command += [str(out), layout]
    draw = random.Random(6)
    for killed in range(4):
        # It does not end before it has read all of its input, which never ends here.
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(1 + 3 * killed + draw.randrange(3)):
                assert process.stdout.readline()
            time.sleep(draw.uniform(0, 0.03))
            process.kill()
        assert process.returncode == -signal.SIGKILL
    subprocess.run(command, input=b"", stdout=subprocess.PIPE, check=True)
    assert files(out) == files(tmp_path / "whole")
    assert left_over(out) == []
