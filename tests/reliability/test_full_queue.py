"""A tower behind a full queue works without a pause, in the real Triton."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
from patience import until

from cliprt import Bundle, Client, Connection, Overloaded
from cliprt_triton import Policy, TritonServer, write_repository

BATCH, CALLERS, BATCHES = 2, 16, 40

# Triton's batcher sleeps for half a second behind a full queue: longer than this one computes.
SLOW = """
import time
from pathlib import Path

from cliprt_triton.models.tower import TritonPythonModel as Sound


class TritonPythonModel(Sound):
    def _embed(self, batches):
        begun = time.monotonic()
        time.sleep(0.15)
        found = super()._embed(batches)
        with Path({log!r}).open("a") as log:
            log.write(f"{{begun}} {{time.monotonic()}} {{sum(map(len, batches))}}\\n")
        return found
"""


def test_a_full_queue_lets_the_tower_work_on(small_bundle: Bundle, tmp_path: Path) -> None:
    policy = Policy(max_batch_size=BATCH, max_queue_size=2 * BATCH)
    repository = write_repository(small_bundle, tmp_path / "models", policy=policy)
    log = tmp_path / "batches"
    (code,) = (repository / "clip_text").glob("*/model.py")
    code.write_text(SLOW.format(log=str(log)), encoding="utf-8")
    log.touch()
    over = threading.Event()
    texts = [f"a picture of {number} red circles" for number in range(CALLERS)]
    wrong: list[str] = []
    with TritonServer(repository) as server, Client(server.address) as client:
        known = client.encode_text(texts)
        log.write_text("")

        def ask(number: int) -> None:
            with Client(Connection(server.address, retry=None)) as mine:
                while not over.is_set():
                    try:
                        found = mine.encode_text([texts[number]])[0]
                    except Overloaded:
                        over.wait(0.02)
                        continue
                    if np.abs(found - known[number]).max() > 1e-5:
                        wrong.append(texts[number])

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(CALLERS)]
        for thread in threads:
            thread.start()
        try:
            until(lambda: len(log.read_text().splitlines()) >= BATCHES)
        finally:
            over.set()
            for thread in threads:
                thread.join()
    assert not wrong
    lines = np.array([line.split() for line in log.read_text().splitlines()], float)[:BATCHES]
    begun, ended, items = lines[4:].T  # it has to see a pause once
    assert np.median(items) == BATCH
    paused = begun[1:] - ended[:-1]
    # It may lose sight of the queue now and then, and sees it again at the next pause.
    assert np.median(paused) < 0.05, paused
