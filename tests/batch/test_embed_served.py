"""Runs on a server: it dies, it comes back or does not, and others keep it busy meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from batch_inputs import caption, small_pictures, write_source
from batch_runs import command, finished, kept, output, parts_of, run
from patience import settled
from tritonclient.grpc import InferenceServerClient

from cliprt import Bundle, Client
from cliprt_engines import LocalClip
from cliprt_triton import TritonServer, write_repository

COUNT = 1300
FILES = {f"{n:05d}.jpg": data for n, data in enumerate(small_pictures(COUNT, seed=4).values())}
BOTH = ("--what", "both", "--shard-size", "600")


@pytest.fixture(scope="module")
def repository(demo_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_repository(demo_bundle, tmp_path_factory.mktemp("served") / "repository")


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[TritonServer]:
    with TritonServer(repository) as server:
        yield server


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    captions = {name: caption(number) for number, name in enumerate(FILES)}
    return write_source("jsonl", tmp_path_factory.mktemp("pictures"), FILES, captions)


@pytest.fixture(scope="module")
def undisturbed(
    server: TritonServer, source: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    finished("embed", source, "--url", server.address, "--out", out, *BOTH)
    return out


def test_the_embeddings_are_those_of_the_bundle(undisturbed: Path, demo_bundle: Bundle) -> None:
    found = np.load(undisturbed / "img_emb" / "img_emb_000000.npy")
    with LocalClip(demo_bundle.path) as clip:
        expected = clip.encode_image(list(FILES.values())[:600])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_busy_server_gives_the_same_bytes(
    server: TritonServer, source: Path, undisturbed: Path, tmp_path: Path
) -> None:
    over = threading.Event()
    asked = 0

    def ask() -> None:
        nonlocal asked
        pictures = list(FILES.values())
        with Client(server.address) as client:
            while not over.is_set():
                size = 1 + asked % 7
                client.encode_image(pictures[:size])
                client.encode_text([caption(number) for number in range(size)])
                asked += 1

    others = [threading.Thread(target=ask) for _ in range(2)]
    for other in others:
        other.start()
    try:
        finished("embed", source, "--url", server.address, "--out", tmp_path / "out", *BOTH)
    finally:
        over.set()
        for other in others:
            other.join()
    assert asked > 10
    assert output(tmp_path / "out") == output(undisturbed)


def test_requests_are_as_large_as_the_greatest_batch(
    server: TritonServer, source: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """So nothing can be joined to them, whoever asks at the same time."""
    before = settled(lambda: _batches(server))
    finished("embed", source, "--url", server.address, "--out", tmp_path / "out", *BOTH)
    computed = settled(lambda: _batches(server)) - before
    with Client(server.address) as client:
        most = {tower: client._core.most(tower) for tower in ("image", "text")}
    assert {size for _, size in computed} == set(most.values())
    for tower, size in most.items():
        # The shards have 600, 600 and 100 items, their parts 512 and 88 or 100.
        parts = [512, 88, 512, 88, 100]
        assert computed[f"clip_{tower}", size] == sum(-(-items // size) for items in parts)


def _batches(server: TritonServer) -> Counter[tuple[str, int]]:
    """How many batches of each size the models have computed."""
    with InferenceServerClient(server.address) as triton:
        statistics = triton.get_inference_statistics()
    return Counter(
        {
            (model.name, batch.batch_size): batch.compute_infer.count
            for model in statistics.model_stats
            for batch in model.batch_stats
        }
    )


def test_a_server_that_dies_and_comes_back(
    repository: Path, source: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    server = TritonServer(repository)
    port = int(server.address.rpartition(":")[2])
    words = ("embed", source, "--url", server.address, "--out", out, *BOTH)
    try:
        with subprocess.Popen(
            command(*words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            _first_part(out, process)
            process.send_signal(signal.SIGSTOP)  # so that the server dies in the middle of the run
            _kill(server)
            process.send_signal(signal.SIGCONT)
            time.sleep(1.0)
            assert process.poll() is None
            server = TritonServer(repository, grpc_port=port)
            told, _ = process.communicate(timeout=120)
        assert process.returncode == 0, told
    finally:
        server.stop()
    assert output(out) == output(undisturbed)


def test_a_server_that_stays_away(
    repository: Path, source: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    server = TritonServer(repository)
    port = int(server.address.rpartition(":")[2])
    words = ("embed", source, "--url", server.address, "--out", out, *BOTH, "--patience", 1)
    try:
        with subprocess.Popen(
            command(*words), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process:
            _first_part(out, process)
            process.send_signal(signal.SIGSTOP)
            _kill(server)
            before = kept(out)
            process.send_signal(signal.SIGCONT)
            _, told = process.communicate(timeout=120)
        assert process.returncode == 1
        assert "Traceback" not in told
        assert server.address in told.splitlines()[-1]
        assert kept(out) >= before >= 512
        gone = run(*words)
        assert gone.returncode == 1
        assert server.address in gone.stderr
        assert "Traceback" not in gone.stderr
        server = TritonServer(repository, grpc_port=port)
        finished(*words)
    finally:
        server.stop()
    assert output(out) == output(undisturbed)


def test_another_server_of_the_same_model_goes_on(
    server: TritonServer, source: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """The address of the server is no part of a run's identity."""
    out = tmp_path / "out"
    dead = "127.0.0.1:1"
    first = ("embed", source, "--out", out, *BOTH, "--shard", "1/2", "--url", server.address)
    finished(*first)
    several = f"{server.address},{dead}"
    finished("embed", source, "--out", out, *BOTH, "--url", several, "--patience", 30)
    assert output(out) == output(undisturbed)


def _first_part(out: Path, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 60
    while not parts_of(out):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.001)


def _kill(server: TritonServer) -> None:
    os.kill(server.pid, signal.SIGKILL)
    server.wait()
    server.stop()
