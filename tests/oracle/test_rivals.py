"""Adapters in their real worker processes: transformers and cliprt answer alike."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rivals import measuring
from rivals.__main__ import show
from rivals.comparing import Answers, likeness
from rivals.entries import OWN_ENTRIES, REFERENCE, RIVALS, Entry
from rivals.environments import Environment
from rivals.inputs import Inputs, prepare, write_graphs

HERE = Environment("oracle", Path(sys.executable))
ENTRIES = {entry.name: entry for entry in (*OWN_ENTRIES, *RIVALS)}
TRIED = [
    *(entry.name for entry in OWN_ENTRIES),
    "transformers float32, unpadded",
    "transformers bfloat16",
    "transformers bfloat16, unpadded",
    "ONNX Runtime, plain",
    "OpenVINO, plain",
]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    made = prepare(tmp_path_factory.mktemp("rivals"), small=True)
    assert write_graphs(made, HERE) is None
    return made


@pytest.fixture(scope="module")
def reference(inputs: Inputs) -> Iterator[Answers]:
    with measuring.started(ENTRIES[REFERENCE], HERE, inputs.folders) as worker:
        yield measuring.answers_of(worker, inputs)


@pytest.mark.parametrize("name", TRIED)
def test_the_same_weights_answer_alike(name: str, inputs: Inputs, reference: Answers) -> None:
    entry: Entry = ENTRIES[name]
    with measuring.started(entry, HERE, inputs.folders) as worker:
        found = measuring.answers_of(worker, inputs)
        assert worker.threads
        assert set(worker.versions) >= {"numpy"}
    seen = likeness(found, reference, entry.bar)
    assert seen.same, seen.least
    for rows in found.values():
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)


def test_other_weights_answer_otherwise(inputs: Inputs, reference: Answers, tmp_path: Path) -> None:
    from checkpoints import SMALL, write_checkpoint

    other = write_checkpoint(tmp_path / "other", SMALL, seed=1)
    folders = {**inputs.folders, "checkpoint": other}
    with measuring.started(ENTRIES[REFERENCE], HERE, folders) as worker:
        found = measuring.answers_of(worker, inputs)
    assert not likeness(found, reference, ENTRIES[REFERENCE].bar).same


def test_the_program_compares_and_tells(inputs: Inputs) -> None:
    rivals = [REFERENCE, "ONNX Runtime, plain"]
    command = [sys.executable, "-W", "ignore", "-m", "rivals", "--small", "--json"]
    command += ["--folder", str(inputs.folders["bundle"].parent)]
    command += ["--rounds", "2", "--seconds", "0.2"]
    for name in rivals:
        command += ["--only", name, "--python", f"{ENTRIES[name].environment}={sys.executable}"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert [row["rival"] for row in seen["rivals"]] == rivals
    for row in seen["rivals"]:
        assert row["same_answers"], row
        assert row["absent"] is None
        for own in OWN_ENTRIES:
            assert set(row["ratios"][own.name]) == {f"{kind} {size}" for kind, size in own.points}
    show(seen)
