"""TensorRtTower on a real GPU: the twin of test_tensorrt_tower.py, which has stand-ins.

Skipped where there is no GPU. Engines are built here, for the GPU at hand.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cliprt import Bundle, ClosedError, EngineError, EngineMismatch, InvalidInput
from cliprt_engines import Engine, OnnxTower, build_engines
from cliprt_engines._cuda import Cuda, DeviceBuffer
from cliprt_engines._device import device_at_hand
from cliprt_engines._flavor import find_toolkit
from cliprt_engines._loaded import LoadedPlan
from cliprt_engines._tensorrt import TensorRtTower
from cliprt_export import verify_engines

pytestmark = pytest.mark.gpu

# Float32 engines add up in another order; with TF32, which keeps 11 bits, they would miss this.
LEAST_COSINE = 0.99999


@pytest.fixture(scope="session")
def cuda() -> Cuda:
    if device_at_hand() is None:
        pytest.skip("there is no NVIDIA GPU, or no driver for it")
    if find_spec("cuda") is None:
        pytest.skip("cuda-bindings is not installed: pip install 'cliprt[gpu]'")
    return Cuda()


@pytest.fixture(scope="session")
def engines(
    cuda: Cuda, small_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Engine]:
    if find_spec("tensorrt") is None and find_spec("tensorrt_rtx_bindings") is None:
        pytest.skip("neither TensorRT nor TensorRT-RTX is installed")
    toolkit, device = find_toolkit(), device_at_hand()
    assert device is not None
    if toolkit.targets and device.architecture not in toolkit.targets:
        pytest.skip(f"TensorRT-RTX has no target {device.architecture}, and there is no TensorRT")
    built = build_engines(
        small_bundle,
        tmp_path_factory.mktemp("engines"),
        precisions=["fp32"],
        profiles={"image": "1:3:6,1:1:2", "text": "1:4:8x2:77:77,1:4:8x2:8:16"},
    )
    return {engine.manifest.recipe.tower: engine for engine in built}


@pytest.fixture
def text(engines: dict[str, Engine], small_bundle: Bundle) -> Iterator[TensorRtTower]:
    with TensorRtTower(engines["text"].path, bundle=small_bundle, graphs=4) as tower:
        yield tower


@pytest.fixture(scope="session")
def reference(small_bundle: Bundle) -> dict[str, OnnxTower]:
    return {name: OnnxTower(small_bundle.file(f"{name}.fp32.onnx")) for name in ("image", "text")}


def some_tokens(rows: int, length: int = 7, seed: int = 0) -> NDArray[np.int32]:
    tokens = np.random.default_rng(seed).integers(1, 49406, (rows, length), dtype=np.int32)
    tokens[:, -1] = 49407
    return tokens


def some_pixels(tower: TensorRtTower, rows: int, seed: int = 0) -> NDArray[np.uint8]:
    size = tuple(int(each or 0) for each in tower.info.shape)
    return np.random.default_rng(seed).integers(0, 256, (rows, *size), dtype=np.uint8)


def assert_close(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> None:
    assert found.shape == wanted.shape
    assert np.isfinite(found).all()
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-3)
    assert ((found * wanted).sum(axis=1) > LEAST_COSINE).all()


def test_alternating_inputs_under_graphs_get_their_own_answers(
    text: TensorRtTower, reference: dict[str, OnnxTower]
) -> None:
    batches = [some_tokens(2, 7, 1), some_tokens(2, 7, 2), some_tokens(3, 20), some_tokens(20, 9)]
    wanted = [reference["text"].run(batch) for batch in batches]
    for _ in range(6):
        for batch, answers in zip(batches, wanted, strict=True):
            assert_close(text.run(batch), answers)
    # TensorRT-RTX captures by itself and does not tell.
    assert text.graphs > 0 or text.info.runtime.startswith("tensorrt-rtx")


def test_more_shapes_than_graphs(text: TensorRtTower, reference: dict[str, OnnxTower]) -> None:
    for _ in range(3):
        for length in range(2, 12):
            batch = some_tokens(2, length, length)
            assert_close(text.run(batch), reference["text"].run(batch))


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 8, 9, 17])
@pytest.mark.parametrize("length", [2, 8, 16, 17, 77])
def test_the_edges_of_every_profile(
    rows: int, length: int, text: TensorRtTower, reference: dict[str, OnnxTower]
) -> None:
    batch = some_tokens(rows, length, rows)
    assert_close(text.run(batch), reference["text"].run(batch))


def test_pictures_beyond_the_greatest_batch(
    engines: dict[str, Engine], reference: dict[str, OnnxTower]
) -> None:
    with TensorRtTower(engines["image"].path) as tower:
        for rows in (1, 2, 6, 7, 20, 20, 20):
            pixels = some_pixels(tower, rows, rows)
            assert_close(tower.run(pixels), reference["image"].run(pixels))


@pytest.fixture(scope="session")
def large(
    engines: dict[str, Engine], small_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Engine:
    """An engine of pictures whose batches are large enough to be computed in two pieces."""
    (engine,) = build_engines(
        small_bundle,
        tmp_path_factory.mktemp("large"),
        precisions=["fp32"],
        towers=["image"],
        profiles={"image": "1:16:40,1:1:2"},
    )
    return engine


@pytest.mark.parametrize("overlap", [True, False])
def test_large_batches_in_two_pieces(
    overlap: bool, large: Engine, reference: dict[str, OnnxTower]
) -> None:
    with TensorRtTower(large.path, overlap=overlap) as tower:
        batches = [some_pixels(tower, rows, seed) for seed, rows in enumerate((33, 33, 40, 2))]
        for _ in range(4):
            for batch in batches:
                assert_close(tower.run(batch), reference["image"].run(batch))


def test_a_shape_still_runs_where_memory_for_its_graph_is_wanting(
    text: TensorRtTower, reference: dict[str, OnnxTower], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(plan: LoadedPlan, memory: int) -> Any:
        raise EngineError("no memory for a context")

    monkeypatch.setattr(LoadedPlan, "context", none_left)
    tokens = some_tokens(2)
    for _ in range(4):
        assert_close(text.run(tokens), reference["text"].run(tokens))
    assert text.graphs == 0


def test_an_engine_for_another_gpu_is_told_from_a_damaged_one(
    engines: dict[str, Engine], tmp_path: Path
) -> None:
    folder = shutil.copytree(engines["text"].path, tmp_path / "engine")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["recipe"]["architectures"] = ["sm61"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(EngineMismatch, match="its architecture is sm61"):
        TensorRtTower(folder)


def test_extreme_neighbours_change_nothing(engines: dict[str, Engine]) -> None:
    with TensorRtTower(engines["image"].path) as tower:
        good = some_pixels(tower, 1)
        plain = np.repeat(good, 6, axis=0)
        extreme = plain.copy()
        extreme[1], extreme[2], extreme[3, ::2], extreme[4, :, ::2] = 0, 255, 0, 255
        for _ in range(3):
            kept = tower.run(extreme)[[0, 5]]
            np.testing.assert_allclose(kept, tower.run(plain)[[0, 5]], atol=1e-5)


class OnGpu:
    """An array in a buffer of ours, described as CuPy's or torch's are."""

    def __init__(self, cuda: Cuda, values: NDArray[Any]) -> None:
        self.buffer = DeviceBuffer(cuda, values.nbytes)
        cuda.call(
            "cudaMemcpy",
            self.buffer.pointer,
            values.ctypes.data,
            values.nbytes,
            cuda.host_to_device,
        )
        self.__cuda_array_interface__ = {
            "shape": values.shape,
            "typestr": values.dtype.str,
            "data": (self.buffer.pointer, False),
            "strides": None,
            "version": 3,
            "stream": 1,
        }


def test_arrays_on_the_gpu(
    cuda: Cuda, engines: dict[str, Engine], reference: dict[str, OnnxTower], text: TensorRtTower
) -> None:
    tokens = some_tokens(11)
    with TensorRtTower(engines["image"].path) as tower:
        pixels = some_pixels(tower, 14)
        for _ in range(3):
            assert_close(tower.run(OnGpu(cuda, pixels)), reference["image"].run(pixels))
            assert_close(text.run(OnGpu(cuda, tokens)), reference["text"].run(tokens))


def test_bad_ids_do_not_reach_the_gpu(text: TensorRtTower, reference: dict[str, OnnxTower]) -> None:
    tokens = some_tokens(3)
    for bad in (-1, 49408, 2**31 - 1):
        wrong = tokens.copy()
        wrong[1, 2] = bad
        with pytest.raises(InvalidInput, match="item 1: a token id"):
            text.run(wrong)
    assert_close(text.run(tokens), reference["text"].run(tokens))


def test_two_threads_with_two_contexts(
    engines: dict[str, Engine], reference: dict[str, OnnxTower]
) -> None:
    batches = [some_tokens(1 + seed, 5 + seed, seed) for seed in range(4)]
    wanted = [reference["text"].run(batch) for batch in batches]
    found: list[list[Any]] = [[] for _ in batches]
    with TensorRtTower(engines["text"].path, contexts=2) as tower:

        def work(index: int) -> None:
            for _ in range(30):
                found[index].append(tower.run(batches[index]))

        threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for answers, right in zip(found, wanted, strict=True):
        assert len(answers) == 30
        for answer in answers:
            assert_close(answer, right)


def test_closing_gives_the_memory_back(cuda: Cuda, engines: dict[str, Engine]) -> None:
    free = []
    for _ in range(4):
        tower = TensorRtTower(engines["text"].path, contexts=2)
        for _ in range(3):
            tower.run(some_tokens(8))
        tower.close()
        free.append(cuda.call("cudaMemGetInfo")[0])
        with pytest.raises(ClosedError):
            tower.run(some_tokens(1))
    # What the libraries keep for themselves comes once, at the first time.
    assert free[-1] >= free[0] - 2**20


def test_onnx_runtime_on_cuda_answers_like_the_processor(
    cuda: Cuda, small_bundle: Bundle, reference: dict[str, OnnxTower]
) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("the installed ONNX Runtime has no CUDA provider")
    tokens = some_tokens(5)
    path: Path = small_bundle.file("text.fp32.onnx")
    tower = OnnxTower(path, provider="cuda")
    assert tower.info.runtime.endswith("CUDA")
    assert_close(tower.run(tokens), reference["text"].run(tokens))


def test_every_check_passes_on_real_engines_in_halves(
    engines: dict[str, Engine], half_bundle: Bundle, tmp_path: Path
) -> None:
    build_engines(half_bundle, tmp_path / "engines", precisions=["fp16"])
    result = verify_engines(tmp_path / "engines", bundle=half_bundle.path, samples=40)
    for row in result.rows:
        assert row.refused is None
        assert row.certificate is not None
        assert row.certificate.missed == []
