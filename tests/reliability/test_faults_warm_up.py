"""Towers that fail on the first requests that they get, which are Triton's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from broken_models import Switch, break_tower, read_config

from cliprt import Bundle, ServerStartError
from cliprt_triton import TritonServer, write_repository


@pytest.mark.parametrize("tower", ["clip_image", "clip_text"])
def test_a_tower_that_fails_its_warm_up_is_not_served(
    small_bundle: Bundle, tmp_path: Path, tower: str
) -> None:
    """It is loaded, and answers the bundle's known answers: nothing but the samples is left."""
    repository = write_repository(small_bundle, tmp_path / "models")
    assert read_config(repository / tower).model_warmup
    (code,) = (repository / tower).glob("*/model.py")
    switch = Switch(tmp_path / "switch")
    break_tower(repository / tower, int(code.parent.name), switch)
    with TritonServer(repository) as server:  # sound, it is served
        assert server.address
    with switch.broken("fails"), pytest.raises(ServerStartError, match=tower):
        TritonServer(repository)
