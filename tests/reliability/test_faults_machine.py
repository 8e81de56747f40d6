"""What a machine runs out of."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from faults import hasty, known_answer, models_of, supervised
from patience import until
from small_disks import fill, small_disk
from wire_models import write_wire_repository


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wire_repository(tmp_path_factory.mktemp("machine") / "models", slow_s=0)


def test_a_full_disk_under_the_log_costs_the_log_alone(repository: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        if disk is None:
            pytest.skip("mounting is not permitted")
        with supervised(repository, log=disk / "log") as server:
            channel = hasty(server.address)
            known_answer(channel)
            models = sorted(models_of(server).values())
            ballast = fill(disk)
            known_answer(channel)
            written = server.log.stat().st_size
            first = server.pid
            os.kill(first, signal.SIGKILL)
            until(lambda: server.pid != first)
            known_answer(channel)
            assert server.log.stat().st_size - written < 4096
            assert sorted(models_of(server).values()) == models
            ballast.unlink()
            os.kill(server.pid, signal.SIGSEGV)
            until(lambda: server.log.stat().st_size > written + 4096)
            known_answer(channel)
            channel.close()
