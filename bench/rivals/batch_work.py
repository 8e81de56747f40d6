"""A folder of pictures embedded by clip-retrieval's loop and by `cliprt embed`, in turns.

Both are whole commands: start, loading of the model, and writing count for both.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from cliprt_bench._figures import figure
from rivals.comparing import Answers, likeness
from rivals.entries import EXACT
from rivals.environments import Environment, attempt
from rivals.inputs import Inputs

RIVAL, OWN = "clip-retrieval", "cliprt embed fp32"
RUN_S = 3600

Job = Callable[[Path, Path], NDArray[np.float32]]
"""Embeds a folder of pictures, into another one: float32 [n, dim] by the pictures' names."""


class JobFailed(Exception):
    """A command ended with another status than 0; the message says why."""


def jobs(environment: Environment, inputs: Inputs) -> dict[str, Job]:
    """Both commands.

    Args:
        environment: of clip-retrieval.
        inputs: checkpoint and bundle.
    """

    def rival(pictures: Path, out: Path) -> NDArray[np.float32]:
        target = out / "rows.npy"
        python = (str(environment.python), "-W", "ignore", "-m", "rivals.clip_retrieval_job")
        _run([*python, str(inputs.folders["checkpoint"]), str(pictures), str(target)], clean=True)
        return np.asarray(np.load(target), np.float32)

    def own(pictures: Path, out: Path) -> NDArray[np.float32]:
        target = out / "embedded"
        command = (sys.executable, "-W", "ignore", "-m", "cliprt", "embed", str(pictures))
        _run([*command, "--out", str(target), "--bundle", str(inputs.folders["bundle"])])
        shards = sorted((target / "img_emb").glob("*.npy"))
        return np.asarray(np.concatenate([np.load(shard) for shard in shards]), np.float32)

    return {OWN: own, RIVAL: rival}


def compare_jobs(
    named: dict[str, Job], inputs: Inputs, reference: Answers, *, pictures: int, rounds: int
) -> dict[str, Any]:
    """Answers first, then the times of both in each round; for machines.

    Args:
        named: by `OWN` and `RIVAL`.
        inputs: their pictures are written again and again until there are as many as asked.
        reference: the reference's answers to the first of them.
        pictures: files in the folder.
        rounds: turns after a first one whose time does not count; 0 compares answers only.

    Returns:
        ``cosines`` by name, ``absent``, ``same_answers``, ``pictures_per_s`` by name, and
        ``ratio``, cliprt's pictures in a second over the rival's in the same round.
    """
    found: dict[str, Any] = {"pictures": pictures, "absent": None, "cosines": {}, "ratio": None}
    expected = reference["image"]
    with TemporaryDirectory(prefix="rivals-") as temporary:
        folder = Path(temporary, "pictures")
        _write(folder, inputs, pictures)
        rates: dict[str, list[float]] = {name: [] for name in named}
        for number in range(rounds + 1):
            for name in list(named)[:: 1 if number % 2 else -1]:
                try:
                    with TemporaryDirectory(prefix="out-", dir=temporary) as out:
                        begun = time.perf_counter()
                        rows = named[name](folder, Path(out))
                        seconds = time.perf_counter() - begun
                except JobFailed as error:
                    absent = {"who": name, "step": "ask", "reason": str(error)}
                    return {**found, "absent": absent, "same_answers": False}
                if number:
                    rates[name].append(pictures / seconds)
                    continue
                rows = rows[: len(expected)] / np.linalg.norm(
                    rows[: len(expected)], axis=1, keepdims=True
                )
                like = likeness({"image": rows}, {"image": expected[: len(rows)]}, EXACT)
                found["cosines"][name] = like.least["image"]
            found["same_answers"] = all(cosine >= EXACT for cosine in found["cosines"].values())
            if not found["same_answers"]:
                return found
    if rounds:
        both = zip(rates[OWN], rates[RIVAL], strict=True)
        found["ratio"] = msgspec.to_builtins(figure([own / rival for own, rival in both]))
        found["pictures_per_s"] = {
            name: msgspec.to_builtins(figure(values)) for name, values in rates.items()
        }
    return found


def _write(folder: Path, inputs: Inputs, count: int) -> None:
    folder.mkdir()
    items = inputs.items["image"]
    for number in range(count):
        item = items[number % len(items)]
        assert isinstance(item, bytes)
        (folder / f"{number:06}.jpg").write_bytes(item)


def _run(command: list[str], *, clean: bool = False) -> None:
    if refusal := attempt("ask", command, RUN_S, clean=clean):
        raise JobFailed(refusal.reason)
