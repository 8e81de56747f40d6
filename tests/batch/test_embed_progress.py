"""What a run says while it runs: lines in a pipe, a bar on a terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
from pathlib import Path

import pytest
from batch_runs import command

from cliprt import Bundle
from cliprt_batch import _monitor
from cliprt_batch._monitor import Lines
from cliprt_batch._pipeline import Times


@pytest.fixture
def source(tmp_path: Path, pictures_2400: Path) -> Path:
    """A list with the 2,400 pictures, and ten paths that lead nowhere."""
    lines = [str(path) for path in sorted(pictures_2400.rglob("*.jpg"))]
    lines[100:100] = [f"/none/{number}.jpg" for number in range(10)]
    path = tmp_path / "list.txt"
    path.write_text("\n".join(lines))
    return path


def test_lines_in_a_pipe(source: Path, demo_bundle: Bundle, tmp_path: Path) -> None:
    words = ("embed", source, "--bundle", demo_bundle.path, "--out", tmp_path / "out")
    done = subprocess.run(
        command(*words, chatty=True), capture_output=True, text=True, timeout=60, check=True
    )
    lines = [line for line in done.stderr.splitlines() if " items, " in line]
    assert len(lines) > 10
    counts = [int(line.split()[0].replace(",", "")) for line in lines]
    assert counts == sorted(counts)
    assert counts[-1] == 2410
    pattern = (
        r"[\d,]+ of 2,410 items, [\d,.]+/s, \d+:\d\d left, 10 failed, \w+ is the slowest stage"
    )
    assert re.fullmatch(pattern, lines[-1])
    assert "\x1b" not in done.stderr
    assert "\r" not in done.stderr
    assert "2,400 of 2,410 items embedded" in done.stdout


def test_lines_come_only_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr(_monitor.time, "monotonic", lambda: now)
    monitor = Lines()
    monitor.begin(1000, Times({"encode": 5.0}, {"encode": 2}))
    monitor.kept(200, 1)
    for _ in range(10):
        now += 1.0
        monitor.advance(40, 0)
    assert capsys.readouterr().err.splitlines() == [
        "400 of 1,000 items, 40/s, 0:15 left, 1 failed, encode is the slowest stage",
        "600 of 1,000 items, 40/s, 0:10 left, 1 failed, encode is the slowest stage",
    ]


def test_a_bar_on_a_terminal(source: Path, demo_bundle: Bundle, tmp_path: Path) -> None:
    words = ("embed", source, "--bundle", demo_bundle.path, "--out", tmp_path / "out")
    master, slave = pty.openpty()
    os.set_blocking(master, False)
    with subprocess.Popen(
        command(*words),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=slave,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "160", "LINES": "24"},
    ) as process:
        os.close(slave)
        shown = b""
        while process.poll() is None or select.select([master], [], [], 0)[0]:
            if select.select([master], [], [], 0.1)[0]:
                try:
                    shown += os.read(master, 65536)
                except OSError:  # the other end is closed
                    break
        summary = process.stdout.read().decode() if process.stdout else ""
    os.close(master)
    assert process.returncode == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert "embedding" in text
    assert re.search(r"\d+/2410", text)
    assert re.search(r"\d/s", text)
    assert re.search(r"\d+:\d\d left, 10 failed, \w+ is the slowest stage", text)
    assert "2,400 of 2,410 items embedded" in summary


def test_the_end_of_a_bar_leaves_the_cursor(
    source: Path, demo_bundle: Bundle, tmp_path: Path
) -> None:
    """An error in the middle of a run is not hidden behind a bar, and the cursor comes back."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "own.txt").touch()
    words = command("embed", source, "--bundle", demo_bundle.path, "--out", tmp_path / "out")
    program = f"import pty, sys; sys.exit(pty.spawn({words!r}) >> 8)"
    done = subprocess.run(
        [sys.executable, "-c", program], stdin=subprocess.DEVNULL, capture_output=True, timeout=60
    )
    assert done.returncode == 1
    assert b"holds no run" in done.stdout.replace(b"\r\n", b" ")
    assert done.stdout.count(b"\x1b[?25l") == done.stdout.count(b"\x1b[?25h")
