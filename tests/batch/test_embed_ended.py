"""What ends or hinders a run from outside: signals, full disks, rights, a second run."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from batch_inputs import small_pictures, write_files
from batch_runs import command, finished, kept, output, parts_of, run

from cliprt import Bundle

_PR_CAPBSET_DROP, _DAC_OVERRIDE, _DAC_READ_SEARCH = 24, 1, 2


def as_anybody() -> None:
    """In a child: root, too, is refused what a mode does not allow."""
    libc = ctypes.CDLL(None)
    for capability in (_DAC_OVERRIDE, _DAC_READ_SEARCH):
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)


@pytest.fixture(scope="module")
def arguments(demo_bundle: Bundle, pictures_2400: Path) -> list[object]:
    return ["embed", pictures_2400, "--bundle", demo_bundle.path, "--shard-size", "600"]


@pytest.fixture(scope="module")
def undisturbed(arguments: list[object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    finished(*arguments, "--out", out)
    return out


@contextlib.contextmanager
def under_way(*words: object, out: Path) -> Iterator[subprocess.Popen[str]]:
    """A run whose first part is written."""
    with subprocess.Popen(
        command(*words, "--out", out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            _await(lambda: bool(parts_of(out)), process)
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def _await(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, "the run ended too early"
        assert time.monotonic() < end, "the run did not get there"
        time.sleep(0.001)


def decoders_of(pid: int) -> list[int]:
    """The processes that decode for another one."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_that_goes_on_later(
    arguments: list[object], undisturbed: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "out"
    with under_way(*arguments, out=out) as process:
        children = decoders_of(process.pid)
        process.send_signal(number)
        _, told = process.communicate(timeout=120)
    assert process.returncode == 130
    last = told.strip().splitlines()[-1]
    assert "stopped" in last
    assert str(out) in last
    assert "Traceback" not in told
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    assert not (out / "manifest.json").exists()
    before = kept(out)
    assert 512 <= before < 2400
    finished(*arguments, "--out", out)
    assert json.loads((out / "summary.json").read_bytes())["computed"] == 2400 - before
    assert output(out) == output(undisturbed)


def test_decode_processes_that_are_killed_lose_nothing(
    arguments: list[object], undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    killed = 0
    with under_way(*arguments, "--workers", 2, out=out) as process:
        while process.poll() is None and killed < 3:
            children = decoders_of(process.pid)
            for child in children[:1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
                    killed += 1
            time.sleep(1.5)  # three that end at their start would end the run
        _, told = process.communicate(timeout=120)
    assert process.returncode == 0, told
    assert killed >= 1
    assert output(out) == output(undisturbed)


def test_a_second_run_into_the_folder_is_refused(
    arguments: list[object], undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with under_way(*arguments, out=out) as process:
        process.send_signal(signal.SIGSTOP)
        second = run(*arguments, "--out", out)
        divided = run(*arguments, "--out", out, "--shard", "1/2")
        process.send_signal(signal.SIGCONT)
        _, told = process.communicate(timeout=120)
    assert second.returncode == divided.returncode == 1
    assert "is being written by another run" in second.stderr
    assert "is being written by another run" in divided.stderr
    assert process.returncode == 0, told
    assert output(out) == output(undisturbed)


def test_a_full_disk_is_told_and_the_run_goes_on_later(
    arguments: list[object], undisturbed: Path, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("no file system can be mounted")
    try:
        full = run(*arguments, "--out", disk / "out")
        assert full.returncode == 1
        assert "No space left on device" in full.stderr
        assert "Free space and run the same command again" in full.stderr
        assert "Traceback" not in full.stderr
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        finished(*arguments, "--out", disk / "out")
        assert output(disk / "out") == output(undisturbed)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_folder_that_cannot_be_written(arguments: list[object], tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    refused = run(*arguments, "--out", locked / "out", preexec_fn=as_anybody)
    assert refused.returncode == 1
    assert "cannot be written: Permission denied" in refused.stderr
    assert "--out" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_pictures_that_may_not_be_read(demo_bundle: Bundle, tmp_path: Path) -> None:
    files = {f"{n}.jpg": data for n, data in enumerate(small_pictures(6).values())}
    paths = write_files(tmp_path / "pictures", files)
    paths[2].chmod(0)
    words = ["embed", tmp_path / "pictures", "--bundle", demo_bundle.path]
    out = tmp_path / "out"
    finished(*words, "--out", out, preexec_fn=as_anybody)
    (failure,) = (out / "failures.jsonl").read_text().splitlines()
    assert '"key":"2.jpg"' in failure
    assert '"stage":"read"' in failure
    assert "Permission denied" in failure
    paths[2].chmod(0o644)
    finished(*words, "--out", out, "--retry-failed", preexec_fn=as_anybody)
    assert (out / "failures.jsonl").read_text() == ""
