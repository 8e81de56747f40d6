"""Engines in their folder: one sub-folder for each, which is whole or absent.

::

    ENGINES/
      image.fp16.tensorrt-rtx-1.7.1.116.sm89.3f0c…/     manifest.json, engine.plan, and once it is
                                                        verified certificate.json
      .locks/                                           one file for each engine, of no content
      .timing/                                          timing caches of TensorRT

Processes that want the same engine take turns: one builds, the others wait and take what it built.
The lock goes with its process, so that a killed build keeps nobody waiting; what it left is removed
by the next one that wants the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from cliprt._bundle import CERTIFICATE
from cliprt._errors import EngineError
from cliprt._extras import require
from cliprt._folders import discard, folder_that_becomes
from cliprt_engines._manifest import (
    MANIFEST,
    PLAN,
    Engine,
    Manifest,
    Recipe,
    read_engine,
    read_plan,
)

LOCKS = ".locks"

# How often a lock's file may go with one that failed, before that is called an error.
_TRIES = 8

# What a killed `cliprt verify` leaves beside its certificate.
_UNFINISHED = f".{CERTIFICATE}."


def cached_or_built(
    out: Path,
    recipe: Recipe,
    build: Callable[[], tuple[bytes | memoryview, Manifest]],
    on_wait: Callable[[], None] = lambda: None,
) -> tuple[Engine, bool]:
    """Returns an engine of that recipe, building it if the folder has none that is whole.

    Args:
        out: the folder of engines.
        recipe: what the engine is.
        build: makes its plan and manifest.
        on_wait: called if another process is at it.

    Returns:
        The engine, and whether it was built here and now.

    Raises:
        EngineError: the folder cannot be written, or holds something else under that name.
    """
    target = out / recipe.name
    # Before the lock: a folder that cannot be written may hold the engine already.
    if (found := _whole(target, recipe)) is not None:
        return found, False
    with locked(out, recipe.name, on_wait):
        _remove_leftovers(target)
        if (found := _whole(target, recipe)) is not None:
            return found, False
        _refuse_foreign(target)
        plan, manifest = build()
        with folder_that_becomes(target, replace=True, error=EngineError) as folder:
            (folder / PLAN).write_bytes(plan)
            content = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
            (folder / MANIFEST).write_bytes(content + b"\n")
    return Engine(target, manifest), True


@contextmanager
def locked(out: Path, name: str, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Holds the lock of that name in a folder of engines.

    If the block fails, the lock's file goes, and with it the folders that were made for it and are
    still empty.

    Raises:
        EngineError: the folder cannot be written.
        MissingExtra: filelock is not installed.
    """
    path = out / LOCKS / f"{name}.lock"
    made = [folder for folder in (out / LOCKS, out, *out.parents) if not folder.exists()]
    try:
        lock = _acquired(path, on_wait)
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        raise EngineError(f"{out} cannot be written: {reason}") from None
    try:
        yield
    except BaseException:
        # While the lock is held: whoever waits finds its file gone, and makes a new one.
        with suppress(OSError):
            path.unlink()
            for folder in made:
                folder.rmdir()
        raise
    finally:
        lock.release()


def _acquired(path: Path, on_wait: Callable[[], None]) -> Any:
    """A lock on a file that is still there once it is held."""
    filelock: Any = require("filelock", extra="engines")
    for _ in range(_TRIES):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path)
        try:
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                on_wait()
                lock.acquire()
        except FileNotFoundError:
            continue
        if path.exists():
            return lock
        lock.release()
    raise OSError(f"{path} vanishes again and again")


def _whole(target: Path, recipe: Recipe) -> Engine | None:
    """The engine there, if its manifest and plan are what they should be."""
    try:
        engine = read_engine(target)
        read_plan(engine)
    except EngineError:
        return None
    return engine if engine.manifest.recipe == recipe else None


def _remove_leftovers(target: Path) -> None:
    """Removes what killed builds of this engine left; the lock is held, so they are dead."""
    for path in target.parent.glob(f".{target.name}.*"):
        # A link is what stood in the engine's place; what it points to is not ours.
        discard(path)


def _refuse_foreign(target: Path) -> None:
    """Never deletes what this program did not make."""
    if not target.exists():
        return
    try:
        inside = {path.name for path in target.iterdir()}
    except OSError as error:
        raise EngineError(f"{target} cannot be read: {error.strerror or error}") from None
    ours = {MANIFEST, PLAN, CERTIFICATE}
    if foreign := sorted(name for name in inside - ours if not name.startswith(_UNFINISHED)):
        raise EngineError(
            f"{target} holds {foreign[0]}, which is no part of an engine; it is not overwritten. "
            "Move it away or choose another --out"
        )
