"""Builds that are killed, interrupted, out of space, or two at once."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from engine_kit import build_text

from cliprt import Bundle, EngineError
from cliprt_engines import BuildProgress, Engine, build_engines, find_engines, open_engine
from cliprt_engines._cache import LOCKS, locked
from cliprt_engines._flavor import Toolkit

# Builds a text engine. May have a limit on files; may send itself a signal when a phase begins, or
# when it was told of that many steps.
CHILD = """
import os, resource, signal, sys
from cliprt import CliprtError
from cliprt_engines import build_engines
source, out, most, deadly, at, number = sys.argv[1:]
if most:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(most), int(most)))
if deadly:
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
# Tests that a shell runs in the background inherit that it is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
def tell(progress):
    global steps
    steps += progress.phase is not None
    if at == str(steps) or at and progress.phase is not None and progress.phase.name == at:
        os.kill(os.getpid(), int(number))
steps = 0
try:
    build_engines(source, out, towers=("text",), flavor="tensorrt-rtx", targets=("sm89",),
                  profiles={"text": "2x8"}, on_progress=tell)
except CliprtError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def child(
    bundle: Bundle,
    out: Path,
    *,
    most: int | None = None,
    deadly: bool = False,
    at: str = "",
    number: int = 0,
) -> subprocess.CompletedProcess[str]:
    arguments = [str(bundle.path), str(out), "" if most is None else str(most)]
    arguments += ["yes" if deadly else "", at, str(number)]
    command = [sys.executable, "-c", CHILD, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def content(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir() if path.name != LOCKS)


@pytest.fixture(scope="module")
def plan_size(half_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> int:
    return build_text(half_bundle, tmp_path_factory.mktemp("size")).manifest.plan.size


def test_a_full_disk_is_said_and_leaves_nothing(
    half_bundle: Bundle, plan_size: int, tmp_path: Path
) -> None:
    """No file may grow beyond a byte less than the plan has, so that its last write fails."""
    done = child(half_bundle, tmp_path, most=plan_size - 1)
    assert done.returncode == 1
    assert done.stderr.startswith("EngineError: ")
    assert done.stderr.endswith("cannot be written: File too large\n")
    assert content(tmp_path) == []


def test_a_full_disk_leaves_an_engine_that_was_there(
    half_bundle: Bundle, plan_size: int, engine: Engine
) -> None:
    out = engine.path.parent
    child(half_bundle, out, most=plan_size - 1)
    assert content(out) == [engine.path.name]
    assert open_engine(engine.path).plan


@pytest.mark.parametrize("at", ["Building engine", "Computing profile costs", "1", "8", "20", "40"])
def test_an_interrupt_stops_the_build_and_leaves_nothing(
    at: str, half_bundle: Bundle, tmp_path: Path
) -> None:
    """And the process ends as interrupted ones do, not by a crash of the library in its thread."""
    out = tmp_path / "new" / "engines"
    done = child(half_bundle, out, at=at, number=signal.SIGINT)
    assert done.stderr.endswith("KeyboardInterrupt\n")
    assert done.returncode == -signal.SIGINT
    assert list(tmp_path.iterdir()) == []
    assert build_text(half_bundle, out).path.name in content(out)


def assert_the_next_one_proceeds(half_bundle: Bundle, out: Path, rtx: Toolkit) -> None:
    engine = build_text(half_bundle, out)
    assert content(out) == [engine.path.name]
    assert open_engine(engine.path, toolkit=rtx).manifest == engine.manifest


def test_a_build_that_is_killed_holds_up_nobody(
    half_bundle: Bundle, tmp_path: Path, rtx: Toolkit
) -> None:
    done = child(half_bundle, tmp_path, at="Computing profile costs", number=signal.SIGKILL)
    assert done.returncode == -signal.SIGKILL
    assert content(tmp_path) == []
    assert_the_next_one_proceeds(half_bundle, tmp_path, rtx)


def test_a_build_that_is_killed_while_it_writes_leaves_no_engine(
    half_bundle: Bundle, plan_size: int, tmp_path: Path, rtx: Toolkit
) -> None:
    done = child(half_bundle, tmp_path, most=plan_size // 2, deadly=True)
    assert done.returncode == -signal.SIGXFSZ
    (left,) = content(tmp_path)
    assert left.startswith(".text.fp16.")
    assert (tmp_path / left / "engine.plan").stat().st_size == plan_size // 2
    with pytest.raises(EngineError, match="holds no engines"):
        find_engines(tmp_path)
    assert_the_next_one_proceeds(half_bundle, tmp_path, rtx)


def test_a_build_that_fails_takes_no_lock_away_from_another(
    half_bundle: Bundle, tmp_path: Path
) -> None:
    with locked(tmp_path / "out", "another"):
        with pytest.raises(ZeroDivisionError), locked(tmp_path / "out", "one"):
            raise ZeroDivisionError
        assert [path.name for path in (tmp_path / "out" / LOCKS).iterdir()] == ["another.lock"]


def test_who_waited_for_one_that_failed_holds_a_lock_that_others_see(tmp_path: Path) -> None:
    failing, failed = threading.Event(), threading.Event()

    def fail() -> None:
        with suppress(ZeroDivisionError), locked(tmp_path / "out", "one"):
            failing.set()
            failed.wait()
            raise ZeroDivisionError

    thread = threading.Thread(target=fail)
    thread.start()
    failing.wait()
    with locked(tmp_path / "out", "one", on_wait=failed.set):
        assert (tmp_path / "out" / LOCKS / "one.lock").exists()
    thread.join()


# Says its states; the one that builds waits until the other has said that it waits.
TURNS = """
import sys, time
from pathlib import Path
from cliprt_engines import build_engines
source, out, gate = sys.argv[1:]
def tell(progress):
    if progress.phase is not None:
        return
    print(progress.state, flush=True)
    if progress.state == "waiting":
        Path(gate).touch()
    if progress.state == "building":
        end = time.monotonic() + 60
        while not Path(gate).exists() and time.monotonic() < end:
            time.sleep(0.005)
(engine,) = build_engines(source, out, towers=("text",), flavor="tensorrt-rtx", targets=("sm89",),
                          profiles={"text": "2x8"}, on_progress=tell)
print(engine.manifest.plan.sha256)
"""


def test_of_two_builders_one_builds_and_the_other_waits(
    half_bundle: Bundle, tmp_path: Path
) -> None:
    arguments = [str(half_bundle.path), str(tmp_path / "engines"), str(tmp_path / "gate")]
    command = [sys.executable, "-c", TURNS, *arguments]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = sorted(process.communicate(timeout=120)[0].split() for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert [words[:2] for words in said] == [["building", "built"], ["waiting", "there"]]
    assert said[0][2] == said[1][2]
    assert len(content(tmp_path / "engines")) == 1


def test_a_file_of_the_user_among_engines_is_not_deleted(
    half_bundle: Bundle, tmp_path: Path
) -> None:
    engine = build_text(half_bundle, tmp_path)
    (engine.path / "engine.plan").unlink()
    (engine.path / "thesis.tex").write_text("years of work")
    with pytest.raises(EngineError, match=r"holds thesis\.tex, which is no part of an engine"):
        build_text(half_bundle, tmp_path)
    assert (engine.path / "thesis.tex").read_text() == "years of work"


def test_an_engine_with_a_certificate_can_be_built_again(
    half_bundle: Bundle, tmp_path: Path
) -> None:
    """Also with what a killed ``cliprt verify`` leaves of one."""
    engine = build_text(half_bundle, tmp_path)
    (engine.path / "certificate.json").write_text("{}")
    (engine.path / ".certificate.json.x7_1abcd").touch()
    (engine.path / "engine.plan").write_bytes(b"damaged")
    again = build_text(half_bundle, tmp_path)
    assert open_engine(again.path, any_device=True).plan
    # What was measured on the damaged one says nothing of the new one.
    assert sorted(path.name for path in again.path.iterdir()) == ["engine.plan", "manifest.json"]


def test_a_link_in_the_place_of_an_engine_is_replaced_and_its_target_stays(
    half_bundle: Bundle, tmp_path: Path
) -> None:
    engine = build_text(half_bundle, tmp_path / "out")
    store = engine.path.rename(tmp_path / "store")
    (store / "engine.plan").write_bytes(b"damaged")
    engine.path.symlink_to(store)
    again = build_text(half_bundle, tmp_path / "out")
    assert content(tmp_path / "out") == [again.path.name]
    assert not again.path.is_symlink()
    assert (store / "engine.plan").read_bytes() == b"damaged"


def test_an_engine_is_reused_where_nothing_can_be_written(
    half_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that root cannot write either would need a mount; the lock is what is refused."""
    engine = build_text(half_bundle, tmp_path)

    def refuse(*arguments: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("cliprt_engines._cache._acquired", refuse)
    assert build_text(half_bundle, tmp_path) == engine
    (engine.path / "engine.plan").write_bytes(b"damaged")
    with pytest.raises(EngineError, match="cannot be written: Read-only file system"):
        build_text(half_bundle, tmp_path)


def test_a_file_in_the_place_of_an_engine_is_not_deleted(
    half_bundle: Bundle, tmp_path: Path
) -> None:
    name = build_text(half_bundle, tmp_path / "one").path.name
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / name).write_text("years of work")
    with pytest.raises(EngineError, match="cannot be read: Not a directory"):
        build_text(half_bundle, tmp_path / "other")
    assert (tmp_path / "other" / name).read_text() == "years of work"


def test_a_folder_that_cannot_be_written_is_said(half_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EngineError, match=r"engines cannot be written: Not a directory"):
        build_text(half_bundle, tmp_path / "file" / "engines")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_error_while_reporting_ends_the_build(half_bundle: Bundle, tmp_path: Path) -> None:
    """An exception must not cross the library's frames, nor be lost in them."""

    def fail(progress: BuildProgress) -> None:
        if progress.phase is not None:
            raise ZeroDivisionError("told too much")

    with pytest.raises(ZeroDivisionError, match="told too much"):
        build_engines(
            half_bundle, tmp_path, flavor="tensorrt-rtx", targets=("sm89",), on_progress=fail
        )
    assert content(tmp_path) == []
