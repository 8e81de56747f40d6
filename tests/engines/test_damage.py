"""Engines that were damaged, mixed up or taken away: none is loaded, and all can be built again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cliprt import Bundle, EngineError
from cliprt_engines import Engine, build_engines, find_engines, open_engine
from cliprt_engines._flavor import Toolkit
from cliprt_engines._manifest import read_plan

AGAIN = "build it again with: cliprt build BUNDLE --tower text --precision fp16"


def truncate(plan: Path) -> None:
    plan.write_bytes(plan.read_bytes()[:-1])


def flip_a_bit(plan: Path) -> None:
    data = bytearray(plan.read_bytes())
    data[len(data) // 2] ^= 1
    plan.write_bytes(data)


def lengthen(plan: Path) -> None:
    plan.write_bytes(plan.read_bytes() + b"\0")


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


PLAN_DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (truncate, r"has \d+ bytes, its manifest vouches for \d+; it is not loaded"),
    "lengthened": (lengthen, r"has \d+ bytes, its manifest vouches for \d+; it is not loaded"),
    "empty": (lambda plan: plan.write_bytes(b""), r"has 0 bytes, its manifest vouches for"),
    "a flipped bit": (flip_a_bit, r"has the SHA-256 [0-9a-f]{64}, its manifest vouches for"),
    "zeros": (
        lambda plan: plan.write_bytes(bytes(plan.stat().st_size)),
        r"has the SHA-256 [0-9a-f]{64}, its manifest vouches for",
    ),
    "missing": (Path.unlink, r"engine\.plan cannot be read: No such file"),
    "a folder": (replace_by_folder, r"engine\.plan (cannot be read: Is a directory|has \d+ bytes)"),
}


@pytest.mark.parametrize("what", PLAN_DAMAGE)
def test_a_damaged_plan_is_not_loaded(what: str, engine: Engine, rtx: Toolkit) -> None:
    damage, message = PLAN_DAMAGE[what]
    damage(engine.path / "engine.plan")
    with pytest.raises(EngineError, match=message) as caught:
        open_engine(engine.path, toolkit=rtx)
    assert AGAIN in str(caught.value)


def edit(**fields: object) -> Callable[[Path], object]:
    """Sets fields, ``recipe__version`` for instance being that of the recipe."""

    def change(manifest: Path) -> None:
        content = json.loads(manifest.read_text())
        for name, value in fields.items():
            *parents, last = name.split("__")
            record = content
            for parent in parents:
                record = record[parent]
            record[last] = value
        manifest.write_text(json.dumps(content))

    return change


MANIFEST_DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, r"has no manifest\.json: nothing vouches for a plan in it"),
    "empty": (lambda path: path.write_bytes(b""), r"the manifest\.json of .* cannot be read"),
    "cut off": (
        lambda path: path.write_bytes(path.read_bytes()[:100]),
        r"the manifest\.json of .* cannot be read",
    ),
    "of another schema": (edit(schema=2), r"it has schema 2, this cliprt reads schema 1"),
    "an unknown key": (edit(trust_me=True), r"unknown field `trust_me`"),
    "a recipe without sense": (edit(recipe={}), r"missing required field"),
    "a folder": (replace_by_folder, r"cannot be read: Is a directory"),
    "no UTF-8": (
        lambda path: path.write_bytes(b'{"model": "\xff"}'),
        r"it is not UTF-8",
    ),
    "too deep": (
        lambda path: path.write_bytes(b'{"model": ' + b"[" * 100_000),
        r"the manifest\.json of .* cannot be read",
    ),
    "an odd architecture": (edit(recipe__architectures=["smX"]), r"\['smX'\] are no archit"),
    "no architecture": (edit(recipe__architectures=[]), r"\[\] are no architectures like sm89"),
    "no version": (edit(recipe__version=""), r"'' is no version of TensorRT"),
    "an odd version": (edit(recipe__version="abc"), r"'abc' is no version of TensorRT"),
    "no files": (edit(recipe__files={}), r"it was built from no file"),
    "no profiles": (edit(recipe__profiles=[]), r"no first profile that takes every shape"),
    "profiles in disorder": (
        edit(recipe__profiles=[{"batch": [1, 1, 1], "length": [2, 2, 2]}, {"batch": [1, 9, 9]}]),
        r"no first profile that takes every shape",
    ),
    "profiles of another tower": (
        edit(recipe__profiles=[{"batch": [1, 1, 1]}]),
        r"its profiles are not those of its input",
    ),
    "an odd type": (edit(input__dtype="nonsense"), r"no tower takes or gives 'nonsense'"),
    "no shape": (edit(output__shape=[]), r"\[\] is not the shape of an item"),
    "a plane of outputs": (edit(output__shape=[3, 4]), r"\[3, 4\] is not the shape of an embedd"),
    "no hash": (edit(plan__sha256="0"), r"'0' and \d+ bytes are no file"),
    "no bytes": (edit(plan__size=0), r"and 0 bytes are no file"),
}


@pytest.mark.parametrize("what", MANIFEST_DAMAGE)
def test_a_damaged_manifest_vouches_for_nothing(what: str, engine: Engine, rtx: Toolkit) -> None:
    damage, message = MANIFEST_DAMAGE[what]
    damage(engine.path / "manifest.json")
    with pytest.raises(EngineError, match=message):
        open_engine(engine.path, toolkit=rtx)


EVIL = "1\n\x1b[31m"


@pytest.mark.parametrize(
    "fields",
    [
        {"model": EVIL},
        {"recipe__version": EVIL},
        {"recipe__architectures": [EVIL]},
        {"recipe__built_on": {"gpu": EVIL, "cuda": "13.0", "driver": None}},
        {"products": {EVIL: 1}},
        {"plan__sha256": EVIL},
        {EVIL: 1},
    ],
)
def test_a_manifest_does_not_steer_the_terminal(
    fields: dict[str, object], engine: Engine, rtx: Toolkit
) -> None:
    edit(**fields)(engine.path / "manifest.json")
    with pytest.raises(EngineError, match=r"the manifest\.json of .* cannot be read") as caught:
        open_engine(engine.path, toolkit=rtx)
    assert str(caught.value).isprintable()


def test_the_manifest_of_another_plan_vouches_for_nothing(
    engine: Engine, half_bundle: Bundle, rtx: Toolkit
) -> None:
    (other,) = build_engines(
        half_bundle,
        engine.path.parent,
        towers=("text",),
        targets=("sm86",),
        profiles={"text": "4x16"},
        flavor="tensorrt-rtx",
    )
    shutil.copy(other.path / "manifest.json", engine.path)
    with pytest.raises(EngineError, match="its manifest vouches for"):
        open_engine(engine.path, toolkit=rtx)


def test_half_an_engine_among_engines_is_said(engine: Engine) -> None:
    (engine.path / "engine.plan").unlink()
    (found,) = find_engines(engine.path.parent)
    with pytest.raises(EngineError, match=r"engine\.plan cannot be read: No such file"):
        read_plan(found)
    (engine.path / "manifest.json").unlink()
    (engine.path / "engine.plan").touch()
    with pytest.raises(EngineError, match="nothing vouches for a plan"):
        find_engines(engine.path.parent)


def test_a_folder_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EngineError, match=r"missing cannot be read: No such file"):
        find_engines(tmp_path / "missing")
    with pytest.raises(EngineError, match=r"file cannot be read: Not a directory"):
        find_engines(tmp_path / "file")
    with pytest.raises(EngineError, match=r"inside cannot be read: Not a directory"):
        open_engine(tmp_path / "file" / "inside")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(EngineError, match=r"loop cannot be read: Too many levels"):
        find_engines(tmp_path / "loop")


def test_an_empty_folder_holds_no_engines(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="holds no engines; build some with: cliprt build"):
        find_engines(tmp_path)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("engine.plan", "truncated"),
        ("engine.plan", "a flipped bit"),
        ("manifest.json", "missing"),
        ("manifest.json", "cut off"),
        ("manifest.json", "no UTF-8"),
        ("manifest.json", "no architecture"),
    ],
)
def test_a_damaged_engine_is_built_again(
    name: str, what: str, engine: Engine, half_bundle: Bundle, rtx: Toolkit
) -> None:
    damage, _ = (PLAN_DAMAGE if name == "engine.plan" else MANIFEST_DAMAGE)[what]
    damage(engine.path / name)
    states: list[str] = []
    (again,) = build_engines(
        half_bundle,
        engine.path.parent,
        flavor="tensorrt-rtx",
        towers=("text",),
        targets=("sm89",),
        profiles={"text": "1:4:8x2:16:77,1:1:2x2:8:16"},
        on_progress=lambda progress: states.append(progress.state),
    )
    assert states[-1] == "built"
    assert again.path == engine.path
    # The builder is deterministic, so that the plan is the very same.
    assert open_engine(again.path, toolkit=rtx).manifest.plan == engine.manifest.plan
