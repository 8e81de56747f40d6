"""TensorRtTower's control flow, on the stand-ins for CUDA and TensorRT.

What a GPU answers is tested in test_on_gpu.py.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_stand_in import StandInCuda
from engine_folders import write_engine
from numpy.typing import NDArray
from tensorrt_stand_in import stand_in_tensorrt

from cliprt import Bundle, ClosedError, DeploymentError, EngineError, InvalidInput
from cliprt_engines import OnnxTower, _tensorrt
from cliprt_engines._cuda import Cuda
from cliprt_engines._flavor import Toolkit
from cliprt_engines._profiles import Profile, Span
from cliprt_engines._tensorrt import TensorRtTower

Load = Callable[..., TensorRtTower]


@pytest.fixture
def cuda() -> StandInCuda:
    return StandInCuda()


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, cuda: StandInCuda) -> Load:
    """Loads an engine's folder with the stand-ins in place of the libraries."""
    toolkit = Toolkit("tensorrt", "11.0.0", stand_in_tensorrt(cuda))
    monkeypatch.setattr(_tensorrt, "find_toolkit", lambda flavor: toolkit)
    monkeypatch.setattr(_tensorrt, "device_at_hand", lambda device: None)
    monkeypatch.setattr(_tensorrt, "Cuda", lambda device: Cuda(device, runtime=cuda))
    return lambda folder, **options: TensorRtTower(folder, any_device=True, **options)


@pytest.fixture
def text_engine(small_bundle: Bundle, tmp_path: Path) -> Path:
    return write_engine(tmp_path, small_bundle, "text")


def some_tokens(rows: int, length: int = 7, seed: int = 0) -> NDArray[np.int32]:
    tokens = np.random.default_rng(seed).integers(1, 49406, (rows, length), dtype=np.int32)
    tokens[:, -1] = 49407
    return tokens


def expected(bundle: Bundle, batch: NDArray[Any]) -> NDArray[np.float32]:
    tower = "text" if batch.dtype == np.int32 else "image"
    return OnnxTower(bundle.file(f"{tower}.fp32.onnx"), threads=1).run(batch)


def test_it_says_what_it_takes(load: Load, text_engine: Path, small_bundle: Bundle) -> None:
    with load(text_engine) as tower:
        info = tower.info
    assert (info.input, info.dtype, info.shape) == ("tokens", "int32", (None,))
    assert (info.dim, info.max_batch, info.max_length) == (small_bundle.card.dim, 8, 77)
    assert info.runtime == "tensorrt 11.0.0 GPU 0"


@pytest.mark.parametrize("graphs", [0, 4])
@pytest.mark.parametrize("rows", [0, 1, 8, 9, 16, 21])
def test_batches_of_any_size_are_answered(
    rows: int, graphs: int, load: Load, text_engine: Path, small_bundle: Bundle
) -> None:
    tokens = some_tokens(rows)
    with load(text_engine, graphs=graphs) as tower:
        for _ in range(3):
            answers = tower.run(tokens)
            assert answers.shape == (rows, tower.info.dim)
            if rows:
                wanted = expected(small_bundle, tokens)
                np.testing.assert_allclose(answers, wanted, atol=1e-5)


def test_pictures_are_answered(load: Load, small_bundle: Bundle, tmp_path: Path) -> None:
    spec = small_bundle.card.image
    assert spec is not None
    pixels = np.random.default_rng(1).integers(
        0, 256, (14, spec.height, spec.width, 3), dtype=np.uint8
    )
    with load(write_engine(tmp_path, small_bundle, "image")) as tower:
        np.testing.assert_allclose(tower.run(pixels), expected(small_bundle, pixels), atol=1e-5)


def test_alternating_inputs_get_their_own_answers(
    load: Load, text_engine: Path, small_bundle: Bundle
) -> None:
    """Under graphs, across shapes and profiles, with graphs that go for others."""
    batches = [some_tokens(2, 7, 1), some_tokens(2, 7, 2), some_tokens(3, 20), some_tokens(20, 9)]
    wanted = [expected(small_bundle, batch) for batch in batches]
    with load(text_engine, graphs=2) as tower:
        for turn in range(5):
            for batch, answers in zip(batches, wanted, strict=True):
                found = tower.run(batch)
                np.testing.assert_allclose(found, answers, atol=1e-5, err_msg=f"turn {turn}")
        assert tower.graphs == 2


def test_a_graph_under_way_does_not_go_for_another(
    load: Load, text_engine: Path, small_bundle: Bundle
) -> None:
    one, two = some_tokens(8, 7, 1), some_tokens(16, 7, 2)
    with load(text_engine, graphs=1) as tower:
        # The first lane launches its graph, while the second captures one in its place.
        for batch in (one, one, one, two, two):
            found = tower.run(batch)
            np.testing.assert_allclose(found, expected(small_bundle, batch), atol=1e-5)


def test_graphs_are_captured_at_the_second_time_and_launched_after(
    load: Load, text_engine: Path, cuda: StandInCuda
) -> None:
    with load(text_engine) as tower:
        counts = []
        for _ in range(4):
            cuda.calls.clear()
            tower.run(some_tokens(2))
            captured = cuda.calls.count("cudaStreamBeginCapture")
            counts.append((captured, cuda.calls.count("cudaGraphLaunch")))
    assert counts == [(0, 0), (1, 0), (0, 1), (0, 1)]


def test_an_engine_that_cannot_be_captured_still_answers(
    load: Load, text_engine: Path, cuda: StandInCuda, small_bundle: Bundle
) -> None:
    cuda.capturable = False
    tokens = some_tokens(2)
    with load(text_engine) as tower:
        for _ in range(4):
            found = tower.run(tokens)
            np.testing.assert_allclose(found, expected(small_bundle, tokens), atol=1e-5)
        assert tower.graphs == 0
    assert cuda.calls.count("cudaStreamBeginCapture") == 1


def test_the_next_piece_is_copied_before_the_host_waits(
    load: Load, text_engine: Path, cuda: StandInCuda
) -> None:
    with load(text_engine, graphs=0) as tower:
        cuda.calls.clear()
        tower.run(some_tokens(16))
    wanted = ("cudaMemcpyAsync", "cudaStreamSynchronize")
    order = [call for call in cuda.calls if call in wanted]
    # Up, down, up, down, and only then the host waits for the first.
    assert order[:6] == ["cudaMemcpyAsync"] * 4 + ["cudaStreamSynchronize"] * 2


def test_the_callers_array_may_change_as_soon_as_it_has_its_answer(
    load: Load, text_engine: Path, small_bundle: Bundle
) -> None:
    tokens = some_tokens(8)
    wanted = expected(small_bundle, tokens)
    with load(text_engine) as tower:
        found = tower.run(tokens)
        tokens[:] = 5
        tower.run(tokens)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_everything_is_given_back(load: Load, text_engine: Path, cuda: StandInCuda) -> None:
    tower = load(text_engine, contexts=3)
    for _ in range(3):
        tower.run(some_tokens(9))
    assert cuda.live_graphs
    tower.close()
    tower.close()
    assert not cuda.memory
    assert not cuda.live_graphs
    with pytest.raises(ClosedError, match="load it again"):
        tower.run(some_tokens(1))


def test_it_can_be_opened_again(load: Load, text_engine: Path, small_bundle: Bundle) -> None:
    for _ in range(2):
        with load(text_engine) as tower:
            tokens = some_tokens(3)
            np.testing.assert_allclose(tower.run(tokens), expected(small_bundle, tokens), atol=1e-5)


@pytest.mark.parametrize("left", range(6))
def test_what_was_taken_before_memory_ran_out_is_given_back(
    left: int, load: Load, text_engine: Path, cuda: StandInCuda
) -> None:
    cuda.allocations_left = left
    if left < 5:
        with pytest.raises(DeploymentError, match=r"cudaErrorMemoryAllocation.*fewer contexts"):
            load(text_engine)
    else:
        load(text_engine).close()
    assert not cuda.memory


def test_threads_share_a_tower(load: Load, text_engine: Path, small_bundle: Bundle) -> None:
    batches = [some_tokens(1 + seed, 5 + seed, seed) for seed in range(6)]
    wanted = [expected(small_bundle, batch) for batch in batches]
    found: list[Any] = [None] * 6
    with load(text_engine, contexts=1) as tower:

        def work(index: int) -> None:
            for _ in range(4):
                found[index] = tower.run(batches[index])

        threads = [threading.Thread(target=work, args=(index,)) for index in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for answers, right in zip(found, wanted, strict=True):
        np.testing.assert_allclose(answers, right, atol=1e-5)


def test_closing_lets_waiting_threads_go(load: Load, text_engine: Path) -> None:
    tower = load(text_engine)
    errors: list[BaseException] = []
    with tower._worker():

        def work() -> None:
            try:
                tower.run(some_tokens(1))
            except ClosedError as error:
                errors.append(error)

        waiting = [threading.Thread(target=work) for _ in range(2)]
        closing = threading.Thread(target=tower.close)
        for thread in (*waiting, closing):
            thread.start()
    for thread in (*waiting, closing):
        thread.join(20)
        assert not thread.is_alive()


class OnGpu:
    """An array in the stand-in's device memory."""

    def __init__(self, cuda: StandInCuda, values: NDArray[Any], **changes: object) -> None:
        _, self.pointer = cuda.cudaMalloc(values.nbytes)
        cuda.array(self.pointer, values.shape, values.dtype)[...] = values
        self.interface = {
            "shape": values.shape,
            "typestr": values.dtype.str,
            "data": (self.pointer, False),
            "strides": None,
            "version": 3,
            "stream": 1,
            **changes,
        }

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self.interface


@pytest.mark.parametrize("with_bundle", [False, True])
def test_arrays_on_the_gpu_are_taken(
    with_bundle: bool, load: Load, text_engine: Path, cuda: StandInCuda, small_bundle: Bundle
) -> None:
    tokens = some_tokens(11)
    bundle = small_bundle if with_bundle else None
    with load(text_engine, bundle=bundle) as tower:
        for _ in range(3):
            found = tower.run(OnGpu(cuda, tokens))
            np.testing.assert_allclose(found, expected(small_bundle, tokens), atol=1e-5)


def test_an_array_that_is_not_ready_is_waited_for(
    load: Load, text_engine: Path, cuda: StandInCuda, small_bundle: Bundle
) -> None:
    tokens = some_tokens(2)
    _, stream = cuda.cudaStreamCreateWithFlags(1)
    array = OnGpu(cuda, np.ones_like(tokens), stream=stream.number)

    def produce() -> None:
        cuda.array(array.pointer, tokens.shape, tokens.dtype)[...] = tokens

    stream.queue.append(("do", produce))
    with load(text_engine) as tower:
        np.testing.assert_allclose(tower.run(array), expected(small_bundle, tokens), atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask": object()}, "is masked"),
        ({"strides": (4, 8)}, "not contiguous"),
        ({"stream": 0}, "names stream 0"),
        ({"shape": "x"}, "does not describe itself"),
        ({"typestr": "<i8"}, "takes int32 tokens, got int64"),
    ],
)
def test_arrays_on_the_gpu_that_are_refused(
    changes: dict[str, object], message: str, load: Load, text_engine: Path, cuda: StandInCuda
) -> None:
    with load(text_engine) as tower, pytest.raises(InvalidInput, match=message):
        tower.run(OnGpu(cuda, some_tokens(2), **changes))


def test_an_array_elsewhere_is_refused(load: Load, text_engine: Path, cuda: StandInCuda) -> None:
    tokens = some_tokens(2)
    array = OnGpu(cuda, tokens, data=(tokens.ctypes.data, False))
    with load(text_engine) as tower, pytest.raises(InvalidInput, match="not a GPU's"):
        tower.run(array)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (np.zeros((2, 7), np.int64), "takes int32 tokens, got int64"),
        (np.zeros((2, 7, 3), np.int32), r"takes tokens \[batch, length\], got \[2, 7, 3\]"),
        (np.zeros(7, np.int32), r"got \[7\]"),
        (np.zeros((2, 78), np.int32), "takes no batch of 2 x 78 tokens"),
        (np.zeros((2, 1), np.int32), "takes no batch of 2 x 1 tokens"),
        ([[1, 2]], "a batch is a NumPy array or an array on the GPU, got list"),
    ],
)
def test_batches_that_are_refused(batch: Any, message: str, load: Load, text_engine: Path) -> None:
    with load(text_engine) as tower, pytest.raises(InvalidInput, match=message):
        tower.run(batch)


@pytest.mark.parametrize("bad", [-1, 49408, 2**31 - 1])
@pytest.mark.parametrize("on_gpu", [False, True])
def test_ids_that_the_tower_does_not_have_never_reach_the_gpu(
    bad: int, on_gpu: bool, load: Load, text_engine: Path, small_bundle: Bundle, cuda: StandInCuda
) -> None:
    tokens = some_tokens(3)
    tokens[1, 2] = bad
    batch = OnGpu(cuda, tokens) if on_gpu else tokens
    with load(text_engine, bundle=small_bundle) as tower:
        cuda.calls.clear()
        with pytest.raises(InvalidInput, match=f"item 1: a token id is {bad}; .* 0 to 49407"):
            tower.run(batch)
        assert "cudaMemcpyAsync" not in cuda.calls


def test_a_failing_run_leaves_the_tower_usable(
    load: Load, text_engine: Path, cuda: StandInCuda, small_bundle: Bundle
) -> None:
    tokens = some_tokens(16)
    with load(text_engine, graphs=0) as tower:
        tower.run(some_tokens(1))
        (worker,) = tower._workers
        broken = worker._bound[1]
        right, broken._addresses = broken._addresses, (0, 0)
        with pytest.raises(AssertionError, match="left the memory"):
            tower.run(tokens)
        broken._addresses = right
        for _ in range(2):
            np.testing.assert_allclose(tower.run(tokens), expected(small_bundle, tokens), atol=1e-5)


def test_a_plan_with_other_profiles_than_its_manifest_is_refused(
    load: Load, small_bundle: Bundle, tmp_path: Path
) -> None:
    other = (Profile(batch=Span(1, 1, 1), length=Span(2, 77, 77)),)
    folder = write_engine(tmp_path, small_bundle, "text", plan_profiles=other)
    with pytest.raises(EngineError, match="not what its manifest says: its profiles should be"):
        load(folder)


def test_a_plan_of_another_tower_than_its_manifest_is_refused(
    load: Load, small_bundle: Bundle, tmp_path: Path
) -> None:
    image = small_bundle.file("image.fp32.onnx")
    folder = write_engine(tmp_path, small_bundle, "text", onnx=image)
    with pytest.raises(EngineError, match="its inputs and outputs should be"):
        load(folder)


def test_contexts_and_graphs_must_be_sensible(load: Load, text_engine: Path) -> None:
    with pytest.raises(ValueError, match="at least one context, got 0"):
        load(text_engine, contexts=0)
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        load(text_engine, graphs=-1)
