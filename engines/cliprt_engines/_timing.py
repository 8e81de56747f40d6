"""TensorRT's timing cache: a kernel that was timed once is not timed again.

One file for each version of TensorRT and each GPU, beside the engines; several builds may add to
it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cliprt._errors import EngineError
from cliprt._folders import write_whole
from cliprt_engines._cache import locked
from cliprt_engines._flavor import Toolkit
from cliprt_engines._log import logger
from cliprt_engines._manifest import Recipe

FOLDER = ".timing"


def timing_file(out: Path, recipe: Recipe) -> Path:
    """Where the timings of that TensorRT on that GPU are kept."""
    gpu = recipe.built_on.gpu if recipe.built_on is not None else "any"
    name = re.sub(r"[^\w.-]+", "-", f"{recipe.flavor}-{recipe.version}.{gpu}")
    return out / FOLDER / f"{name}.cache"


def use_timings(config: Any, out: Path, recipe: Recipe) -> Callable[[], None]:
    """Gives a builder the timings of earlier builds, if they are from such a GPU.

    Timings save time and decide nothing: where their file cannot be read or written that is logged,
    and the build goes on.

    Returns:
        To be called after the build: adds its timings to the file.
    """
    path = timing_file(out, recipe)
    data = b""
    with _not_vital(path, "read"), locked(out, path.stem), suppress(FileNotFoundError):
        data = path.read_bytes()
    cache = config.create_timing_cache(data)
    # False: the library compares the properties of the GPU itself, and refuses another's timings.
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        logger.warning("the timings in %s are of no use here and are made anew", path)
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    return lambda: _keep(config, cache, out, path)


def _keep(config: Any, cache: Any, out: Path, path: Path) -> None:
    """Adds the timings of a build to the file. What another build wrote meanwhile stays."""
    with _not_vital(path, "written"), locked(out, path.stem):
        if path.is_file():
            other = config.create_timing_cache(path.read_bytes())
            if other is not None:
                cache.combine(other, ignore_mismatch=False)
        write_whole(path, bytes(cache.serialize()))


@contextmanager
def _not_vital(path: Path, what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, EngineError) as error:
        logger.warning("the timings in %s cannot be %s: %s", path, what, error)


def wants_timings(toolkit: Toolkit) -> bool:
    """Whether timings are of use: with RTX they have no effect, but demand a GPU."""
    return toolkit.flavor == "tensorrt"
