"""Some thousand small pictures, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from batch_sources import small_pictures, write_files


@pytest.fixture(scope="session")
def pictures_2400(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 2,400 small pictures; not to be written."""
    folder = tmp_path_factory.mktemp("pictures")
    write_files(folder, small_pictures(2400))
    return folder
