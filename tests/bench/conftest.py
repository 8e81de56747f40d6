"""What tests of measuring share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cliprt import Bundle

# Everything that comes after it computes on one core, as on a smaller machine.
ON_ONE_CORE = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from cliprt._cli import main
main()
"""


@pytest.fixture(scope="session")
def fresh_card(demo_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A card that was measured just now, by a process with one core: another machine than any
    that cards in this folder were recorded on.
    """
    path = tmp_path_factory.mktemp("fresh") / "fresh.json"
    command = [
        *(sys.executable, "-c", ON_ONE_CORE, "bench", "latency", "--bundle", demo_bundle.path),
        *("--batch", "1,8", "--seconds", "0.5", "--repeats", "3", "--warmup", "0"),
        *("--no-ceilings", "--out", path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return path
