"""Two processes, one folder."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from run_folders import PLAN, config, do_unit

from cliprt_batch import _locks
from cliprt_batch._manifest import read_manifest
from cliprt_batch._output_errors import OutputBusy
from cliprt_batch._run_folder import RunFolder

HOLDER = """
import sys
from pathlib import Path
from run_folders import PLAN, config, do_unit
from cliprt_batch._run_folder import RunFolder
run = RunFolder.open(Path(sys.argv[1]), config(), share=(int(sys.argv[2]), int(sys.argv[3])))
print("open", flush=True)
sys.stdin.read()
"""


@contextmanager
def held(out: Path, share: tuple[int, int]) -> Iterator[subprocess.Popen[str]]:
    """Another process runs a share."""
    path = [str(Path(__file__).resolve().parent.parent), *sys.path]
    code = f"import sys; sys.path[:0] = {path!r}\n{HOLDER}"
    command = [sys.executable, "-c", code, str(out), *map(str, share)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout.readline() == "open\n"
        yield process
        process.kill()


@pytest.mark.parametrize("other", [(1, 1), (2, 4)])
def test_the_same_share_is_refused(tmp_path: Path, other: tuple[int, int]) -> None:
    reason = f"another run of share {other[0]}/{other[1]}; wait for it, or choose another --out"
    with held(tmp_path, other), pytest.raises(OutputBusy, match=reason):
        RunFolder.open(tmp_path, config(), share=other)


def test_another_division_is_refused(tmp_path: Path) -> None:
    with held(tmp_path, (2, 4)):
        for share in ((1, 1), (1, 2)):
            with pytest.raises(OutputBusy, match="share 2/4 is under way, and share"):
                RunFolder.open(tmp_path, config(), share=share)


def test_other_shares_of_the_same_division_run_at_once(tmp_path: Path) -> None:
    with held(tmp_path, (2, 4)), RunFolder.open(tmp_path, config(), share=(3, 4)):
        pass


def test_the_lock_ends_with_the_process(tmp_path: Path) -> None:
    with held(tmp_path, (1, 1)) as process:
        process.kill()
        process.wait()
        RunFolder.open(tmp_path, config()).close()


def test_the_lock_ends_with_the_run(tmp_path: Path) -> None:
    with (
        RunFolder.open(tmp_path, config()),
        pytest.raises(OutputBusy),
    ):
        RunFolder.open(tmp_path, config())
    RunFolder.open(tmp_path, config(), share=(1, 2)).close()


def test_a_refused_run_changes_nothing(tmp_path: Path) -> None:
    with held(tmp_path, (1, 1)):
        temporary = tmp_path / "_cliprt" / "tmp" / "1-of-1" / "being-written"
        temporary.touch()
        with pytest.raises(OutputBusy):
            RunFolder.open(tmp_path, config())
        assert temporary.exists()


def test_a_share_waits_while_another_plans_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_locks, "_SILENT_S", 0)
    waits = threading.Event()
    told: list[str] = []

    def note() -> None:
        told.append("waits")
        waits.set()

    def join() -> bool:
        RunFolder.open(tmp_path, config(), share=(2, 2), told=note).close()
        return planned

    planned = False
    with ThreadPoolExecutor(1) as threads, RunFolder.open(tmp_path, config(), share=(1, 2)) as run:
        with run.alone():
            other = threads.submit(join)
            assert waits.wait(60)
            assert not other.done()
            planned = True
        assert other.result(60)
    assert told == ["waits"]


def test_planning_waits_for_another_share_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_locks, "_SILENT_S", 0)
    waits = threading.Event()

    def plan() -> None:
        with other.alone(waits.set):
            pass

    with (
        ThreadPoolExecutor(1) as threads,
        RunFolder.open(tmp_path, config(), share=(1, 2)) as one,
        RunFolder.open(tmp_path, config(), share=(2, 2)) as other,
    ):
        with one.alone():
            ended = threads.submit(plan)
            assert waits.wait(60)
        ended.result(60)


def test_nobody_is_told_of_a_wait_that_there_is_not(tmp_path: Path) -> None:
    told: list[str] = []
    with (
        RunFolder.open(tmp_path, config(), told=lambda: told.append("waits")) as run,
        run.alone(lambda: told.append("waits")),
    ):
        pass
    assert not told


def test_a_thread_does_not_wait_for_itself(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, config(), share=(1, 2)) as run:
        with run.alone():
            with pytest.raises(OutputBusy, match="would wait for itself"):
                run.note_plan(PLAN)
            with pytest.raises(OutputBusy, match="would wait for itself"):
                RunFolder.open(tmp_path, config(), share=(2, 2))
        run.note_plan(PLAN)
        RunFolder.open(tmp_path, config(), share=(2, 2)).close()


def test_of_shares_that_end_at_once_one_writes_the_manifest(tmp_path: Path) -> None:
    settings, of = config(), 4
    for turn in range(5):
        out = tmp_path / str(turn)
        runs = [RunFolder.open(out, settings, share=(i, of)) for i in range(1, of + 1)]
        for unit, run in enumerate(runs):
            run.note_plan(PLAN)
            do_unit(run, settings, unit)
        together = threading.Barrier(of)

        def end(run: RunFolder, together: threading.Barrier = together) -> object:
            together.wait()
            return run.finish(of)

        with ThreadPoolExecutor(of) as threads:
            ends = list(threads.map(end, runs))
        assert len([manifest for manifest in ends if manifest]) == 1
        assert read_manifest(out).items == of * 20


def test_a_fault_of_the_source_is_not_one_of_the_folder(tmp_path: Path) -> None:
    with (
        RunFolder.open(tmp_path, config()) as run,
        pytest.raises(FileNotFoundError),
        run.alone(),
    ):
        (tmp_path / "source").read_bytes()


@pytest.mark.parametrize("share", [(0, 1), (2, 1), (1, 0)])
def test_a_share_that_does_not_exist(tmp_path: Path, share: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        RunFolder.open(tmp_path, config(), share=share)
