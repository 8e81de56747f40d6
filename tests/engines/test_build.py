"""Building engines with the real TensorRT-RTX: what comes out, and what is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from engine_kit import SMALL, build_text, with_files
from onnx import TensorProto, helper, numpy_helper

from cliprt import Bundle, EngineError, FileEntry, InvalidInput
from cliprt_engines import BuilderOptions, BuildProgress, Engine, build_engines
from cliprt_engines._build import PRECISIONS
from cliprt_engines._cli_build import build
from cliprt_engines._device import Device
from cliprt_engines._flavor import Toolkit

RTX = ("--flavor", "tensorrt-rtx")


def test_a_manifest_says_what_was_built(built: Engine, half_bundle: Bundle, rtx: Toolkit) -> None:
    manifest, recipe = built.manifest, built.manifest.recipe
    plan = (built.path / "engine.plan").read_bytes()
    assert manifest.plan == FileEntry(sha256=hashlib.sha256(plan).hexdigest(), size=len(plan))
    assert (recipe.tower, recipe.precision, recipe.flavor) == ("text", "fp16", "tensorrt-rtx")
    assert (recipe.version, recipe.architectures) == (rtx.version, ("sm89",))
    assert recipe.files == {"text.fp16.onnx": half_bundle.card.files["text.fp16.onnx"]}
    assert recipe.space == half_bundle.card.space
    assert (manifest.input.name, manifest.input.dtype) == ("tokens", "int32")
    assert manifest.input.shape == (None,)
    output = manifest.output
    assert (output.name, output.dtype) == ("embedding", "float32")
    assert output.shape == (half_bundle.card.dim,)
    assert manifest.inspected == "plan"
    # The last projection, and for each of three layers four products with weights and two without.
    assert manifest.products == {"float32": 1, "float16": 19}
    assert (manifest.widened, manifest.fused_attentions) == ({}, 3)
    assert sorted(path.name for path in built.path.iterdir()) == ["engine.plan", "manifest.json"]


def test_float32_is_not_tf32(built: Engine) -> None:
    """An island in float32 with the 10 bits of TF32 would be none."""
    plan = (built.path / "engine.plan").read_bytes()
    assert b"  tf32=0\n" in plan
    assert b"  tf32=1\n" not in plan


def test_every_tower_and_target_gets_an_engine(half_bundle: Bundle, tmp_path: Path) -> None:
    seen: list[BuildProgress] = []
    engines = build_engines(
        half_bundle,
        tmp_path,
        flavor="tensorrt-rtx",
        targets=("sm120", "sm86+sm89"),
        profiles=SMALL,
        on_progress=seen.append,
    )
    found = [(e.manifest.recipe.tower, e.manifest.recipe.architectures) for e in engines]
    assert found == [
        ("image", ("sm120",)),
        ("text", ("sm120",)),
        ("image", ("sm86", "sm89")),
        ("text", ("sm86", "sm89")),
    ]
    image = engines[0].manifest
    spec = half_bundle.card.image
    assert spec is not None
    assert (image.input.dtype, image.input.shape) == ("uint8", (spec.height, spec.width, 3))
    phases = [now.phase for now in seen if now.phase is not None]
    assert any(phase.done == phase.total > 1 for phase in phases)
    assert [now.state for now in seen if now.phase is None] == ["building", "built"] * 4
    # A second time nothing is built.
    seen.clear()
    again = build_engines(
        half_bundle,
        tmp_path,
        flavor="tensorrt-rtx",
        targets=("sm86+sm89", "sm120"),
        profiles=SMALL,
        on_progress=seen.append,
    )
    assert {now.state for now in seen} == {"there"}
    assert {e.path for e in again} == {e.path for e in engines}


def test_weights_in_a_file_of_their_own_are_found(half_bundle: Bundle, tmp_path: Path) -> None:
    """As in graphs above 2 GB."""
    model = onnx.load(half_bundle.path / "text.fp16.onnx")
    folder = tmp_path / "split"
    folder.mkdir()
    onnx.save_model(
        model,
        folder / "text.fp16.onnx",
        save_as_external_data=True,
        location="text.fp16.weights",
        size_threshold=64,
    )
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len(files["text.fp16.weights"]) > len(files["text.fp16.onnx"])
    bundle = with_files(half_bundle, tmp_path / "bundle", **files)
    one = build_text(half_bundle, tmp_path / "engines")
    other = build_text(bundle, tmp_path / "engines")
    assert set(other.manifest.recipe.files) == {"text.fp16.onnx", "text.fp16.weights"}
    assert other.manifest.recipe.key != one.manifest.recipe.key
    assert other.manifest.plan == one.manifest.plan


def test_what_the_parser_refuses_is_quoted_with_its_node(
    half_bundle: Bundle, tmp_path: Path
) -> None:
    """An operator that nobody knows."""
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", 32, 32, 3])
    out = helper.make_tensor_value_info("embedding", TensorProto.UINT8, ["batch", 32, 32, 3])
    two = numpy_helper.from_array(np.array(2, np.uint8), "two")
    nodes = [helper.make_node("NoSuchOperator", ["pixels", "two"], ["embedding"], name="doubled")]
    graph = helper.make_graph(nodes, "g", [pixels], [out], [two])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    files = {"text.fp16.onnx": model.SerializeToString()}
    bundle = with_files(half_bundle, tmp_path / "bundle", **files)
    with pytest.raises(EngineError, match=r"refuses text\.fp16\.onnx: node 'doubled'") as caught:
        build_text(bundle, tmp_path / "engines")
    assert "NoSuchOperator" in str(caught.value)


def test_what_the_builder_refuses_is_quoted(half_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"cannot build text\.fp16\.onnx for sm75: .*Turing"):
        build_engines(
            half_bundle,
            tmp_path,
            towers=("text",),
            flavor="tensorrt-rtx",
            targets=("sm75",),
            profiles=SMALL,
        )
    assert list(tmp_path.iterdir()) == []


def test_errors_of_the_builder_are_raised_and_not_logged_as_well(
    half_bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "cliprt_engines.tensorrt"), pytest.raises(EngineError):
        build_engines(half_bundle, tmp_path, flavor="tensorrt-rtx", targets=("sm75",))
    assert any("Turing" in record.message for record in caplog.records)
    assert max(record.levelno for record in caplog.records) < logging.ERROR


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"precisions": ("int8-cpu",)}, InvalidInput, "'int8-cpu': it is for ONNX Runtime"),
        ({"precisions": ("fp64",)}, InvalidInput, "'fp64': it does not exist; there are fp32"),
        ({"precisions": ()}, InvalidInput, "no precision is named; there are fp32, fp16"),
        ({"towers": ()}, InvalidInput, "no tower is named; there are image, text"),
        (
            {"profiles": {"img": "1"}},
            InvalidInput,
            "profiles for the tower 'img', and the bundle has only image and text",
        ),
        ({"profiles": {"image": "１"}}, InvalidInput, "is neither a number nor LEAST:BEST:MOST"),
        (
            {"targets": ("sm90",)},
            InvalidInput,
            "on such a GPU itself TensorRT may build for it, with --flavor tensorrt",
        ),
        ({"precisions": ("int8",)}, EngineError, r"has no image\.int8\.onnx; export it with"),
        ({"towers": ("audio",)}, InvalidInput, "no tower 'audio'; there are image, text"),
        ({"targets": ()}, EngineError, "no GPU to build for; name one with --target"),
        ({"targets": ("sm90",)}, InvalidInput, r"'sm90' is no target of tensorrt-rtx .*sm89"),
        ({"targets": ("8.9",)}, InvalidInput, r"'8\.9' is not written like sm89"),
        ({"targets": ("sm89+",)}, InvalidInput, "'' is not written like sm89"),
        ({"flavor": "rtx"}, InvalidInput, "no flavour 'rtx'; there are tensorrt, tensorrt-rtx"),
        ({"profiles": {"text": "8"}}, InvalidInput, "the profile '8' lacks a length"),
        (
            {"options": BuilderOptions(version_compatible=True)},
            EngineError,
            "TensorRT-RTX has no --version-compatible; build for each version",
        ),
        (
            {"options": BuilderOptions(hardware="ampere-plus")},
            EngineError,
            r"TensorRT-RTX has no --hardware; name several architectures with --target sm86\+sm89",
        ),
    ],
)
def test_what_cannot_be_built_is_said_before_anything_is(
    arguments: dict[str, object],
    error: type[Exception],
    message: str,
    half_bundle: Bundle,
    tmp_path: Path,
) -> None:
    asked = {"flavor": "tensorrt-rtx", "targets": ("sm89",), **arguments}
    with pytest.raises(error, match=message):
        build_engines(half_bundle, tmp_path / "engines", **asked)  # type: ignore[arg-type]
    assert not (tmp_path / "engines").exists()


def test_no_folder_is_not_the_current_one(
    half_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput, match="out names no folder"):
        build_engines(half_bundle, "", flavor="tensorrt-rtx", targets=("sm89",))
    ran = CliRunner().invoke(build, command(half_bundle.path, "--out", ""))
    assert isinstance(ran.exception, InvalidInput)
    assert list(tmp_path.iterdir()) == []


def test_an_engine_for_a_target_does_not_depend_on_the_gpu_at_hand(
    half_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The GPU is said to be there; the builder needs none."""
    engines = []
    for memory in (4, 80):
        device = Device("NVIDIA L4", "sm89", memory * 2**30, "13.0", "580.95.05")
        monkeypatch.setattr("cliprt_engines._build.device_at_hand", lambda found=device: found)
        engines += build_engines(
            half_bundle, tmp_path, flavor="tensorrt-rtx", towers=("image",), targets=("sm89",)
        )
    assert engines[0] == engines[1]
    assert engines[0].manifest.recipe.profiles[0].batch.most == 128


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cliprt_engines._build.device_at_hand", lambda: None)


def test_tensorrt_itself_needs_a_gpu(
    half_bundle: Bundle, tmp_path: Path, rtx: Toolkit, monkeypatch: pytest.MonkeyPatch, no_gpu: None
) -> None:
    """Its libraries cannot be had here; what is said before they are used can be tested."""
    tensorrt = dataclasses.replace(rtx, flavor="tensorrt", version="11.4.1.3")
    monkeypatch.setattr("cliprt_engines._build.find_toolkit", lambda flavor: tensorrt)
    with pytest.raises(EngineError, match=r"there is none; without a GPU build with --flavor"):
        build_engines(half_bundle, tmp_path)
    with pytest.raises(EngineError, match="tensorrt builds for the GPU at hand and takes no targe"):
        build_engines(half_bundle, tmp_path, targets=("sm89",))


def command(*arguments: str | Path) -> list[str]:
    return [*map(str, arguments), *RTX, "--target", "sm89", "--profiles", "text=2x8"]


def test_the_command_prints_a_table(half_bundle: Bundle, tmp_path: Path) -> None:
    arguments = command(half_bundle.path, "--out", tmp_path, "--tower", "text")
    ran = CliRunner().invoke(build, arguments)
    assert ran.exit_code == 0
    header, line = ran.stdout.splitlines()
    assert header.split() == [
        "tower", "precision", "for", "profiles", "MB", "products", "widened", "attention",
        "inspected", "engine",
    ]  # fmt: skip
    assert line.startswith("text   fp16       sm89  1:2:2x2:8:8  ")
    assert "1 float32 19 float16" in line
    assert line.endswith(str(next(tmp_path.glob("text.fp16.*"))))


def test_a_pipe_gets_a_line_for_each_state(half_bundle: Bundle, tmp_path: Path) -> None:
    arguments = command(half_bundle.path, "--out", tmp_path, "--tower", "text")
    said = [CliRunner().invoke(build, arguments).stderr.splitlines() for _ in range(2)]
    name = next(tmp_path.glob("text.fp16.*")).name
    assert said == [[f"{name}: building", f"{name}: built"], [f"{name}: there"]]


def test_the_command_prints_json(half_bundle: Bundle, tmp_path: Path) -> None:
    arguments = command(half_bundle.path, "--out", tmp_path, "--tower", "text", "--json")
    (listed,) = json.loads(CliRunner().invoke(build, arguments).stdout)
    assert Path(listed["engine"]).parent == tmp_path
    assert listed["manifest"]["recipe"]["profiles"] == [{"batch": [1, 2, 2], "length": [2, 8, 8]}]


def test_the_command_that_a_manifest_names_finds_the_engine_built(
    half_bundle: Bundle, tmp_path: Path
) -> None:
    engine = build_text(half_bundle, tmp_path)
    words = engine.rebuild.replace("BUNDLE", str(half_bundle.path)).split()
    assert words[:2] == ["cliprt", "build"]
    (listed,) = json.loads(CliRunner().invoke(build, [*words[2:], "--json"]).stdout)
    assert listed["engine"] == str(engine.path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--profiles", "2x8"], "does not begin with image= or text="),
        (["--precision", ""], "Invalid value for '--precision': it is empty"),
        (["--tower", ","], "Invalid value for '--tower': it is empty"),
        (["--target", ""], "Invalid value for '--target': it is empty"),
        (
            ["--tower", "image", "--profiles", "text=2x8"],
            "Invalid value for '--profiles': there are some for text, and --tower leaves it out",
        ),
        (["--level", "6"], "6 is not in the range 0<=x<=5"),
        (["--hardware", "turing"], "'turing' is not one of"),
        (["--flavor", "trt"], "'trt' is not one of 'tensorrt', 'tensorrt-rtx'"),
    ],
)
def test_the_command_refuses_nonsense(
    arguments: list[str], message: str, half_bundle: Bundle, tmp_path: Path
) -> None:
    ran = CliRunner().invoke(build, [str(half_bundle.path), "--out", str(tmp_path), *arguments])
    assert ran.exit_code == 2
    assert message in ran.stderr


def test_the_help_names_the_cost_of_each_compatibility() -> None:
    text = " ".join(CliRunner().invoke(build, ["--help"], terminal_width=400).stdout.split())
    assert "Costs speed, as fewer kernels qualify" in text
    assert "with kernels of at most 48 KiB of shared memory and fewer fusions" in text
    assert all(name in text for name in PRECISIONS)


IN_A_TERMINAL = """
import os, pty, sys
code = "from cliprt_engines._cli_build import build; build()"
sys.exit(os.waitstatus_to_exitcode(pty.spawn([sys.executable, "-c", code, *sys.argv[1:]])))
"""


def test_a_terminal_sees_a_bar_for_each_phase(half_bundle: Bundle, tmp_path: Path) -> None:
    arguments = command(half_bundle.path, "--out", tmp_path, "--tower", "text")
    ran = subprocess.run(
        [sys.executable, "-c", IN_A_TERMINAL, *arguments],
        env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=True,
    )
    for phase in ("Building engine", "Optimizing graph", "Computing profile costs"):
        assert phase in ran.stdout
    assert "━" in ran.stdout
