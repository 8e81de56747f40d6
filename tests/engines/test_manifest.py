"""The manifest: the key, and what it refuses with which words."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import msgspec
import pytest

from cliprt import Bundle, EngineError, EngineMismatch, FileEntry
from cliprt_engines import BuilderOptions, Engine, Profile, Span, open_engine
from cliprt_engines._device import Device
from cliprt_engines._flavor import Toolkit
from cliprt_engines._manifest import BuiltOn, Recipe, check_engine, rebuild_command

# Values as a GPU would give them; no GPU is asked.
L4 = Device("NVIDIA L4", "sm89", 24 * 2**30, "13.0", "580.95.05")


def changed(engine: Engine, **fields: Any) -> Engine:
    """The engine with another recipe."""
    recipe = msgspec.structs.replace(engine.manifest.recipe, **fields)
    return Engine(engine.path, msgspec.structs.replace(engine.manifest, recipe=recipe))


def as_tensorrt(engine: Engine, **fields: Any) -> Engine:
    """What its manifest would say had TensorRT built it on an L4."""
    ours = {"flavor": "tensorrt", "version": "11.4.1.3", "built_on": BuiltOn(gpu=L4.name, cuda="13.0", driver="580.95.05")}  # fmt: skip  # noqa: E501
    return changed(engine, **(ours | fields))


@pytest.fixture
def tensorrt(rtx: Toolkit) -> Toolkit:
    return dataclasses.replace(rtx, flavor="tensorrt", version="11.4.1.3")


DIFFERENT: dict[str, Any] = {
    "cliprt": "9.9",
    "space": "another",
    "tower": "image",
    "precision": "int8",
    "files": {"text.fp16.onnx": FileEntry(sha256="0" * 64, size=1)},
    "profiles": (Profile(batch=Span(1, 1, 1), length=Span(2, 2, 2)),),
    "flavor": "tensorrt",
    "version": "1.7.2",
    "architectures": ("sm86",),
    "built_on": BuiltOn(gpu="NVIDIA L4", cuda="13.0", driver="580.95.05"),
    "options": BuilderOptions(level=4),
}


def test_every_field_of_a_recipe_is_tried() -> None:
    assert set(DIFFERENT) == {field.name for field in msgspec.structs.fields(Recipe)}


@pytest.mark.parametrize("field", DIFFERENT)
def test_the_key_depends_on_every_field(field: str, built: Engine) -> None:
    recipe = built.manifest.recipe
    other = msgspec.structs.replace(recipe, **{field: DIFFERENT[field]})
    assert other.key != recipe.key
    assert other.name != recipe.name


@pytest.mark.parametrize(
    "options",
    [BuilderOptions(version_compatible=True), BuilderOptions(hardware="ampere-plus")],
)
def test_the_key_depends_on_every_option(options: BuilderOptions, built: Engine) -> None:
    recipe = built.manifest.recipe
    assert msgspec.structs.replace(recipe, options=options).key != recipe.key


@pytest.mark.parametrize("driver", ["580.95.06", None])
def test_the_key_depends_on_the_driver(driver: str | None, built: Engine) -> None:
    one = as_tensorrt(built).manifest.recipe
    other = BuiltOn(gpu=L4.name, cuda="13.0", driver=driver)
    assert as_tensorrt(built, built_on=other).manifest.recipe.key != one.key


def test_the_key_is_that_of_the_content(built: Engine) -> None:
    recipe = built.manifest.recipe
    again = msgspec.json.decode(msgspec.json.encode(recipe), type=Recipe)
    assert again == recipe
    assert again.key == recipe.key
    assert built.path.name == recipe.name


def test_an_engine_that_fits_is_opened(built: Engine, half_bundle: Bundle, rtx: Toolkit) -> None:
    opened = open_engine(built.path, bundle=half_bundle, toolkit=rtx, device=L4)
    assert opened.plan == (built.path / "engine.plan").read_bytes()
    assert opened.manifest == built.manifest


def refusal(engine: Engine, toolkit: Toolkit, **against: Any) -> str:
    arguments: dict[str, Any] = {"bundle": None, "device": L4, **against}
    with pytest.raises(EngineError) as caught:
        check_engine(engine, toolkit=toolkit, **arguments)
    message = str(caught.value)
    assert "build it again with: cliprt build BUNDLE --tower text --precision fp16" in message
    return message


def test_another_version_is_refused(built: Engine, rtx: Toolkit) -> None:
    said = refusal(built, dataclasses.replace(rtx, version="1.8.0.12"))
    assert f"its tensorrt-rtx is {rtx.version}, here it is 1.8.0.12" in said


def test_the_other_flavour_is_refused(built: Engine, tensorrt: Toolkit) -> None:
    assert "its TensorRT is tensorrt-rtx, here it is tensorrt" in refusal(built, tensorrt)


def test_another_architecture_is_refused(built: Engine, rtx: Toolkit) -> None:
    other = dataclasses.replace(L4, name="NVIDIA RTX 5090", architecture="sm120")
    said = refusal(built, rtx, device=other)
    assert "its architecture is sm89, here it is sm120 (NVIDIA RTX 5090)" in said
    # The command builds for what is here.
    assert "--target sm120" in said


def test_any_device_is_only_accepted_when_asked_for(built: Engine, rtx: Toolkit) -> None:
    other = dataclasses.replace(L4, architecture="sm90")
    with pytest.raises(EngineError, match="its architecture is sm89, here it is sm90"):
        open_engine(built.path, toolkit=rtx, device=other)
    assert open_engine(built.path, toolkit=rtx, device=other, any_device=True).plan


def test_another_space_is_refused(built: Engine, rtx: Toolkit, demo_bundle: Bundle) -> None:
    said = refusal(built, rtx, bundle=demo_bundle)
    assert f"its space is {built.manifest.recipe.space}" in said
    assert f"here it is {demo_bundle.card.space}" in said


def test_another_tower_is_refused(built: Engine, rtx: Toolkit, half_bundle: Bundle) -> None:
    files = {"text.fp16.onnx": FileEntry(sha256="0" * 64, size=1)}
    said = refusal(changed(built, files=files), rtx, bundle=half_bundle)
    there = half_bundle.card.files["text.fp16.onnx"].sha256
    assert f"its SHA-256 of text.fp16.onnx is {'0' * 64}, here it is {there}" in said


def test_a_bundle_without_the_tower_is_refused(
    built: Engine, rtx: Toolkit, half_bundle: Bundle
) -> None:
    files = {"text.int8.onnx": FileEntry(sha256="0" * 64, size=1)}
    said = refusal(changed(built, files=files), rtx, bundle=half_bundle)
    assert f"its SHA-256 of text.int8.onnx is {'0' * 64}, here it is missing in" in said


def test_another_gpu_of_the_architecture_is_refused(built: Engine, tensorrt: Toolkit) -> None:
    other = dataclasses.replace(L4, name="NVIDIA L40S")
    said = refusal(as_tensorrt(built), tensorrt, device=other)
    assert "its GPU is NVIDIA L4, here it is NVIDIA L40S" in said


def test_an_older_driver_is_refused_and_a_newer_one_is_not(
    built: Engine, tensorrt: Toolkit
) -> None:
    engine = as_tensorrt(built)
    older = dataclasses.replace(L4, driver="580.65.06")
    said = refusal(engine, tensorrt, device=older)
    assert "its driver is 580.95.05, here it is the older 580.65.06" in said
    newer = dataclasses.replace(L4, driver="590.10", cuda="13.1")
    check_engine(engine, bundle=None, toolkit=tensorrt, device=newer)


def test_an_older_cuda_is_refused(built: Engine, tensorrt: Toolkit) -> None:
    said = refusal(as_tensorrt(built), tensorrt, device=dataclasses.replace(L4, cuda="12.9"))
    assert "its CUDA of the driver is 13.0, here it is the older 12.9" in said


@pytest.mark.parametrize(
    ("then", "now", "loads"),
    [
        ("11.2.0.5", "11.4.1.3", True),
        ("10.13.2.6", "11.4.1.3", True),
        ("11.4.1.3", "11.2.0.5", False),
        ("10.13.2.6", "12.0.0.1", False),
        ("8.6.1.6", "11.4.1.3", False),
    ],
)
def test_a_version_compatible_engine_loads_where_nvidia_says_so(
    then: str, now: str, loads: bool, built: Engine, tensorrt: Toolkit
) -> None:
    toolkit = dataclasses.replace(tensorrt, version=now)
    engine = as_tensorrt(built, version=then, options=BuilderOptions(version_compatible=True))
    if loads:
        check_engine(engine, bundle=None, toolkit=toolkit, device=L4)
    else:
        assert f"its tensorrt is {then}, here it is {now}" in refusal(engine, toolkit)
    # Without the option no two versions go together.
    refusal(as_tensorrt(built, version=then), toolkit)


@pytest.mark.parametrize(
    ("hardware", "architecture", "runs"),
    [
        ("ampere-plus", "sm120", True),
        ("ampere-plus", "sm75", False),
        ("same-compute-capability", "sm89", True),
        ("same-compute-capability", "sm86", False),
        ("none", "sm86", False),
    ],
)
def test_compatible_hardware_is_what_the_option_says(
    hardware: Any, architecture: str, runs: bool, built: Engine, tensorrt: Toolkit
) -> None:
    engine = as_tensorrt(built, options=BuilderOptions(hardware=hardware))
    device = dataclasses.replace(L4, name="another", architecture=architecture)
    if runs:
        check_engine(engine, bundle=None, toolkit=tensorrt, device=device)
    else:
        refusal(engine, tensorrt, device=device)


def test_the_command_rebuilds_what_was_built(built: Engine) -> None:
    command = rebuild_command(built.manifest.recipe, built.path.parent, "my bundle")
    assert command == (
        "cliprt build 'my bundle' --tower text --precision fp16 --flavor tensorrt-rtx "
        f"--out {built.path.parent} --target sm89 --profiles text=1:4:8x2:16:77,1:1:2x2:8:16"
    )
    options = BuilderOptions(level=5, version_compatible=True, hardware="ampere-plus")
    other = as_tensorrt(built, options=options).manifest.recipe
    assert re.search(
        r"--level 5 --version-compatible --hardware ampere-plus",
        rebuild_command(other, built.path.parent),
    )


def test_the_command_rebuilds_one_engine_for_several_architectures(built: Engine) -> None:
    both = changed(built, architectures=("sm86", "sm89")).manifest.recipe
    assert " --target sm86+sm89 " in rebuild_command(both, built.path.parent)


def test_what_is_for_another_machine_is_told_from_what_is_of_another_bundle(
    built: Engine, half_bundle: Bundle, rtx: Toolkit
) -> None:
    older = dataclasses.replace(rtx, version="1.0.0.1")
    with pytest.raises(EngineMismatch):
        check_engine(built, bundle=half_bundle, toolkit=older, device=L4)
    with pytest.raises(EngineMismatch):
        open_engine(built.path, toolkit=older, device=L4)
    other = changed(built, space="0" * 64)
    with pytest.raises(EngineError, match="its space is 0000") as caught:
        check_engine(other, bundle=half_bundle, toolkit=rtx, device=L4)
    assert not isinstance(caught.value, EngineMismatch)


def test_values_beyond_reason_are_refused() -> None:
    with pytest.raises(ValueError, match="level is 0 to 5"):
        BuilderOptions(level=6)
    with pytest.raises(ValueError, match="1 <= least <= best <= most"):
        Span(4, 2, 8)


@pytest.mark.parametrize("cuda", ["12.²", "1²", "9" * 5000, "", "."])
def test_a_version_that_is_none_costs_nobody_more_than_the_engine(
    cuda: str, built: Engine, tensorrt: Toolkit
) -> None:
    odd = as_tensorrt(built, built_on=BuiltOn(gpu=L4.name, cuda=cuda, driver="580.95.05"))
    # What is no version is older than every version.
    check_engine(odd, bundle=None, toolkit=tensorrt, device=L4)
