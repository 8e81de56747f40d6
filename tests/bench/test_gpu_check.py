"""The check of a GPU: wheels in parts, stages that fail alone, and cards."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

from cliprt import Bundle

CHECK = ROOT / "bench" / "gpu_check"


@pytest.fixture(autouse=True)
def _scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripts lie in no package."""
    monkeypatch.syspath_prepend(str(CHECK))


def write_wheels(folder: Path) -> dict[str, bytes]:
    content = {"great.whl": bytes(range(256)) * 9, "small.whl": b"x" * 10, "even.whl": b"y" * 1000}
    folder.mkdir()
    for name, data in content.items():
        (folder / name).write_bytes(data)
    return content


def test_parts_become_whole_again(tmp_path: Path) -> None:
    from parts import join, split

    content = write_wheels(tmp_path / "wheels")
    written = split(tmp_path / "wheels", tmp_path / "parts", most_bytes=500)
    assert all(path.stat().st_size <= 500 for path in written)
    # Parts are carried in more than one folder.
    other = tmp_path / "other"
    other.mkdir()
    (tmp_path / "parts" / "great.whl.part002").rename(other / "great.whl.part002")
    made = join([other, tmp_path / "parts"], tmp_path / "joined")
    assert {path.name: path.read_bytes() for path in made} == content


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    from parts import join, split

    write_wheels(tmp_path / "wheels")
    split(tmp_path / "wheels", tmp_path / "parts", most_bytes=500)
    (tmp_path / "parts" / "great.whl.part001").unlink()
    with pytest.raises(ValueError, match=r"great\.whl came in the parts \[0, 2, 3, 4\]"):
        join([tmp_path / "parts"], tmp_path / "joined")


@pytest.mark.parametrize("change", ["last part", "flipped byte", "whole file"])
def test_what_is_not_the_same_is_refused(change: str, tmp_path: Path) -> None:
    from parts import join, split

    write_wheels(tmp_path / "wheels")
    split(tmp_path / "wheels", tmp_path / "parts", most_bytes=500)
    if change == "last part":
        (tmp_path / "parts" / "great.whl.part004").unlink()
    elif change == "flipped byte":
        part = tmp_path / "parts" / "great.whl.part003"
        part.write_bytes(part.read_bytes()[:-1] + b"!")
    else:
        (tmp_path / "parts" / "small.whl").unlink()
    message = "none of its parts is here" if change == "whole file" else "its SHA-256 differs"
    with pytest.raises(ValueError, match=message):
        join([tmp_path / "parts"], tmp_path / "joined")


def outcome(stage: str, **changes: Any) -> dict[str, Any]:
    return {"stage": stage, "status": "done", "seconds": 1.0, "reason": "", "found": {}, **changes}


SPEED = {
    "what": "onnxruntime cuda fp16", "batch": 8, "p50_ms": 2.0, "p95_ms": 3.0, "samples": 50,
    "per_s": 4000.0, "share": 0.5,
}  # fmt: skip


@pytest.mark.parametrize("rehearsal", [False, True])
def test_a_card_says_what_it_is(rehearsal: bool, tmp_path: Path) -> None:
    from card import write_card

    about = {"date": "2026-11-21T10:00:00Z", "commit": "abc", "rehearsal": rehearsal}
    stages = [
        outcome("machine", found={"gpu": "NVIDIA L4", "driver": "580.1"}),
        outcome("onnxruntime ViT-B-32", found={"speed": [SPEED]}),
        outcome("torch ViT-B-32", status="failed", reason="out of | memory\nhere"),
    ]
    content, page = write_card(tmp_path, about, stages)
    assert json.loads(content.read_text())["stages"] == stages
    text = page.read_text()
    assert "| ViT-B-32 | onnxruntime cuda fp16 | 8 | 2.000 | 3.000 | 4000 | 0.50 | 50 |" in text
    assert "| torch ViT-B-32 | failed | 1 | out of / memory here |" in text
    assert "| driver | 580.1 |" in text
    assert ("No figure here is one of a GPU" in text) == rehearsal
    assert ("rehearsal" in content.name) == rehearsal
    assert ("nvidia-l4" in content.name) != rehearsal


def test_stages_that_fail_do_not_lose_the_others(tmp_path: Path) -> None:
    """The real command, on a model that does not exist."""
    command = [
        sys.executable, str(CHECK), "--cpu-rehearsal", "--work", str(tmp_path / "work"),
        "--models", "ViT-X", "--only", "export", "verify",
    ]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1, ended.stderr
    (content,) = (tmp_path / "work").glob("*rehearsal-on-a-processor.json")
    stages = {each["stage"]: each for each in json.loads(content.read_text())["stages"]}
    assert stages["machine"]["status"] == "done"
    assert stages["machine"]["found"]["numpy"] == np.__version__
    assert stages["export ViT-X"]["status"] == "failed"
    assert "there is no architecture 'ViT-X'" in stages["export ViT-X"]["reason"]
    assert stages["verify ViT-X"]["status"] == "not run"
    assert stages["verify ViT-X"]["reason"] == "no engine was built"
    assert stages["wheels"]["reason"] == "none were given (--wheels)"


def test_a_stage_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    command = [
        sys.executable, str(CHECK), "--cpu-rehearsal", "--work", str(tmp_path / "work"),
        "--models", "ViT-L-14", "--only", "export", "--stage-limit-s", "6",
    ]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1, ended.stderr
    assert "export ViT-L-14: failed" in ended.stdout
    assert "took longer than 6 s" in ended.stdout


def test_work_is_counted_as_published(vit_b_32: Any) -> None:
    from timing import operations

    # OpenCLIP's table has 8.82 GFLOP for ViT-B/32.
    assert operations(vit_b_32.bundle.file("image.fp32.onnx")) / 1e9 == pytest.approx(
        8.82, abs=0.01
    )


def test_errors_are_one_minus_cosines(small_bundle: Bundle) -> None:
    from timing import largest_error

    one, other = np.eye(3, dtype=np.float32)[:2], np.eye(3, dtype=np.float32)[[0, 2]]
    assert largest_error(one, one) == 0
    assert largest_error(one, other) == 1
    assert np.isnan(largest_error(one, other * np.float32(np.nan)))
