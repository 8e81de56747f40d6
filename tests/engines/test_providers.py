"""ONNX Runtime computes with what was asked for, or says why not."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import onnxruntime
import pytest

from cliprt import Bundle, DeploymentError, InvalidInput
from cliprt_engines import OnnxTower
from cliprt_engines._providers import check_used, provider_options


def test_the_processor_needs_no_options() -> None:
    assert provider_options("cpu") == [("CPUExecutionProvider", {})]


def test_cuda_keeps_float32_and_names_its_gpu() -> None:
    (cuda, options), (cpu, _) = provider_options("cuda", device=1)
    assert (cuda, cpu) == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert options["device_id"] == "1"
    assert options["use_tf32"] == "0"


def test_tensorrt_keeps_no_cache_of_engines_and_has_cuda_behind_it() -> None:
    (name, options), (behind, _), _ = provider_options("tensorrt", device=1)
    assert (name, behind) == ("TensorrtExecutionProvider", "CUDAExecutionProvider")
    assert options == {"device_id": "1", "trt_engine_cache_enable": "False"}


def test_every_option_is_one_that_towers_can_give() -> None:
    given = set(inspect.signature(OnnxTower).parameters) | {"kind"}
    assert set(inspect.signature(provider_options).parameters) <= given


def test_an_unknown_provider_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no provider 'rocm'; there are cpu, cuda, tensorrt"):
        provider_options("rocm")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["cuda", "tensorrt"])
def test_an_onnx_runtime_without_the_provider_is_named(kind: str, small_bundle: Bundle) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has the providers of a GPU")
    with pytest.raises(DeploymentError, match=r"has no .*ExecutionProvider.* onnxruntime-gpu"):
        OnnxTower(small_bundle.file("text.fp32.onnx"), provider=kind)


def test_a_session_that_fell_back_is_an_error() -> None:
    session = SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])
    with pytest.raises(
        DeploymentError, match="could not load its CUDAExecutionProvider and would compute with CPU"
    ):
        check_used(session, "cuda")


def test_a_session_with_the_provider_is_none() -> None:
    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    check_used(SimpleNamespace(get_providers=lambda: names), "cuda")
