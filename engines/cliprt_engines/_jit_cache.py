"""Kernels that TensorRT-RTX has compiled on this machine, kept from one process to the next.

An RTX plan is finished on the GPU that runs it, which takes seconds at the first use of a shape.
What comes of it is code: the file is read only if nobody but its owner, this user, may write it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import Any

from cliprt._cache_home import cache_folder
from cliprt._folders import write_whole

_FOLDER = "rtx"

_MOST_BYTES = 100 * 2**20
"""NVIDIA's advice: a greater cache costs more to load than it saves."""


class JitCache:
    """The compiled kernels of one plan."""

    def __init__(self, plan_sha256: str, version: str, device: int) -> None:
        """Names the file.

        Args:
            plan_sha256: of the plan, in hexadecimal.
            version: of TensorRT-RTX.
            device: which GPU; those of one machine may differ.
        """
        self._name = f"{plan_sha256[:32]}.{version}.gpu{device}.cache"
        self._cache: Any = None
        self._kept = b""

    def use_in(self, config: Any) -> None:
        """Gives contexts of a runtime configuration what was kept, and a place for more.

        TensorRT-RTX itself refuses what another version, driver or GPU compiled.
        """
        self._cache = config.create_runtime_cache()
        self._kept = self._read()
        if self._kept:
            self._cache.deserialize(self._kept)
        config.set_runtime_cache(self._cache)

    def keep(self) -> None:
        """Writes what was compiled meanwhile. A cache that cannot be written costs time only."""
        if self._cache is None:
            return
        blob = self._cache.serialize()
        content = b"" if blob is None else bytes(memoryview(blob))
        if not content or content == self._kept or len(content) > _MOST_BYTES:
            return
        with contextlib.suppress(OSError):
            write_whole(cache_folder(_FOLDER) / self._name, content, private=True)

    def _read(self) -> bytes:
        with contextlib.suppress(OSError), (cache_folder(_FOLDER) / self._name).open("rb") as file:
            found = os.fstat(file.fileno())
            own = found.st_uid == os.getuid()
            shared = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
            if own and not shared and found.st_size <= _MOST_BYTES:
                return file.read()
        return b""
