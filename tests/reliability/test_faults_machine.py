"""What a machine runs out of: disk, shared memory, files that may be open. And its clock."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import libfaketime
import pytest
from faults import LIMIT_S, channels, connections_to, hasty, known_answer, models_of, supervised
from mounts import apart, not_permitted
from patience import until
from small_disks import fill, small_disk
from wire_models import ONE, write_wire_repository

from cliprt import Bundle, RetryableError
from cliprt_triton import TritonServer

SERVE = [sys.executable, "-m", "cliprt", "serve"]
PORTS = ["--grpc-port", "0", "--metrics-port", "0"]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wire_repository(tmp_path_factory.mktemp("machine") / "models", slow_s=0)


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[TritonServer]:
    with supervised(repository) as server:
        yield server


def test_a_full_disk_under_the_log_costs_the_log_alone(repository: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        if disk is None:
            not_permitted()
        with supervised(repository, log=disk / "log") as server:
            channel = hasty(server.address)
            known_answer(channel)
            models = sorted(models_of(server).values())
            ballast = fill(disk)
            known_answer(channel)
            written = server.log.stat().st_size
            first = server.pid
            os.kill(first, signal.SIGKILL)
            until(lambda: server.pid != first)
            known_answer(channel)
            assert server.log.stat().st_size - written < 4096
            assert sorted(models_of(server).values()) == models
            ballast.unlink()
            os.kill(server.pid, signal.SIGSEGV)
            until(lambda: server.log.stat().st_size > written + 4096)
            known_answer(channel)
            channel.close()


def run_with(prefix: list[str], bundle: Bundle) -> subprocess.CompletedProcess[str]:
    command = [*prefix, *SERVE, str(bundle.path), *PORTS]
    # Before it serves it measures how fast the towers are.
    return subprocess.run(command, capture_output=True, text=True, timeout=4 * LIMIT_S)


def test_full_shared_memory_is_the_reason_why_nothing_is_served(small_bundle: Bundle) -> None:
    run = run_with(apart("mount -t tmpfs -o size=1m tmpfs /dev/shm"), small_bundle)
    assert run.returncode == 1
    assert "No space left on device" in run.stderr
    assert "shared memory" in run.stderr
    assert len(run.stderr.splitlines()) == 1


def test_too_few_files_are_the_reason_why_nothing_is_served(small_bundle: Bundle) -> None:
    run = run_with(["prlimit", "--nofile=40:40"], small_bundle)
    assert run.returncode == 1
    assert run.stderr == (
        "Error: a process may open 40 files here, tritonserver needs 64 and one for each "
        "connection; raise the hard limit (ulimit -Hn)\n"
    )


def test_a_low_limit_that_may_be_raised_is_raised(server: TritonServer) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, _ = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    assert soft >= min(hard, 65536)


def test_callers_beyond_the_files_that_may_be_open_cost_those_within_nothing(
    server: TritonServer,
) -> None:
    before = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    with channels(4, server.address) as within:
        connections = connections_to(server)
        opened = [int(path.name) for path in Path(f"/proc/{server.pid}/fd").iterdir()]
        # The numbers of files stay below the limit.
        limit = max(opened) + 1
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (limit, before[1]))
        try:
            beyond = [hasty(server.address) for _ in range(limit - len(opened) + 8)]
            pending = [each.infer("echo", ONE, "value", 2) for each in beyond]
            ends = []
            for each in pending:
                try:
                    ends.append((each.result() == ONE["value"]).all())
                except RetryableError:
                    ends.append(False)
            assert not all(ends)
            for channel in within:
                known_answer(channel)
        finally:
            resource.prlimit(server.pid, resource.RLIMIT_NOFILE, before)
        for channel in beyond:
            known_answer(channel)
            channel.close()
        until(lambda: connections_to(server) == connections)


# Asks under a clock that it sets itself.
ASKING = """
import os, sys, time
from pathlib import Path
from cliprt import DeadlineExceeded
from cliprt._grpc import TritonChannel
from wire_models import HOLD, ONE, keep_busy, say
clock, file = Path(os.environ["FAKETIME_TIMESTAMP_FILE"]), Path(sys.argv[2])
channel = TritonChannel(sys.argv[1])
def answered():
    return (channel.infer("echo", ONE, "value", 60).result() == ONE["value"]).all()
assert answered()
really = time.time()
for jump in ("+1d", "-1d", "+0"):
    held = keep_busy(channel, file)
    clock.write_text(jump)
    off = time.time() - really
    try:
        channel.infer("slow", ONE, "value", 0.2).result()
        late = False
    except DeadlineExceeded:
        late = True
    early = held.done()
    file.unlink()
    held.result()
    print(round(off / 86400), late, early, answered(), flush=True)
"""


def faked(clock: Path) -> dict[str, str]:
    """Variables of a process whose clock stands as a file says; other clocks go on as ever."""
    clock.write_text("+0")
    found = dict(libfaketime.get_reload_information()[1])
    library = Path(found.pop("LD_LIBRARY_PATH")) / found["LD_PRELOAD"].partition(":")[0]
    return {**found, "LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(clock)}


def test_a_callers_clock_that_jumps_moves_no_deadline(server: TritonServer, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        **faked(tmp_path / "clock"),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ASKING, server.address, str(tmp_path / "busy")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=2 * LIMIT_S,
    )
    # The day, who waited for 0.2 s is told, who waits for a minute is not, and all is right.
    assert run.stdout.splitlines() == [
        "1 True False True",
        "-1 True False True",
        "0 True False True",
    ], run.stderr
