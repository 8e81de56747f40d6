"""The choice of settings: measured once, remembered for exactly what it was measured on."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest

from cliprt import Bundle, BundleError, FidelityError
from cliprt._cores import usable_cores
from cliprt_engines import CpuSettings, LocalClip, OnnxTower, OpenVinoTower, _cpu_choice
from cliprt_engines import _cpu_measure as measuring
from cliprt_engines._cpu_choice import (
    SWITCH,
    candidates,
    chosen_settings,
    default_settings,
    load_chosen,
)
from cliprt_engines._processor import processor

OPENVINO = importlib.util.find_spec("openvino") is not None

CHILD = """
import sys
from cliprt import open_bundle
from cliprt_engines import _cpu_measure
from cliprt_engines._cpu_choice import chosen_settings
_cpu_measure._TIMED_S = 0.01
print(chosen_settings(open_bundle(sys.argv[1]), "text", "fp32"))
"""


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here depends on how well it is timed."""
    monkeypatch.setattr(measuring, "_TIMED_S", 0.01)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLIPRT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv(SWITCH, raising=False)
    return tmp_path / "home"


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes every measurement that is really made."""
    calls: list[str] = []
    original = _cpu_choice.measure

    def measure(bundle: Bundle, tower: str, *args: object, **kwargs: object) -> object:
        calls.append(tower)
        return original(bundle, tower, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(_cpu_choice, "measure", measure)
    return calls


def record_of(home: Path) -> Path:
    (path,) = (home / "cpu").glob("*.json")
    return path


def test_it_is_measured_once_and_remembered(
    small_bundle: Bundle, home: Path, counted: list[str]
) -> None:
    first = chosen_settings(small_bundle, "text", "fp32")
    assert chosen_settings(small_bundle, "text", "fp32") == first
    assert counted == ["text"]
    record = msgspec.json.decode(record_of(home).read_bytes())
    speeds = [seen["items_per_s"] for seen in record["measured"]]
    assert speeds == sorted(speeds, reverse=True)
    assert len(speeds) >= len(candidates("fp32"))
    assert record["measured"][0]["settings"] == msgspec.to_builtins(first)
    assert all(seen["min_cosine"] > 0.99999 for seen in record["measured"])


def test_another_tower_goal_or_number_of_cores_is_measured_for_itself(
    small_bundle: Bundle, home: Path, counted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen_settings(small_bundle, "text", "fp32")
    chosen_settings(small_bundle, "image", "fp32")
    chosen_settings(small_bundle, "text", "fp32", "latency")
    monkeypatch.setattr(_cpu_choice, "usable_cores", lambda: 1)
    assert chosen_settings(small_bundle, "text", "fp32").workers == 1
    assert counted == ["text", "image", "text", "text"]
    assert len(list((home / "cpu").glob("*.json"))) == 4


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        b"[]",
        b'{"key": {}, "measured": []}',
        b'{"schema": 7}',
        b'{"key": {"tower": "\xff"}, "measured": []}',
    ],
    ids=["empty", "garbage", "list", "nothing measured", "another schema", "no UTF-8"],
)
def test_a_damaged_record_is_measured_again(
    small_bundle: Bundle, home: Path, counted: list[str], content: bytes
) -> None:
    chosen_settings(small_bundle, "text", "fp32")
    record_of(home).write_bytes(content)
    chosen_settings(small_bundle, "text", "fp32")
    assert counted == ["text", "text"]
    assert record_of(home).read_bytes() != content


@pytest.mark.parametrize(
    ("key", "value"),
    [("processor", "another one"), ("cores", "64"), ("onnxruntime", "0.1"), ("tower", "0" * 64)],
)
def test_a_foreign_record_is_measured_again(
    small_bundle: Bundle, home: Path, counted: list[str], key: str, value: str
) -> None:
    """A file under the right name whose content was measured on something else."""
    chosen_settings(small_bundle, "text", "fp32")
    record = msgspec.json.decode(record_of(home).read_bytes())
    record["key"][key] = value
    record_of(home).write_bytes(msgspec.json.encode(record))
    chosen_settings(small_bundle, "text", "fp32")
    assert counted == ["text", "text"]


def test_settings_out_of_range_in_a_record_are_not_believed(
    small_bundle: Bundle, home: Path, counted: list[str]
) -> None:
    chosen_settings(small_bundle, "text", "fp32")
    record = msgspec.json.decode(record_of(home).read_bytes())
    record["measured"][0]["settings"]["workers"] = 10**9
    record_of(home).write_bytes(msgspec.json.encode(record))
    assert chosen_settings(small_bundle, "text", "fp32").workers <= usable_cores()
    assert counted == ["text", "text"]


def test_a_home_that_cannot_be_written_costs_a_measurement(
    small_bundle: Bundle,
    tmp_path: Path,
    counted: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CLIPRT_HOME", str(tmp_path / "file" / "below"))
    for _ in range(2):
        assert chosen_settings(small_bundle, "text", "fp32").batch >= 1
    assert counted == ["text", "text"]
    warned = [entry.getMessage() for entry in caplog.records if entry.levelname == "WARNING"]
    assert len(warned) == 2
    assert str(tmp_path / "file" / "below" / "cpu") in warned[0]
    assert "CLIPRT_HOME" in warned[0]


def test_threads_that_ask_at_once_measure_once(
    small_bundle: Bundle, home: Path, counted: list[str]
) -> None:
    with LocalClip(small_bundle) as clip:
        threads = [threading.Thread(target=clip.encode_text, args=("a",)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert counted == ["text"]


def test_two_processes_at_once_agree(small_bundle: Bundle, home: Path) -> None:
    command = [sys.executable, "-c", CHILD, str(small_bundle.path)]
    children = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
        for _ in range(2)
    ]
    answers = [child.communicate(timeout=120)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert answers[0] == answers[1]
    assert msgspec.json.decode(record_of(home).read_bytes())["measured"]


def test_it_can_be_skipped(
    small_bundle: Bundle, home: Path, counted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SWITCH, "default")
    with LocalClip(small_bundle) as clip:
        assert clip.settings("text") == default_settings()
    monkeypatch.setenv(SWITCH, "measure")
    fixed = CpuSettings(threads=2, batch=3)
    with LocalClip(small_bundle, settings=fixed) as clip:
        assert clip.settings("text") == fixed
    assert counted == []
    assert not home.exists()
    monkeypatch.setenv(SWITCH, "fastest")
    with pytest.raises(ValueError, match="CLIPRT_CPU_CHOICE must be 'measure' or 'default'"):
        chosen_settings(small_bundle, "text", "fp32")


def test_a_tower_that_answers_wrong_is_remembered_as_such(
    small_bundle: Bundle, home: Path, counted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = OnnxTower.run
    monkeypatch.setattr(OnnxTower, "run", lambda self, batch: -original(self, batch))
    monkeypatch.setattr(_cpu_choice, "candidates", lambda *_: [CpuSettings()])
    for says in ("known answers have a cosine of -1", r"to try again\)$"):
        with pytest.raises(FidelityError, match=says):
            chosen_settings(small_bundle, "text", "fp32")
    assert counted == ["text"]


def test_a_tower_that_failed_is_tried_again(
    small_bundle: Bundle, home: Path, counted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have lacked memory that it has another time."""
    monkeypatch.setattr(_cpu_choice, "candidates", lambda *_: [CpuSettings()])
    with monkeypatch.context() as broken:
        broken.setattr(OnnxTower, "run", lambda self, batch: [][0])
        with pytest.raises(FidelityError, match="list index out of range"):
            chosen_settings(small_bundle, "text", "fp32")
    assert chosen_settings(small_bundle, "text", "fp32").workers == 1
    assert counted == ["text", "text"]


def test_settings_that_were_not_measured_must_answer_right(
    small_bundle: Bundle, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = OnnxTower.run
    monkeypatch.setattr(OnnxTower, "run", lambda self, batch: -original(self, batch))
    with pytest.raises(FidelityError, match="known answers"):
        load_chosen(small_bundle, "text", "fp32", settings=CpuSettings())
    monkeypatch.setenv(SWITCH, "default")
    with pytest.raises(FidelityError, match="known answers"):
        load_chosen(small_bundle, "text", "fp32")
    monkeypatch.setattr(OnnxTower, "run", lambda self, batch: [][0])
    with pytest.raises(FidelityError, match="on this machine: list index out of range"):
        load_chosen(small_bundle, "text", "fp32")


@pytest.mark.parametrize("content", ["", "raise OSError('libopenvino.so.2026: no such file')"])
def test_an_openvino_that_does_not_work_is_not_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    (tmp_path / "openvino").mkdir()
    (tmp_path / "openvino" / "__init__.py").write_text(content)
    for name in [name for name in sys.modules if name.split(".")[0] == "openvino"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    assert {settings.runtime for settings in candidates("int8-cpu", cores=2)} == {"onnxruntime"}
    assert "OpenVINO is installed but does not work" in caplog.text


def test_candidates_fit_the_cores() -> None:
    for cores in (1, 2, 8, 64):
        for settings in candidates("fp32", cores=cores):
            assert settings.workers * settings.threads <= cores
            assert not settings.bfloat16, "float32 is not computed in bfloat16"
    assert CpuSettings(workers=64, threads=1) in candidates("fp32", cores=64)


@pytest.mark.parametrize("cores", [2, 4, 8, 64])
def test_for_single_items_all_cores_are_tried_first(cores: int) -> None:
    many, single = candidates("fp32", "throughput", cores), candidates("fp32", "latency", cores)
    assert sorted(map(str, many)) == sorted(map(str, single))
    assert many[0] == CpuSettings(workers=cores, threads=1)
    # Where a tower takes seconds there may be time for the first two.
    assert [settings.threads for settings in single[:2]] == [cores, cores]
    assert single[0].runtime == "onnxruntime"


@pytest.mark.parametrize(
    "wrong",
    [
        {"workers": 0},
        {"threads": -1},
        {"batch": 10**6},
        {"bfloat16": True},
        {"spinning": True, "runtime": "openvino"},
    ],
)
def test_settings_that_are_none_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must be from 1 to 4096|is a setting of"):
        CpuSettings(**wrong)  # type: ignore[arg-type]


def test_the_processor_is_named() -> None:
    assert processor() == processor()
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


@pytest.mark.skipif(not OPENVINO, reason="openvino is not installed")
def test_openvino_answers_like_onnx_runtime(small_bundle: Bundle) -> None:
    for tower in ("image", "text"):
        graph = small_bundle.file(f"{tower}.fp32.onnx")
        inputs = measuring.sample_inputs(small_bundle, tower, 5)
        expected, other = OnnxTower(graph, threads=1), OpenVinoTower(graph, threads=2, streams=2)
        np.testing.assert_allclose(other.run(inputs), expected.run(inputs), atol=1e-5)
        np.testing.assert_allclose(other.run(inputs[:1]), expected.run(inputs[:1]), atol=1e-5)
        found = dataclasses.replace(expected.info, runtime=other.info.runtime)
        assert other.info == found
        assert other.info.runtime.startswith("openvino 20")


@pytest.mark.skipif(not OPENVINO, reason="openvino is not installed")
def test_garbage_is_a_bundle_error_with_openvino(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match="OpenVINO cannot load the tower"):
        OpenVinoTower(tmp_path / "model.onnx")


@pytest.mark.skipif(OPENVINO, reason="openvino is installed")
def test_openvino_that_is_missing_names_its_extra(small_bundle: Bundle) -> None:
    from cliprt import MissingExtra

    with pytest.raises(MissingExtra, match=r"pip install 'cliprt\[openvino\]'"):
        OpenVinoTower(small_bundle.file("text.fp32.onnx"))
