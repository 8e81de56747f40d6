"""The machine is described as it is, and by nothing that names it."""

from __future__ import annotations

import getpass
import platform
from importlib import metadata
from pathlib import Path

import bench_cards as cards
import msgspec
import nvml_stand_in
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cliprt._cores import usable_cores
from cliprt_bench import _machine
from cliprt_bench._bench_card import Gpu, Machine
from cliprt_bench._machine import (
    FEATURES,
    cpu_fields,
    elsewhere,
    features,
    machine,
    memory_limits,
    with_clocks,
)
from cliprt_bench._nvml import visible

CPUINFO = """\
processor\t: 0
model name\t: A Processor @ 2.00GHz
flags\t\t: fpu sse2 avx2 avx512f avx512_vnni amx_int8 avx512_bf16

processor\t: 1
model name\t: Another
flags\t\t: fpu
"""


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    none = nvml_stand_in.NVMLError_LibraryNotFound("not found")
    nvml_stand_in.install(monkeypatch, start=none)


@pytest.mark.usefixtures("no_gpu")
def test_this_machine() -> None:
    told = machine()
    assert told.cpu
    assert told.cores == usable_cores()
    assert 0 < told.memory_mb <= psutil.virtual_memory().total / 2**20
    assert told.python == platform.python_version()
    assert told.libraries["numpy"] == metadata.version("numpy")
    assert told.load >= 0
    assert msgspec.json.decode(msgspec.json.encode(told), type=Machine) == told


@pytest.mark.usefixtures("no_gpu")
def test_nothing_names_host_user_or_paths() -> None:
    text = msgspec.json.encode(machine()).decode()
    assert "/" not in text.replace("GNU/Linux", "")
    for name in (platform.node(), getpass.getuser()):
        # Not in a version or the like: as a word of its own.
        assert name not in text.replace('"', " ").replace(",", " ").split()


@pytest.mark.usefixtures("no_gpu")
def test_without_a_driver_there_are_no_gpus_and_no_noise() -> None:
    told: list[str] = []
    assert machine(warn=told.append).gpus == ()
    assert told == []


def test_gpus_are_described(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = nvml_stand_in.install(monkeypatch)
    assert machine().gpus == (
        Gpu(name="Stand-in 0", memory_mb=1024, driver="580.1", power_limit_w=700),
        Gpu(name="Stand-in 1", memory_mb=2048, driver="580.1", power_limit_w=700),
    )
    assert seen == ["init", "shutdown"]


def test_clocks_of_gpus_are_added_once_they_were_read_under_load() -> None:
    here = cards.machine(gpus=(cards.gpu("one"), cards.gpu("other")))
    found = with_clocks(here, (1979.6, None)).gpus
    assert [(gpu.name, gpu.clock_mhz) for gpu in found] == [("one", 1980), ("other", None)]
    assert with_clocks(here, ()) == here
    assert with_clocks(cards.machine(), (1980,)).gpus == ()


def test_a_machine_elsewhere_is_not_described_as_this_one() -> None:
    here = cards.machine("A CPU", gpus=(cards.gpu(),))
    there = elsewhere(here)
    assert there.cpu == "another machine, asked from A CPU"
    assert (there.features, there.clock_mhz, there.gpus) == ((), None, ())


def test_what_a_gpu_does_not_tell_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml_stand_in.install(monkeypatch, ("GPU-1",), silent=True)
    assert machine().gpus == (Gpu(name="Stand-in 0", memory_mb=1024, driver="580.1"),)


def test_gpus_that_are_hidden_are_not_described(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml_stand_in.install(monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert [gpu.name for gpu in machine().gpus] == ["Stand-in 1"]


def test_a_broken_library_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = nvml_stand_in.NVMLError("Driver/library version mismatch")
    nvml_stand_in.install(monkeypatch, start=broken)
    told: list[str] = []
    assert machine(warn=told.append).gpus == ()
    assert told == [
        "NVML does not start: Driver/library version mismatch; the card says nothing about GPUs"
    ]


def test_the_smallest_limit_on_memory_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_machine, "memory_limits", lambda *_: iter([2**40, 3 * 2**20]))
    monkeypatch.setattr(_machine, "_gpus", lambda warn: ())
    assert machine().memory_mb == 3


@pytest.mark.parametrize(
    ("groups", "limits", "found"),
    [
        (
            "0::/a/b\n",
            {"a/b/memory.max": "max", "a/memory.max": "4096", "memory.max": "8192"},
            4096,
        ),
        ("0::/gone\n", {"memory.max": "8192\n"}, 8192),
        ("5:cpu,memory:/a\n", {"memory/a/memory.limit_in_bytes": "12288"}, 12288),
        ("5:cpu:/a\n0::/\n", {"a/memory.max": "1"}, None),
        ("", {"memory.max": "1"}, None),
    ],
)
def test_limits_on_memory(
    tmp_path: Path, groups: str, limits: dict[str, str], found: int | None
) -> None:
    for file, content in limits.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(content)
    assert min(memory_limits(groups, tmp_path), default=None) == found


def test_the_first_core_is_read_and_only_what_decides() -> None:
    fields = cpu_fields(CPUINFO)
    assert fields["model name"] == "A Processor @ 2.00GHz"
    assert features(fields) == ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8")


def test_features_of_arm() -> None:
    assert features({"Features": "fp asimd i8mm bf16 crc32"}) == ("asimd", "i8mm", "bf16")


@given(st.text(max_size=200))
def test_any_text_is_read(text: str) -> None:
    assert set(features(cpu_fields(text))) <= set(FEATURES)


UUIDS = ["GPU-aa11", "GPU-ab22", "GPU-cc33"]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("-1", []),
        ("2,0", [2, 0]),
        (" 1 , 2 ", [1, 2]),
        ("0,7,1", [0]),
        ("GPU-cc,GPU-aa11", [2, 0]),
        ("GPU-a", []),  # two begin so
    ],
)
def test_visible_gpus(wanted: str | None, found: list[int]) -> None:
    assert visible(UUIDS, wanted) == found


@given(st.text(alphabet="0123456789,-GPUac ", max_size=30))
def test_any_choice_of_gpus_is_read(wanted: str) -> None:
    assert set(visible(UUIDS, wanted)) <= {0, 1, 2}
