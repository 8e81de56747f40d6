"""What tests share: bundles of a drawn checkpoint and of the demo model, and real Tritons."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from cases import arrays, texts
from checkpoints import SMALL, VIT_B_32, write_checkpoint
from hypothesis import settings
from numpy.typing import NDArray
from PIL import Image
from wire_models import write_wire_repository

from cliprt import Bundle, Client, open_bundle
from cliprt_export import Bars, export_checkpoint
from cliprt_triton import TritonServer, write_repository

# How long an example takes is the machine's affair.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# A shell lets its background jobs, and all that they start, ignore Ctrl-C, which tests send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"

EXPORT = """
import re, sys
from pathlib import Path
from cliprt_export import export_checkpoint
export_checkpoint(sys.argv[1], sys.argv[2], samples=8)
# Its own peak: getrusage includes that of the process that forked.
print(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.fixture(scope="session", autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Caches and logs of the tests stay with the tests."""
    os.environ["CLIPRT_HOME"] = str(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def demo_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("demo")
    return export_checkpoint(str(ROOT / "demo" / "checkpoint"), folder / "bundle")


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("small") / "checkpoint", SMALL)


@pytest.fixture(scope="session")
def small_bundle(small_checkpoint: Path) -> Bundle:
    return export_checkpoint(str(small_checkpoint), small_checkpoint.parent / "bundle")


@pytest.fixture(scope="session")
def int8_bundle(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A small bundle that also has towers in int8-cpu."""
    folder = tmp_path_factory.mktemp("int8")
    calibrate = folder / "calibrate"
    calibrate.mkdir()
    for number, pixels in enumerate(arrays(24, 40)):
        Image.fromarray(pixels).save(calibrate / f"{number}.png")
    (calibrate / "captions.txt").write_text("\n".join(texts(24)[:24]) + "\n")
    return export_checkpoint(
        str(small_checkpoint),
        folder / "bundle",
        precisions=["int8-cpu"],
        calibrate=calibrate,
        bars=Bars(min_cosine={"fp32": 0.999, "int8-cpu": 0.5}),
    )


@dataclass(frozen=True)
class MeasuredExport:
    """A bundle, and the most memory that its export had in use."""

    bundle: Bundle
    peak_kilobytes: int


@pytest.fixture(scope="session")
def vit_b_32(tmp_path_factory: pytest.TempPathFactory) -> MeasuredExport:
    """A checkpoint of full size with drawn weights, exported in a process of its own."""
    folder = tmp_path_factory.mktemp("vit_b_32")
    source, target = write_checkpoint(folder / "checkpoint", VIT_B_32), folder / "bundle"
    command = [sys.executable, "-c", EXPORT, str(source), str(target)]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    return MeasuredExport(open_bundle(target), int(run.stdout))


@pytest.fixture(scope="session")
def demo_server(demo_bundle: Bundle) -> Iterator[TritonServer]:
    repository = write_repository(demo_bundle, demo_bundle.path.parent / "repository")
    with TritonServer(repository) as server:
        yield server


@pytest.fixture(scope="session")
def wire_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """Serves models that compute nothing, for what concerns the wire alone."""
    repository = write_wire_repository(tmp_path_factory.mktemp("wire") / "models")
    with TritonServer(repository, shared_memory=True) as server:
        yield server


@pytest.fixture
def client(demo_server: TritonServer) -> Iterator[Client]:
    with Client(demo_server.address) as client:
        yield client


@pytest.fixture(scope="session")
def demo_golden() -> dict[str, NDArray[np.generic]]:
    """What transformers answers on the demo model, see tests/oracle/make_golden.py."""
    with np.load(GOLDEN / "demo.npz") as file:
        return dict(file)
