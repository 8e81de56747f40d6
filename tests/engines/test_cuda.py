"""What is said where the GPU cannot be used, and that the stand-in has CUDA's own functions."""

from __future__ import annotations

import inspect
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from cuda_stand_in import StandInCuda

from cliprt import DeploymentError, EngineError, MissingExtra
from cliprt_engines import Engine, open_engine
from cliprt_engines._cuda import Cuda, PinnedBuffer
from cliprt_engines._device import device_at_hand
from cliprt_engines._flavor import Toolkit
from cliprt_engines._loaded import LoadedPlan
from cliprt_engines._tensorrt import TensorRtTower

SOURCES = Path(inspect.getfile(Cuda)).parent


def test_without_a_driver() -> None:
    with pytest.raises(DeploymentError, match=r"no NVIDIA driver was found; .* ONNX Runtime runs"):
        Cuda(runtime=StandInCuda(driver=0))


def test_with_a_driver_that_is_too_old() -> None:
    with pytest.raises(
        DeploymentError,
        match=r"supports CUDA 12\.4, .* needs CUDA 13; .* pip install 'cuda-bindings==12\.\*'",
    ):
        Cuda(runtime=StandInCuda(driver=12040))


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(DeploymentError, match=r"sees no GPU \(CUDA_VISIBLE_DEVICES is ''\)"):
        Cuda(runtime=StandInCuda(devices=0))


@pytest.mark.parametrize("device", [-1, 1])
def test_a_gpu_that_is_not_there(device: int) -> None:
    with pytest.raises(DeploymentError, match=f"there is no GPU {device}: CUDA sees 1 GPU,"):
        Cuda(device, runtime=StandInCuda())


def test_a_failing_call_is_named() -> None:
    cuda = Cuda(runtime=StandInCuda())
    stream = cuda.call("cudaStreamCreateWithFlags", 1)
    with pytest.raises(
        DeploymentError, match="cudaMemcpyAsync failed on GPU 0: cudaErrorIllegalAddress"
    ):
        cuda.call("cudaMemcpyAsync", 1, 2, 3, cuda.host_to_device, stream)


def test_a_view_never_leaves_its_buffer() -> None:
    cuda = Cuda(runtime=StandInCuda())
    buffer = PinnedBuffer(cuda, 24)
    view = buffer.array((2, 3), np.dtype(np.float32))
    view[...] = 7
    assert buffer.array((6,), np.dtype(np.float32)).tolist() == [7.0] * 6
    with pytest.raises(ValueError, match="28 bytes were asked for of a buffer of 24"):
        buffer.array((7,), np.dtype(np.float32))


def called() -> set[str]:
    """The names of the CUDA runtime that the package uses."""
    text = "".join(path.read_text(encoding="utf-8") for path in SOURCES.glob("*.py"))
    found = re.findall(r'"(cuda[A-Z]\w+)"|_api\.(cuda[A-Z]\w+)', text)
    return {one or other for one, other in found}


def test_the_stand_in_has_every_function_that_is_called() -> None:
    assert len(called()) > 20
    assert all(hasattr(StandInCuda, name) for name in called())


def test_the_real_module_has_every_function_with_as_many_arguments() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    for name in called() | {"cudaError_t"}:
        real, stand_in = getattr(runtime, name), getattr(StandInCuda, name)
        if inspect.isfunction(stand_in):
            # The first line of the documentation is the signature.
            signature = re.search(rf"^{name}\((.*)\)", real.__doc__)
            assert signature is not None
            theirs = [argument for argument in signature[1].split(",") if argument]
            # The first of ours is the stand-in itself.
            assert len(inspect.signature(stand_in).parameters) - 1 == len(theirs), name
        elif isinstance(stand_in, int):
            assert int(real) == stand_in, name
        else:
            for member in stand_in:
                assert int(getattr(real, member.name)) == member, name


def test_the_real_module_says_why_there_is_no_gpu() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    if runtime.cudaGetDeviceCount()[0] == runtime.cudaError_t.cudaSuccess:
        pytest.skip("there is a GPU")
    with pytest.raises(DeploymentError, match=r"no NVIDIA driver|sees no GPU|too old"):
        Cuda()


def test_tensorrt_rtx_says_why_it_cannot_load_a_plan(built: Engine, rtx: Toolkit) -> None:
    """A real plan in the real library, as far as they go without a GPU."""
    if device_at_hand() is not None:
        pytest.skip("there is a GPU, which may load the plan")
    cuda = Cuda(runtime=StandInCuda())
    with pytest.raises(EngineError, match=r"cannot deserialise .*driver version is insufficient"):
        LoadedPlan(open_engine(built.path), rtx, cuda, graphs=True)


def test_a_tower_without_a_driver_says_so(built: Engine) -> None:
    if device_at_hand() is not None:
        pytest.skip("there is a GPU")
    if find_spec("cuda") is None:
        with pytest.raises(MissingExtra, match=r"pip install 'cliprt\[gpu\]'"):
            TensorRtTower(built.path)
    else:
        with pytest.raises(DeploymentError, match="no NVIDIA driver was found"):
            TensorRtTower(built.path)
