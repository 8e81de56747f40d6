"""The files of `make batch-check`: JPEG of 640 x 480, as many as are wanted, no two the same."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cliprt._cores import usable_cores
from cliprt_bench import drawn, jpeg

WIDTH, HEIGHT = 640, 480
QUALITY = 85

# A file is a view of one of these, drawn larger than it: at some place, mirrored or not, lighter or
# darker.
DRAWN = 200
_ROOM = 160
# Prime to the number of places, so that the views of a drawn picture are at different ones.
_STEP = 7919


def write_pictures(folder: Path, count: int) -> list[Path]:
    """Writes the files that are not there yet, on all cores.

    Args:
        folder: where they lie; it is made.
        count: how many.

    Returns:
        The files, in the order of their numbers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:06}.jpg" for number in range(count)]
    missing: dict[int, list[int]] = {}
    for number, path in enumerate(paths):
        if not path.exists():
            missing.setdefault(number % DRAWN, []).append(number)
    with ProcessPoolExecutor(usable_cores(), mp_context=get_context("spawn")) as pool:
        for _ in pool.map(partial(_write, folder), missing, missing.values()):
            pass
    return paths


def read_once(paths: Iterable[Path]) -> int:
    """Reads files, so that whoever is measured first finds them in memory too; their bytes."""
    return sum(len(path.read_bytes()) for path in paths)


def _write(folder: Path, seed: int, numbers: list[int]) -> None:
    """Writes the views of one drawn picture."""
    pixels = drawn(WIDTH + _ROOM, HEIGHT + _ROOM, seed)
    for number in numbers:
        path = folder / f"{number:06}.jpg"
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(jpeg(_view(pixels, number // DRAWN), QUALITY))
        temporary.replace(path)


def _view(pixels: NDArray[np.uint8], turn: int) -> NDArray[np.uint8]:
    top, left = divmod(turn * _STEP % _ROOM**2, _ROOM)
    view = pixels[top : top + HEIGHT, left : left + WIDTH]
    if turn % 2:
        view = view[:, ::-1]
    light = np.arange(256) * (0.85 + turn % 7 * 0.05)
    return light.clip(0, 255).astype(np.uint8)[view]
