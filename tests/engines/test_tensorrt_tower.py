"""TensorRtTower's control flow, on the stand-ins for CUDA and TensorRT.

What a GPU answers is tested in test_on_gpu.py.
"""

from __future__ import annotations

import gc
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_stand_in import StandInCuda
from engine_folders import Load, expected, some_tokens, write_engine
from numpy.typing import NDArray
from tensorrt_stand_in import Context, Engine

from cliprt import (
    Bundle,
    ClosedError,
    DeploymentError,
    EngineError,
    EngineMismatch,
    InvalidInput,
)
from cliprt_engines._profiles import Profile, Span


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


def test_a_shape_still_runs_where_memory_for_its_graph_is_wanting(
    load: Load, text_engine: Path, small_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, refused = some_tokens(2), list[Any]()
    with load(text_engine) as tower:
        monkeypatch.setattr(Engine, "create_execution_context", lambda self, how: refused.append(1))
        for _ in range(4):
            found = tower.run(tokens)
            np.testing.assert_allclose(found, expected(small_bundle, tokens), atol=1e-5)
        assert tower.graphs == 0
    assert len(refused) == 1


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


def test_closing_after_an_error_of_a_kernel_frees_all_the_same(
    load: Load, text_engine: Path, cuda: StandInCuda
) -> None:
    tower = load(text_engine)
    for _ in range(3):
        tower.run(some_tokens(2))
    cuda.broken = True
    tower.close()
    assert not cuda.memory
    assert not cuda.live_graphs
    with pytest.raises(ClosedError):
        tower.run(some_tokens(1))


def test_an_engine_for_another_tensorrt_is_told_from_a_damaged_one(
    load: Load, text_engine: Path
) -> None:
    plan = text_engine / "engine.plan"
    plan.write_bytes(plan.read_bytes()[:-1])
    with pytest.raises(EngineError, match="its manifest vouches for") as damaged:
        load(text_engine)
    assert not isinstance(damaged.value, EngineMismatch)
    manifest = text_engine / "manifest.json"
    manifest.write_text(manifest.read_text().replace("11.0.0", "10.9.0"))
    with pytest.raises(EngineMismatch, match=r"its tensorrt is 10\.9\.0, here it is 11\.0\.0"):
        load(text_engine)


def test_a_tower_that_nobody_closed_gives_its_memory_back(
    load: Load, text_engine: Path, cuda: StandInCuda
) -> None:
    tower = load(text_engine)
    tower.run(some_tokens(2))
    assert cuda.memory
    del tower
    gc.collect()
    assert not cuda.memory


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


def test_a_failing_run_leaves_the_tower_usable(
    load: Load, text_engine: Path, cuda: StandInCuda, small_bundle: Bundle
) -> None:
    tokens = some_tokens(16)
    with load(text_engine) as tower:
        engine = tower._plan._engine
        working, runs = engine.tower, []

        class Failing:
            def run(self, batch: NDArray[Any]) -> NDArray[np.float32]:
                runs.append(len(batch))
                raise DeploymentError("the kernel of this piece fails")

        for _ in range(4):
            engine.tower = Failing()
            with pytest.raises(DeploymentError, match="of this piece fails"):
                tower.run(tokens)
            engine.tower = working
            np.testing.assert_allclose(tower.run(tokens), expected(small_bundle, tokens), atol=1e-5)
        # Both pieces were waited for, whatever became of the first.
        assert runs[:2] == [8, 8]


def test_a_refused_run_leaves_the_context_usable(
    load: Load, text_engine: Path, small_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, refused = some_tokens(2, 30), some_tokens(2, 40)
    with load(text_engine, graphs=0) as tower:
        tower.run(before)
        with monkeypatch.context() as patch:
            # The context has the new shape by then.
            patch.setattr(Context, "execute_async_v3", lambda self, stream: False)
            with pytest.raises(EngineError, match=r"cannot run .* with an input of \(2, 40\)"):
                tower.run(refused)
        for batch in (before, refused, before):
            np.testing.assert_allclose(tower.run(batch), expected(small_bundle, batch), atol=1e-5)


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


@pytest.mark.parametrize("graphs", [0, 4])
def test_tensorrt_rtx_captures_by_itself(
    graphs: int, load: Load, cuda: StandInCuda, small_bundle: Bundle, tmp_path: Path
) -> None:
    folder = write_engine(tmp_path, small_bundle, "text", flavor="tensorrt-rtx")
    tokens = some_tokens(19)
    with load(folder, graphs=graphs) as tower:
        wanted = "WHOLE_GRAPH_CAPTURE" if graphs else "DISABLED"
        assert tower._plan._engine.config.cuda_graph_strategy.name == wanted
        for _ in range(4):
            np.testing.assert_allclose(tower.run(tokens), expected(small_bundle, tokens), atol=1e-5)
        assert tower.graphs == 0
    assert "cudaStreamBeginCapture" not in cuda.calls
    assert not cuda.memory


def test_what_tensorrt_rtx_compiled_is_kept(
    load: Load, small_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPRT_HOME", str(tmp_path / "home"))
    folder = write_engine(tmp_path, small_bundle, "text", flavor="tensorrt-rtx")
    load(folder).close()
    (kept,) = (tmp_path / "home" / "rtx").iterdir()
    assert kept.read_bytes() == b"kernel " * 2
    assert kept.stat().st_mode & 0o077 == 0
    with load(folder) as tower:
        assert tower._plan._engine.config.cache.content.startswith(b"kernel " * 2)
        # What others may write to is no code to run.
        kept.chmod(0o666)
        with load(folder) as other:
            assert other._plan._engine.config.cache.content == b"kernel " * 2


def test_a_cache_that_cannot_be_written_is_no_error(
    load: Load, small_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").write_text("a file where a folder should be")
    monkeypatch.setenv("CLIPRT_HOME", str(tmp_path / "home"))
    folder = write_engine(tmp_path, small_bundle, "text", flavor="tensorrt-rtx")
    with load(folder) as tower:
        assert tower.run(some_tokens(1)).shape == (1, tower.info.dim)
