"""Disks that are full, files that may not be written."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mounts import not_permitted
from run_folders import (
    LAYOUTS,
    PLAN,
    config,
    do_unit,
    failing_from,
    files,
    left_over,
    rows,
    unsynced,
    write_parts,
)
from small_disks import small_disk

from cliprt_batch._output_errors import OutputError
from cliprt_batch._run_config import Layout, RunConfig
from cliprt_batch._run_folder import RunFolder

__all__ = ["unsynced"]
pytestmark = pytest.mark.usefixtures("unsynced")


def full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def run_it(out: Path, settings: RunConfig) -> None:
    with RunFolder.open(out, settings) as run:
        run.note_plan(PLAN)
        do_unit(run, settings, 0, bad=(4,), size=10)
        if run.failed(0):
            run.amend(0, rows(settings, 0, [4]))
        run.finish(1)


def refused(function: Callable[..., None], *args: object) -> str | None:
    """What is said where the function cannot write; None where it can."""
    try:
        function(*args)
    except OutputError as error:
        return str(error)
    return None


@LAYOUTS
def test_whatever_cannot_be_written_is_said_and_nothing_is_lost(
    tmp_path: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call that changes the disk fails once; the same run then goes on."""
    settings, out = config(layout), tmp_path / "out"
    run_it(tmp_path / "whole", settings)
    whole, failed = files(tmp_path / "whole"), 0
    for call in range(1, 2000):
        with failing_from(monkeypatch, call, full, times=1) as count:
            said = refused(run_it, out, settings)
        if said is not None:
            failed += 1
            assert "No space left on device" in said
            assert "Free space and run the same command again." in said
            temporary = [name for name in left_over(out) if name.startswith("tmp")]
            intents = [name for name in left_over(out) if name.startswith("intent")]
            # The new files of a shard that is being replaced are needed to carry that out.
            assert not temporary or intents
        reached = count[0] >= call
        run_it(out, settings)
        assert files(out) == whole
        assert left_over(out) == []
        shutil.rmtree(out)
        if not reached:
            break
    assert failed > 40


def test_it_is_said_how_much_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config()
    with RunFolder.open(tmp_path, settings) as run:
        do_unit(run, settings, 0)
        with (
            failing_from(monkeypatch, 1, full, times=None),
            pytest.raises(OutputError, match=r"1 finished shards \(20 items\) and finished parts"),
        ):
            run.write_part(1, 0, rows(settings, 1, range(5)))


def test_items_that_were_amended_count_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config()
    with RunFolder.open(tmp_path, settings) as run:
        do_unit(run, settings, 0, bad=(3,))
        do_unit(run, settings, 1)
        run.amend(0, rows(settings, 0, [3]))
        assert run.look(0)
        with (
            failing_from(monkeypatch, 1, full, times=None),
            pytest.raises(OutputError, match=r"2 finished shards \(40 items\)"),
        ):
            run.write_part(2, 0, rows(settings, 2, range(5)))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 1024) as disk:
        if disk is None:
            not_permitted()
        yield disk


@LAYOUTS
def test_a_disk_that_fills_up(tmp_path: Path, layout: Layout, disk: Path) -> None:
    settings = config(layout, dim=64)

    def units(out: Path) -> None:
        with RunFolder.open(out, settings) as run:
            run.note_plan(PLAN)
            for unit in range(2):
                do_unit(run, settings, unit, items=200, bad=(7,), size=50)
            run.finish(2)

    units(tmp_path / "whole")
    ballast = disk / "ballast"
    seen = set()
    for free in range(5, 700, 45):
        out = disk / "out"
        ballast.write_bytes(bytes(1024 * (1020 - free)))
        said = refused(units, out)
        if said is not None:
            assert "No space left on device" in said
            seen.add(len(list(out.glob("_cliprt/done/*"))))
            assert not list(out.glob("_cliprt/tmp/*/*"))
        ballast.unlink()
        units(out)
        assert files(out) == files(tmp_path / "whole")
        shutil.rmtree(out)
    # It was full before the first shard, and after it.
    assert seen >= {0, 1}


STRANGER = """
import sys
from pathlib import Path
from run_folders import config
from cliprt_batch._output_errors import OutputError
from cliprt_batch._run_folder import RunFolder
try:
    RunFolder.open(Path(sys.argv[1]), config())
except OutputError as error:
    print(error)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("begun", [False, True])
def test_a_folder_of_another_user(tmp_path: Path, begun: bool) -> None:
    out = tmp_path / "out"
    if begun:
        with RunFolder.open(out, config()) as run:
            write_parts(run, config(), 0, 20)
    else:
        out.mkdir()
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    path = [str(Path(__file__).resolve().parent.parent), *sys.path]
    script = (
        f"import sys; sys.path[:0] = {path!r}\n"
        "import pyarrow, filelock, numpy, run_folders, os\n"
        f"os.setgroups([]); os.setgid(65534); os.setuid(65534)\n{STRANGER}"
    )
    command = [sys.executable, "-c", script, str(out)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "cannot be written: Permission denied." in said
    assert "Let this user write there and run the same command again, or choose another" in said


def test_a_folder_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> OSError:
        return OSError(errno.EROFS, os.strerror(errno.EROFS))

    with (
        failing_from(monkeypatch, 1, refused, times=None),
        pytest.raises(OutputError, match="Read-only file system.*choose another --out"),
    ):
        RunFolder.open(tmp_path / "out", config())
