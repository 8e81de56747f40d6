"""What tests of engines share: a bundle in half precision, and an engine of it for TensorRT-RTX."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from cuda_stand_in import StandInCuda
from engine_folders import Load, write_engine
from tensorrt_stand_in import stand_in_tensorrt

from cliprt import Bundle
from cliprt_engines import Engine, TensorRtTower, _tensorrt, build_engines, find_engines
from cliprt_engines._cuda import Cuda
from cliprt_engines._flavor import Toolkit, find_toolkit
from cliprt_export import export_checkpoint


@pytest.fixture(scope="session")
def half_bundle(small_checkpoint: Path) -> Bundle:
    """A small bundle with fp16 towers."""
    target = small_checkpoint.parent / "half"
    return export_checkpoint(str(small_checkpoint), target, precisions=("fp16",), samples=2)


@pytest.fixture(scope="session")
def rtx() -> Toolkit:
    """The real TensorRT-RTX."""
    return find_toolkit("tensorrt-rtx")


@pytest.fixture(scope="session")
def built(half_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """An engine of the text tower; read it, do not change it."""
    (engine,) = build_engines(
        half_bundle,
        tmp_path_factory.mktemp("engines"),
        flavor="tensorrt-rtx",
        towers=("text",),
        targets=("sm89",),
        profiles={"text": "1:4:8x2:16:77,1:1:2x2:8:16"},
    )
    return engine


@pytest.fixture
def engine(built: Engine, tmp_path: Path) -> Engine:
    """A copy of it, to damage."""
    (copy,) = find_engines(shutil.copytree(built.path, tmp_path / "engines" / built.path.name))
    return copy


@pytest.fixture
def cuda() -> StandInCuda:
    return StandInCuda()


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, cuda: StandInCuda) -> Load:
    """Loads an engine's folder with the stand-ins in place of the libraries."""
    api = stand_in_tensorrt(cuda)
    monkeypatch.setattr(_tensorrt, "find_toolkit", lambda flavor: Toolkit(flavor, "11.0.0", api))
    monkeypatch.setattr(_tensorrt, "device_at_hand", lambda device: None)
    monkeypatch.setattr(_tensorrt, "Cuda", lambda device: Cuda(device, runtime=cuda))
    return lambda folder, **options: TensorRtTower(folder, any_device=True, **options)


@pytest.fixture
def text_engine(small_bundle: Bundle, tmp_path: Path) -> Path:
    return write_engine(tmp_path, small_bundle, "text")
