"""Where sources of batch runs lie, some thousand small pictures, and who embeds them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from batch_inputs import small_pictures, write_files

from cliprt import Bundle
from cliprt_batch._encoders import LocalEncoder
from cliprt_engines import LocalClip


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


@pytest.fixture(scope="module")
def clip(demo_bundle: Bundle) -> Iterator[LocalClip]:
    with LocalClip(demo_bundle.path) as clip:
        yield clip


@pytest.fixture(scope="module")
def encoder(clip: LocalClip) -> LocalEncoder:
    return LocalEncoder(clip, ("image", "text"), truncate=True)
