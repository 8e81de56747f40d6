"""Rows, runs and dying processes for the tests of the folder that a run writes."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from cliprt_batch._records import EMBEDDINGS, Dtype, schema
from cliprt_batch._run_config import Layout, RunConfig
from cliprt_batch._run_folder import RunFolder
from cliprt_batch._shards import embedding_column

LAYOUTS = pytest.mark.parametrize("layout", ["npy", "parquet"])
PLAN = "ab" * 32
DIM = 4
STAGES = ("read", "decode", "encode")


def config(layout: Layout = "npy", dtype: Dtype = "float32", **changes: Any) -> RunConfig:
    made = RunConfig(
        source={"kind": "folder", "address": "/pictures"},
        model="demo",
        space="0123456789abcdef",
        dim=DIM,
        towers=("image", "text"),
        layout=layout,
        dtype=dtype,
        shard_size=20,
        options={"truncate": True, "precision": "fp32"},
    )
    return msgspec.structs.replace(made, **changes)


def rows(
    config: RunConfig, unit: int, places: Sequence[int], *, bad: Sequence[int] = ()
) -> pa.Table:
    """Rows of a unit; the same place is always the same row, unless it is a bad one."""
    numbers = np.array(
        [np.random.default_rng([unit, place]).normal(size=2 * config.dim) for place in places]
    ).reshape(len(places), 2, config.dim)
    fails = np.array([place in bad for place in places], bool)

    def unless_bad(word: Callable[[int], object]) -> list[object]:
        return [None if place in bad else word(place) for place in places]

    known = {
        "row": list(places),
        "key": [f"{unit}/{place}.jpg" for place in places],
        "image_path": [f"/pictures/{unit}/{place}.jpg" for place in places],
        "caption": [None if place % 3 else f"Katze {place} 🐈" for place in places],
        "width": unless_bad(lambda place: 100 + place),
        "height": unless_bad(lambda place: 200 + place),
        "sha256": unless_bad(lambda place: hashlib.sha256(bytes([place % 251])).hexdigest()),
        "stage": [STAGES[p % 3] if p in bad else None for p in places],
        "error": [f"no good: {p}" if p in bad else None for p in places],
    }
    for index, tower in enumerate(("image", "text")):
        column = embedding_column(numbers[:, index], config.dtype, missing=fails)
        known[EMBEDDINGS[tower]] = column
    columns = schema(config.towers, config.dim, config.dtype)
    return pa.table([pa.array(known[f.name], f.type) for f in columns], schema=columns)


def write_parts(
    run: RunFolder,
    config: RunConfig,
    unit: int,
    items: int,
    *,
    bad: Sequence[int] = (),
    size: int = 6,
) -> int:
    """Writes the parts of a unit that are not there; returns how many it has."""
    have = run.parts(unit)
    parts = -(-items // size)
    for part in range(parts):
        places = range(part * size, min((part + 1) * size, items))
        if have.get(part) != len(places):
            run.write_part(unit, part, rows(config, unit, places, bad=bad))
    return parts


def do_unit(run: RunFolder, config: RunConfig, unit: int, items: int = 20, **more: Any) -> None:
    """Makes a unit as a run does, beginning with what is there."""
    if not run.is_done(unit):
        run.commit(unit, write_parts(run, config, unit, items, **more))


def files(out: Path) -> dict[str, bytes]:
    """All of an output but what only the run itself needs."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and "_cliprt" not in path.parts
    }


def left_over(out: Path) -> list[str]:
    """What only an unfinished run needs: temporary files, parts, intents."""
    folder = out / "_cliprt"
    kinds = ("tmp/*/*", "work/*", "intent/*")
    return [str(path.relative_to(folder)) for kind in kinds for path in folder.glob(kind)]


class Died(BaseException):
    """The process is gone: nothing that it would have done happens any more."""


_CHANGES = ("replace", "unlink", "mkdir", "rmdir", "open", "hardlink_to")


@contextmanager
def failing_from(
    patch: pytest.MonkeyPatch, call: int, error: Callable[[], BaseException], *, times: int | None
) -> Iterator[list[int]]:
    """Lets calls that change a disk fail from the n-th on, before they do anything.

    Args:
        patch: undone at the end.
        call: n, from 1.
        error: what they raise.
        times: how many fail; None for all.
    """
    count, opened = [0], list[io.BufferedWriter]()

    def counted(function: Callable[..., Any], changes: Callable[..., bool]) -> Callable[..., Any]:
        def call_it(*args: Any, **kwargs: Any) -> Any:
            if changes(*args, **kwargs):
                count[0] += 1
                if count[0] >= call and (times is None or count[0] < call + times):
                    raise error()
            given = function(*args, **kwargs)
            if isinstance(given, io.BufferedWriter):
                opened.append(given)
            return given

        return call_it

    with patch.context() as within:
        within.setattr(os, "fsync", counted(os.fsync, lambda *_: True))
        for name in _CHANGES:
            written = (
                (lambda _, mode="r", *a, **k: "w" in mode)
                if name == "open"
                else (lambda *a, **k: True)
            )
            within.setattr(Path, name, counted(getattr(Path, name), written))
        yield count
    # The system closes the files of a process that dies.
    for file in opened:
        file.close()


@pytest.fixture
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for the disk: what that is for, a power failure, no test can make."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def dying_at_every_call(
    patch: pytest.MonkeyPatch, attempt: Callable[[], None], after: Callable[[], None]
) -> int:
    """Kills an attempt at its first call, its second, and so on, until one comes to its end.

    Args:
        patch: how calls are replaced.
        attempt: begins anew each time and leaves the disk as a killed process does.
        after: looks at what is left, and completes it.

    Returns:
        How often it died.
    """
    for call in range(1, 2000):
        with failing_from(patch, call, Died, times=None) as count:
            try:
                attempt()
            except Died:
                died = True
            else:
                died = count[0] >= call
        after()
        if not died:
            return call - 1
    raise AssertionError("it never came to its end")
