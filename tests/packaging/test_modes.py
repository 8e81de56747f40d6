"""Who may read what is written: private things nobody, shared things whom the umask lets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from batch_inputs import small_pictures, write_files
from conftest import ROOT
from wire_models import write_wire_repository

from cliprt import Bundle
from cliprt._folders import folder_that_becomes, write_whole

# A program of its own, because the umask is that of a process: a server, and a client with shared
# memory.
PRIVATE = """
import json, os, sys
from pathlib import Path

os.umask(0)
sys.path.insert(0, sys.argv[2])

import numpy as np
from cliprt import Connection
from cliprt._grpc import TritonChannel
from cliprt_triton import TritonServer

with TritonServer(sys.argv[1], shared_memory=True, log=Path(sys.argv[1]).parent / "log") as server:
    channel = TritonChannel(Connection(server.address, shared_memory=True))
    value = np.ones((1, 200_000), np.uint8)
    assert (channel.infer("echo", {"value": value}, "value", 60).result() == value).all()
    regions = [path for path in Path("/dev/shm").iterdir() if f"-{os.getpid()}-" in path.name]
    others = [Path(server._work.name), server.log]
    print(json.dumps({str(path): path.stat().st_mode & 0o777 for path in [*regions, *others]}))
    channel.close()
"""


def test_nobody_else_reads_requests_whatever_the_umask(tmp_path: Path) -> None:
    repository = write_wire_repository(tmp_path / "models")
    run = subprocess.run(
        [sys.executable, "-c", PRIVATE, str(repository), str(ROOT / "tests")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    modes: dict[str, int] = json.loads(run.stdout.splitlines()[-1])
    # Of the client, and of the Python backend with its models.
    assert any("/cliprt-inputs-" in name for name in modes)
    assert sum(name.startswith("/dev/shm/cliprt-") for name in modes) >= 3
    assert {name: oct(mode) for name, mode in modes.items() if mode & 0o077} == {}


# A batch job that looks, before each batch, at what it and its processes share in memory.
JOB = """
import json, os, sys
from pathlib import Path

os.umask(0)

import psutil
from cliprt_batch import JobOptions, embed
from cliprt_batch._encoders import LocalEncoder
from cliprt_batch._source import Source
from cliprt_engines import LocalClip

shared = set()

class Watched(LocalEncoder):
    def images(self, pixels):
        job = psutil.Process()
        for process in (job, *job.children()):
            for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines():
                _, rights, _, _, inode, *name = line.split(maxsplit=5)
                if "w" in rights and rights.endswith("s") and inode != "0":
                    shared.add((process == job, name[0] if name else ""))
        return super().images(pixels)

bundle, pictures, out = sys.argv[1:]
with LocalClip(bundle) as clip:
    encoder = Watched(clip, ("image",), truncate=True)
    embed(Source(pictures), Path(out), encoder, JobOptions(towers=("image",)), workers=1)
print(json.dumps(sorted(shared)))
"""


def test_the_windows_of_a_batch_job_have_no_name(small_bundle: Bundle, tmp_path: Path) -> None:
    """Pixels pass from its processes to the job in memory that nobody else can open."""
    write_files(tmp_path / "pictures", small_pictures(8))
    places = [small_bundle.path, tmp_path / "pictures", tmp_path / "out"]
    run = subprocess.run(
        [sys.executable, "-c", JOB, *map(str, places)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    shared: list[tuple[bool, str]] = json.loads(run.stdout.splitlines()[-1])
    windows = {in_job for in_job, name in shared if name == "/memfd:cliprt-windows (deleted)"}
    assert windows == {False, True}
    assert [name for _, name in shared if Path(name).exists()] == []


@contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize("value", [0o000, 0o022, 0o027, 0o077])
def test_what_is_meant_for_others_follows_the_umask(value: int, tmp_path: Path) -> None:
    """Bundles, repositories and engines; results, cards and summaries."""
    with umask(value):
        with folder_that_becomes(tmp_path / "bundle") as folder:
            assert mode(folder) == 0o700
            (folder / "file").touch()
        write_whole(tmp_path / "out" / "result", b"x")
        write_whole(tmp_path / "secret", b"x", private=True)
        assert os.umask(value) == value  # it was only read
    assert mode(tmp_path / "bundle") == 0o777 & ~value
    assert mode(tmp_path / "bundle" / "file") == 0o666 & ~value
    assert mode(tmp_path / "out" / "result") == 0o666 & ~value
    assert mode(tmp_path / "secret") == 0o600
