"""What ends before TensorRT sees a plan: a runtime that does not start, a version that differs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from engine_folders import Load

from cliprt import EngineError, EngineMismatch
from cliprt_engines import Engine
from cliprt_engines._flavor import Toolkit
from cliprt_engines._inspect import inspect_plan
from cliprt_engines._log import started, tensorrt_logger
from cliprt_engines._network import build_plan


def refusing(toolkit: Toolkit) -> Any:
    """Ends as pybind11 does where the library answers with a null pointer, and logs before that."""

    def refuse(logger: Any) -> None:
        logger.log(toolkit.api.ILogger.Severity.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    return refuse


def test_a_library_that_does_not_start_is_quoted(rtx: Toolkit, built: Engine) -> None:
    """As TensorRT's builder and runtime without a GPU; those of RTX need none."""
    log, recipe = tensorrt_logger(rtx.api), built.manifest.recipe
    with pytest.raises(
        EngineError, match="the builder cannot be started: CUDA initialization fail"
    ):
        started(refusing(rtx), log, what="the builder")
    api = ModuleType("without a GPU")
    vars(api).update(vars(rtx.api) | {"Builder": refusing(rtx), "Runtime": refusing(rtx)})
    toolkit = dataclasses.replace(rtx, flavor="tensorrt", api=api)
    with pytest.raises(
        EngineError, match=r"the builder of tensorrt [\d.]+ cannot be started: CUDA"
    ):
        build_plan(toolkit, Path("text.onnx"), recipe, lambda phase: None)
    with pytest.raises(
        EngineError, match="the runtime of tensorrt cannot be started: CUDA initial"
    ):
        inspect_plan(toolkit, b"plan", {}, (), gpu=True)


def test_a_library_that_says_nothing_is_quoted_too(rtx: Toolkit) -> None:
    with pytest.raises(EngineError, match=r"the parser cannot be started: .*constructor argument"):
        started(rtx.api.Builder, "no logger", what="the parser")
    with pytest.raises(EngineError, match="the parser cannot be started: it does not say why"):
        started(lambda: None, what="the parser")


def test_a_compatible_engine_of_another_version_is_for_triton(
    load: Load, text_engine: Path
) -> None:
    """Its plan needs the lean runtime of that version, which only Triton is told to load."""
    path = text_engine / "manifest.json"
    content = json.loads(path.read_text())
    content["recipe"] |= {"version": "10.13.2.6"}
    content["recipe"]["options"] |= {"version_compatible": True}
    path.write_text(json.dumps(content))
    with pytest.raises(
        EngineMismatch, match=r"was built by 10\.13\.2\.6, whose lean runtime"
    ) as caught:
        load(text_engine)
    assert "build it again with: cliprt build BUNDLE --tower text" in str(caught.value)
    assert "--version-compatible" in str(caught.value)
