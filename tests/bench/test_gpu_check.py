"""The check of a GPU: wheels in parts, stages that fail alone, and cards."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from conftest import ROOT

from cliprt import Bundle
from cliprt_engines import OnnxTower, device_at_hand

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
    "what": "onnxruntime cuda fp16", "batch": 8, "p50_ms": 2.0, "p95_ms": None, "samples": 50,
    "per_s": 4000.0, "share": 0.5, "least_cosine": 0.99998,
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
    assert (
        "| ViT-B-32 | onnxruntime cuda fp16 | 8 | 2.000 | - | 4000 | 0.50 | 0.999980 | 50 |" in text
    )
    assert "| torch ViT-B-32 | failed | 1 | out of / memory here |" in text
    assert "| driver | 580.1 |" in text
    assert ("No figure here is one of a GPU" in text) == rehearsal
    assert ("rehearsal" in content.name) == rehearsal
    assert ("nvidia-l4" in content.name) != rehearsal


def test_a_card_says_which_stages_are_of_another_day_or_tree(tmp_path: Path) -> None:
    from card import write_card

    about = {"date": "2026-11-21T10:00:00Z", "commit": "abc", "rehearsal": False}
    stages = [
        outcome("machine", date="2026-11-21T10:00:00Z", commit="abc"),
        outcome("export ViT-B-32", date="2026-11-20T09:00:00Z", commit="dead"),
    ]
    _, page = write_card(tmp_path, about, stages)
    text = page.read_text()
    assert "export ViT-B-32: taken 2026-11-20T09:00:00Z at commit dead." in text
    assert "machine: taken" not in text


def test_what_is_not_a_number_is_not_written_as_json(tmp_path: Path) -> None:
    from card import write_card

    about = {"date": "2026-11-21T10:00:00Z", "commit": "abc", "rehearsal": False}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_card(tmp_path, about, [outcome("torch", found={"cosine": float("nan")})])


def run_check(work: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(CHECK), "--cpu-rehearsal", "--work", str(work), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_what_other_gpus_and_runs_found_is_not_passed_off_as_new(tmp_path: Path) -> None:
    """The real command; what former ones found is written here."""
    here = device_at_hand()
    former = {
        "date": "2026-11-01T00:00:00Z",
        "commit": "old",
        "rehearsal": True,
        "gpu": None if here is None else here.name,
    }
    kept = [
        outcome("ceiling", **former),
        outcome("torch ViT-X", **{**former, "gpu": "NVIDIA X"}),
        outcome("onnxruntime ViT-X", **{**former, "rehearsal": False}),
    ]
    (tmp_path / "outcomes.json").write_text(json.dumps(kept))
    ended = run_check(tmp_path, "--models", "ViT-X", "--only", "verify")
    assert "torch ViT-X: left out, it is of NVIDIA X in a rehearsal" in ended.stdout
    (content,) = tmp_path.glob("*rehearsal-on-a-processor.json")
    stages = {each["stage"]: each for each in json.loads(content.read_text())["stages"]}
    assert set(stages) == {"ceiling", "wheels", "machine", "verify ViT-X"}
    assert stages["ceiling"]["commit"] == "old"
    assert stages["verify ViT-X"]["commit"] != "old"
    page = content.with_suffix(".md").read_text()
    assert "ceiling: taken 2026-11-01T00:00:00Z at commit old." in page


def test_the_machine_is_described_by_python_alone(tmp_path: Path) -> None:
    """An interpreter without site-packages, and so without cliprt's dependencies."""
    command = [
        sys.executable, "-I", "-S", str(CHECK / "machine.py"), "--result", str(tmp_path / "found"),
    ]  # fmt: skip
    subprocess.run(command, check=True)
    found = json.loads((tmp_path / "found").read_text())
    assert {"gpu", "processor", "python"} <= set(found)
    assert "numpy" in found["missing modules"]
    assert "msgspec" in found["missing modules"]


def test_missing_modules_are_named_in_one_sentence(tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    bare.chmod(0o700)
    code = (
        f"import sys, runpy; sys.executable = {str(bare)!r}; "
        f"runpy.run_path({str(CHECK)!r}, run_name='__main__')"
    )
    command = [sys.executable, "-S", "-c", code, "--cpu-rehearsal", "--work", str(tmp_path / "w")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "this Python lacks PIL, click" in ended.stderr
    assert "--wheels" in ended.stderr
    assert "Traceback" not in ended.stderr
    (content,) = (tmp_path / "w").glob("*rehearsal-on-a-processor.json")
    assert "numpy" in json.loads(content.read_text())["stages"][1]["found"]["missing modules"]


@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_a_folder_that_others_may_write_is_not_worked_in(mode: int, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    work.chmod(mode)
    ended = run_check(work, "--only", "verify")
    assert ended.returncode == 1
    assert "is not yours alone to write, and code from it is run" in ended.stderr
    assert list(work.iterdir()) == []


def test_single_stages_need_the_folder_of_a_former_command() -> None:
    command = [sys.executable, str(CHECK), "--cpu-rehearsal", "--only", "verify"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "folder --work of a former command; name it" in ended.stderr


@pytest.fixture
def stage(small_bundle: Bundle, tmp_path: Path) -> Any:
    from stage import Stage

    (tmp_path / "bundle-small").symlink_to(small_bundle.path)
    return Stage("small", tmp_path, [1, 8], 3, True, tmp_path / "found.json")


def test_what_answers_right_is_timed(stage: Any) -> None:
    from timing import pictures

    tower = stage.reference
    some = pictures(tower.info, 3)
    stage.note_speed("the tower itself", some, lambda: tower.run(some))
    (row,) = json.loads(stage.result.read_text())["speed"]
    assert (row["batch"], row["least_cosine"]) == (3, 1.0)


@pytest.mark.parametrize("factor", [np.nan, -1.0])
def test_what_answers_wrong_is_not_timed(factor: float, stage: Any) -> None:
    from stage import BarMissedError
    from timing import pictures

    tower = stage.reference
    some = pictures(tower.info, 3)
    with pytest.raises(BarMissedError, match=r"batch 3: 3 answers .* the bar is 0\.9999"):
        stage.note_speed("a wrong tower", some, lambda: tower.run(some) * np.float32(factor))
    assert not stage.found


def test_a_replay_that_goes_stale_is_not_a_figure(stage: Any) -> None:
    from stage import BarMissedError
    from timing import pictures

    tower, calls = stage.reference, []
    some = pictures(tower.info, 2)

    def call() -> Any:
        calls.append(1)
        return tower.run(some if len(calls) == 1 else some[::-1])

    with pytest.raises(BarMissedError, match="batch 2, timed: 2 answers"):
        stage.note_speed("stale", some, call)
    assert not stage.found


class Sound:
    """A tower in an engine's place."""

    made: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, path: Path, **options: Any) -> None:
        self.made.append(options)
        self.inner = OnnxTower(path / "image.fp32.onnx", threads=1)
        self.info = replace(self.inner.info, max_batch=6)

    def __enter__(self) -> Sound:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def run(self, batch: Any) -> Any:
        return self.inner.run(batch)


def test_the_largest_batch_is_timed_cut_and_whole(
    stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import stages

    recipe = SimpleNamespace(tower="image", precision="fp32")
    engine = SimpleNamespace(path=stage.bundle, manifest=SimpleNamespace(recipe=recipe))
    stage.engines.mkdir()
    monkeypatch.setattr(stages, "find_engines", lambda _: [engine])
    monkeypatch.setattr(stages, "device_at_hand", lambda: "some GPU")
    monkeypatch.setattr(stages, "TensorRtTower", Sound)
    stages.overlap(stage)
    assert Sound.made == [{"overlap": True}, {"overlap": False}]
    one, other = json.loads(stage.result.read_text())["speed"]
    assert (one["batch"], other["batch"]) == (6, 6)
    assert "cut in two" in one["what"]
    assert "whole" in other["what"]


def test_an_older_engine_that_answers_wrong_fails_its_stage(
    stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On any machine: a tower in the engine's place."""
    import stages

    class Wrong:
        def __init__(self, path: object, **options: object) -> None:
            self.info = stage.reference.info

        def __enter__(self) -> Wrong:
            return self

        def __exit__(self, *exception: object) -> None:
            pass

        def run(self, batch: Any) -> Any:
            return stage.reference.run(batch) * np.float32(np.nan)

    monkeypatch.setattr(stages, "build_engines", lambda *_, **__: [SimpleNamespace(path=Path())])
    monkeypatch.setattr(stages, "device_at_hand", lambda: "some GPU")
    monkeypatch.setattr(stages, "TensorRtTower", Wrong)
    with pytest.raises(stages.BarMissedError, match="engines for sm80, sm86 run here and answer"):
        stages.rtx_older(stage)
    assert json.loads(stage.result.read_text())["sm80"].startswith("runs and answers wrong: sm80")


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
