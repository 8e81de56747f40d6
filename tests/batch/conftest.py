"""Where sources of batch runs lie, and some thousand small pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from batch_inputs import small_pictures, write_files


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


@pytest.fixture(scope="session")
def pictures_2400(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 2,400 small pictures; not to be written."""
    folder = tmp_path_factory.mktemp("pictures")
    write_files(folder, small_pictures(2400))
    return folder
