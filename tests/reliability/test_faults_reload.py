"""Models that are loaded again under traffic: as they are, damaged, and those of another bundle."""

from __future__ import annotations

import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from checkpoints import SMALL, write_checkpoint
from faults import LIMIT_S, models_of, supervised
from patience import until
from wire import load_anew

from cliprt import Bundle, Client, Connection, ModelUnavailable, RetryableError
from cliprt_export import export_checkpoint
from cliprt_triton import TritonServer, write_repository

SECRET = "open-sesame-open-sesame"
TEXTS = [f"a picture of {number} red circles" for number in range(8)]


@pytest.fixture
def repository(small_bundle: Bundle, tmp_path: Path) -> Path:
    return write_repository(small_bundle, tmp_path / "models")


@pytest.fixture
def server(repository: Path) -> Iterator[TritonServer]:
    with supervised(repository, admin_secret=SECRET) as server:
        yield server


def load(server: TritonServer, model: str) -> str:
    """Loads a model again; says why that is refused, if it is."""
    return load_anew(server.address, model, secret=SECRET, timeout_s=LIMIT_S) or ""


@contextmanager
def traffic(server: TritonServer) -> Iterator[Callable[[], Counter[str]]]:
    """Four callers without retries; yields what has become of their requests so far."""
    ends: Counter[str] = Counter()
    over = threading.Event()

    def ask(client: Client) -> None:
        while not over.is_set():
            try:
                found = client.encode_text(TEXTS)
                right = found.shape == expected.shape and np.abs(found - expected).max() <= 1e-5
                ends["right" if right else "wrong"] += 1
            except (ModelUnavailable, RetryableError) as error:
                ends[type(error).__name__] += 1

    connection = Connection(server.address, retry=None)
    clients = [Client(connection, timeout_s=LIMIT_S) for _ in range(4)]
    expected = clients[0].encode_text(TEXTS)
    threads = [threading.Thread(target=ask, args=(each,)) for each in clients]
    for thread in threads:
        thread.start()
    try:
        yield lambda: Counter(ends)
    finally:
        over.set()
        for thread in threads:
            thread.join()
        for each in clients:
            each.close()


def graph_of(repository: Path) -> Path:
    (graph,) = (repository / "clip_text").glob("*/model.onnx")
    return graph


def test_no_request_fails_while_a_good_model_is_loaded_again(
    server: TritonServer, repository: Path
) -> None:
    before = models_of(server)
    with traffic(server) as ends:
        for _ in range(3):
            os.utime(graph_of(repository))
            assert load(server, "clip_text") == ""
            seen = ends()["right"]
            until(lambda seen=seen: ends()["right"] > seen + 8)  # type: ignore[misc]
    assert set(ends()) == {"right"}
    # Another process answers, and that of the old one has gone.
    until(lambda: sorted(models_of(server).values()) == sorted(before.values()))
    assert sum(pid not in before for pid in models_of(server)) == 1


def test_a_damaged_model_is_refused_and_the_old_one_goes_on(
    server: TritonServer, repository: Path
) -> None:
    before = models_of(server)
    with traffic(server) as ends:
        graph = graph_of(repository)
        graph.write_bytes(graph.read_bytes()[:1000])
        assert "is no readable ONNX graph" in load(server, "clip_text")
        seen = ends()["right"]
        until(lambda: ends()["right"] > seen + 8)
    assert set(ends()) == {"right"}
    until(lambda: models_of(server) == before)


def test_another_bundle_in_the_place_of_the_first_answers_nobody_who_asked_the_first(
    server: TritonServer, repository: Path, tmp_path: Path
) -> None:
    """Both have the same shapes: nothing but the version tells their answers apart."""
    other = export_checkpoint(
        str(write_checkpoint(tmp_path / "checkpoint", SMALL, seed=1)), tmp_path / "other"
    )
    replaced = write_repository(other, tmp_path / "replaced")
    with traffic(server) as ends:
        shutil.rmtree(repository / "clip_text")
        (replaced / "clip_text").rename(repository / "clip_text")
        assert load(server, "clip_text") == ""
        until(lambda: ends()["ModelUnavailable"] >= 8)
    assert set(ends()) == {"right", "ModelUnavailable"}
    for model in ("clip_image", "clip_card"):
        shutil.rmtree(repository / model)
        (replaced / model).rename(repository / model)
        assert load(server, model) == ""
    with Client(server.address) as client:
        assert client.card.space == other.card.space
        assert client.encode_text(TEXTS).shape == (8, 24)
