"""What is read of the processor."""

from __future__ import annotations

from pathlib import Path

import pytest

from cliprt._cores import saturates_bytes


@pytest.mark.parametrize(
    ("flags", "saturates"),
    [
        ("fpu sse2 avx avx2", True),
        ("fpu sse2 avx2 avx512f", True),
        ("fpu sse2 avx2 avx512f avx512_vnni", False),
        ("fpu sse2 avx2 avx_vnni", False),
        ("fpu sse2", False),
    ],
)
def test_processors_without_vnni_saturate(tmp_path: Path, flags: str, saturates: bool) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nmodel name\t: X\nflags\t\t: {flags}\n\nprocessor\t: 1\n")
    assert saturates_bytes(cpuinfo) is saturates


def test_where_the_kernel_says_nothing_none_is_known_to(tmp_path: Path) -> None:
    assert not saturates_bytes(tmp_path / "missing")
    (tmp_path / "arm").write_text("processor\t: 0\nFeatures\t: asimd i8mm\n")
    assert not saturates_bytes(tmp_path / "arm")
