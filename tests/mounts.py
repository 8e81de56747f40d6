"""Mounts of a test's own. CLIPRT_REQUIRE_MOUNTS says that they are permitted: `.ci/run` sets it."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import NoReturn

import pytest


def not_permitted() -> NoReturn:
    """Skips a test that needs to mount; fails it where that must be possible."""
    if os.environ.get("CLIPRT_REQUIRE_MOUNTS"):
        pytest.fail("mounting is not permitted, and CLIPRT_REQUIRE_MOUNTS is set")
    pytest.skip("mounting is not permitted")


def apart(mounts: str) -> list[str]:
    """What a command begins with that nobody else's mounts concern; skips if there is no such.

    Args:
        mounts: commands of a shell that mount what it is to see.
    """
    command = ["unshare", "--mount", "sh", "-c", f'{mounts} && exec "$0" "$@"']
    if shutil.which("unshare") is None or subprocess.run([*command, "true"]).returncode:
        not_permitted()
    return command
