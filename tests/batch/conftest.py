"""Where sources of batch runs lie."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest


@pytest.fixture(params=["local", "stored"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A folder of this machine, and one of a store."""
    if request.param == "local":
        folder = tmp_path / "source"
        folder.mkdir()
        yield str(folder)
        return
    store = fsspec.filesystem("memory")
    store.mkdirs("/source", exist_ok=True)
    yield "memory://source"
    store.rm("/source", recursive=True)
