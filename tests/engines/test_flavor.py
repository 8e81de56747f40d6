"""Finding TensorRT, its log, its timings, and the GPU."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from types import ModuleType

import pytest
from engine_kit import build_text

from cliprt import Bundle, EngineError, InvalidInput, MissingExtra
from cliprt_engines import Engine, open_engine
from cliprt_engines._device import Device, device_at_hand, driver_version
from cliprt_engines._flavor import Toolkit, find_toolkit
from cliprt_engines._log import collected_errors, logger, tensorrt_logger
from cliprt_engines._timing import FOLDER, timing_file, use_timings, wants_timings


def test_rtx_is_found_and_says_what_it_builds_for(rtx: Toolkit) -> None:
    assert rtx.flavor == "tensorrt-rtx"
    assert rtx.version == rtx.api.__version__
    assert {"sm86", "sm89", "sm120"} <= set(rtx.targets)
    assert rtx.targets == tuple(sorted(rtx.targets, key=lambda name: int(name[2:])))


def test_a_missing_flavour_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.import_module", _refuse)
    with pytest.raises(MissingExtra, match=r"pip install 'cliprt\[rtx\]'"):
        find_toolkit("tensorrt-rtx")
    with pytest.raises(MissingExtra, match=r"pip install 'cliprt\[tensorrt\]'"):
        find_toolkit("tensorrt")


def _refuse(name: str) -> ModuleType:
    raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_without_any_both_extras_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cliprt_engines._flavor.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"cliprt\[tensorrt\].*cliprt\[rtx\]"):
        find_toolkit()


def test_a_flavour_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no flavour 'trt'; there are tensorrt, tensorrt-rtx"):
        find_toolkit("trt")


@pytest.mark.parametrize("version", ["10.3.0", "8.6.1.6"])
def test_a_tensorrt_with_weak_types_is_refused(
    version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = ModuleType("tensorrt")
    old.__version__ = version  # type: ignore[attr-defined]
    monkeypatch.setattr("cliprt_engines._flavor.require", lambda name, extra: old)
    with pytest.raises(EngineError, match=rf"this is tensorrt {version}; cliprt needs 10\.12 or n"):
        find_toolkit("tensorrt")


def test_libraries_that_do_not_load_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str, extra: str) -> ModuleType:
        raise OSError("libcudart.so.13: cannot open shared object file")

    monkeypatch.setattr("cliprt_engines._flavor.require", broken)
    with pytest.raises(EngineError, match=r"tensorrt is installed but cannot be loaded: libcudart"):
        find_toolkit("tensorrt")


def test_opening_finds_the_flavour_itself(built: Engine) -> None:
    assert open_engine(built.path, any_device=True).plan


def test_what_tensorrt_says_goes_to_pythons_log(
    rtx: Toolkit, half_bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, logger.name):
        build_text(half_bundle, tmp_path)
    assert any(record.name == "cliprt_engines.tensorrt" for record in caplog.records)
    assert tensorrt_logger(rtx.api) is tensorrt_logger(rtx.api)


def test_errors_are_collected_for_whoever_asks_and_logged_otherwise(
    rtx: Toolkit, caplog: pytest.LogCaptureFixture
) -> None:
    log, severity = tensorrt_logger(rtx.api), rtx.api.ILogger.Severity
    with caplog.at_level(logging.ERROR, logger.name):
        with collected_errors() as errors:
            log.log(severity.ERROR, "wrong")
            log.log(severity.WARNING, "doubtful")
        assert errors == ["wrong"]
        assert not caplog.records
        log.log(severity.ERROR, "wrong again")
    assert errors == ["wrong"]
    assert [record.message for record in caplog.records] == ["wrong again"]


def test_rtx_is_given_no_timings(rtx: Toolkit, half_bundle: Bundle, tmp_path: Path) -> None:
    """They would demand a GPU."""
    assert not wants_timings(rtx)
    assert wants_timings(dataclasses.replace(rtx, flavor="tensorrt"))
    build_text(half_bundle, tmp_path)
    assert not (tmp_path / FOLDER).exists()


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
@pytest.mark.parametrize("before", [None, b"", b"garbage"])
def test_timings_are_kept_whatever_was_there(
    before: bytes | None, rtx: Toolkit, built: Engine, tmp_path: Path
) -> None:
    """RTX still has the calls, without an effect; with TensorRT they need a GPU."""
    recipe = built.manifest.recipe
    path = timing_file(tmp_path, recipe)
    if before is not None:
        path.parent.mkdir()
        path.write_bytes(before)
    builder = rtx.api.Builder(tensorrt_logger(rtx.api))
    config = builder.create_builder_config()
    with collected_errors():
        use_timings(config, tmp_path, recipe)()
    assert path.read_bytes() not in (b"", b"garbage")
    assert [found.name for found in path.parent.iterdir()] == [path.name]


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_timings_that_cannot_be_kept_cost_no_engine(
    rtx: Toolkit, built: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """First the folder of timings is none, then the folder of engines."""
    builder = rtx.api.Builder(tensorrt_logger(rtx.api))
    (tmp_path / FOLDER).touch()
    (tmp_path / "file").touch()
    for out in (tmp_path, tmp_path / "file"):
        caplog.clear()
        with collected_errors(), caplog.at_level(logging.WARNING, logger.name):
            use_timings(builder.create_builder_config(), out, built.manifest.recipe)()
        said = [record.getMessage() for record in caplog.records]
        assert len(said) == 2
        assert "cannot be read: " in said[0]
        assert "cannot be written: " in said[1]


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC\n"
            "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n",
            "550.54.15",
        ),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\n",
            "580.95.05",
        ),
        ("nothing of the kind\n", None),
    ],
)
def test_the_drivers_version_is_read(text: str, version: str | None, tmp_path: Path) -> None:
    (tmp_path / "version").write_text(text)
    assert driver_version(tmp_path / "version") == version


def test_no_driver_has_no_version(tmp_path: Path) -> None:
    assert driver_version(tmp_path / "version") is None


def test_the_gpu_at_hand_is_described() -> None:
    device = device_at_hand()
    if device is None:
        pytest.skip("no GPU here")
    assert isinstance(device, Device)
    assert device.architecture.startswith("sm")
    assert device.memory_bytes > 2**30
    assert device_at_hand(10_000) is None


def test_where_there_is_no_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cliprt_engines._device._LIBRARY", "libcuda_of_nobody.so.1")
    assert device_at_hand() is None
