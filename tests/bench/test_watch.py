"""What processes do is seen, those that come and go included."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import nvml_stand_in
import pytest
from patience import until

from cliprt_bench._watch import Watch

# Uses an amount of processor time, whatever else the machine does.
BURN = "import time\nwhile time.process_time() < {0}: pass\n"

# A child that works and ends, for which its parent waits; then the parent waits for its input.
PARENT = """
import subprocess, sys
subprocess.run([sys.executable, "-c", {burn!r}], check=True)
print("done", flush=True)
sys.stdin.read()
"""


@contextmanager
def running(program: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", program]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def say(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{word}\n")


def until_done(process: subprocess.Popen[str]) -> None:
    """Waits until a program says that it has worked."""
    assert process.stdout is not None
    assert process.stdout.readline() == "done\n"


def burn(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def test_this_process() -> None:
    with Watch(gpus=False) as watch:
        burn(0.3)
    seen = watch.seen
    assert seen.cpu_cores is not None
    # The system counts in ticks of 10 ms.
    assert seen.cpu_cores * seen.seconds >= 0.25
    assert seen.readings >= 2
    assert (seen.target_cores, seen.rss_mb) == (None, None)
    assert (seen.gpu_percent, seen.gpu_mb, seen.gpu_power_w) == (None, None, None)
    assert seen.gpu_clocks_mhz == ()


def test_this_process_as_the_target() -> None:
    with Watch([os.getpid()], gpus=False) as watch:
        burn(0.2)
    assert watch.seen.target_cores is not None
    assert watch.seen.target_cores * watch.seen.seconds >= 0.15
    assert watch.seen.rss_mb is not None
    assert watch.seen.rss_mb > 1


def test_a_child_of_the_target_that_ends_meanwhile() -> None:
    with running("input()\n" + PARENT.format(burn=BURN.format(0.4))) as process:
        with Watch([process.pid], every_s=0.05, gpus=False) as watch:
            say(process, "go")
            until_done(process)
        seen = watch.seen
    assert seen.target_cores is not None
    assert 0.35 <= seen.target_cores * seen.seconds <= 2.0


def test_of_a_block_only_the_part_that_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml_stand_in.install(monkeypatch)
    with Watch([os.getpid()], every_s=0.02) as watch:
        burn(0.4)
        with watch.counted():
            burn(0.1)
        counted = watch.seen
        burn(0.4)
    assert watch.seen == counted
    assert counted.target_cores is not None
    assert counted.target_cores * counted.seconds < 0.3
    assert counted.gpu_percent is not None


def test_what_a_target_did_before_does_not_count() -> None:
    with running(PARENT.format(burn=BURN.format(0.6))) as process:
        until_done(process)
        with Watch([process.pid], gpus=False) as watch:
            time.sleep(0.1)
    assert watch.seen.target_cores is not None
    assert watch.seen.target_cores * watch.seen.seconds < 0.3


def test_a_target_that_ends_keeps_what_was_seen_of_it() -> None:
    burning = "import time\ninput()\nuntil = time.process_time() + 0.4\n" + BURN.format("until")
    with (
        running(burning + "print('done', flush=True)\ninput()\n") as process,
        Watch([process.pid], every_s=0.02, gpus=False) as watch,
    ):
        say(process, "go")
        until_done(process)
        readings = watch._readings
        until(lambda: watch._readings > readings + 1)
        say(process, "end")
        process.wait()
    assert watch.seen.target_cores is not None
    assert 0.25 <= watch.seen.target_cores * watch.seen.seconds <= 2.0


def test_a_target_that_is_not_there_counts_nothing() -> None:
    with running("pass") as process:
        process.wait()
        with Watch([process.pid], gpus=False) as watch:
            pass
    assert watch.seen.target_cores == 0
    assert watch.seen.rss_mb is None


def test_all_visible_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """The busiest one's share, and the others of both together."""
    happened = nvml_stand_in.install(monkeypatch)
    with Watch() as watch:
        pass
    seen = watch.seen
    assert (seen.gpu_percent, seen.gpu_mb, seen.gpu_power_w) == (80, 512 + 1024, 501)
    assert seen.gpu_clocks_mhz == (1980, 1980)
    assert happened == ["init", "shutdown"]


def test_a_gpu_that_tells_only_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml_stand_in.install(monkeypatch, silent=True)
    with Watch() as watch:
        pass
    seen = watch.seen
    assert (seen.gpu_percent, seen.gpu_mb, seen.gpu_power_w) == (None, 512 + 1024, None)
    assert seen.gpu_clocks_mhz == (None, None)


def test_a_driver_without_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    happened = nvml_stand_in.install(monkeypatch, ())
    with Watch() as watch:
        pass
    assert watch.seen.gpu_mb is None
    assert happened == ["init", "shutdown"]


def test_a_broken_library_does_not_end_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml_stand_in.install(monkeypatch, start=nvml_stand_in.NVMLError("mismatch"))
    with Watch() as watch:
        pass
    assert watch.seen.gpu_percent is None


def test_an_error_in_the_block_is_passed_on_and_the_watch_ends() -> None:
    watch = Watch(gpus=False)
    with pytest.raises(KeyError), watch:
        raise KeyError
    assert watch.seen.readings >= 2


def test_nothing_is_told_before_the_end() -> None:
    with Watch(gpus=False) as watch, pytest.raises(RuntimeError, match="not over"):
        _ = watch.seen


@pytest.mark.parametrize("every_s", [0.0, -1.0, float("nan")])
def test_a_pause_that_is_none_is_refused(every_s: float) -> None:
    with pytest.raises(ValueError, match="every_s must be more than 0"):
        Watch(every_s=every_s)
