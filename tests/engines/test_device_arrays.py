"""Arrays that lie on the GPU already, and ids that must not get there, on the stand-ins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_stand_in import StandInCuda
from engine_folders import Load, expected, some_tokens, write_engine
from numpy.typing import NDArray

from cliprt import Bundle, InvalidInput
from cliprt_engines._profiles import Profile, Span


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


def test_large_batches_on_the_gpu_stay_whole(
    load: Load, small_bundle: Bundle, tmp_path: Path, cuda: StandInCuda
) -> None:
    """There is no copy from the host that half of one could overlap."""
    spec = small_bundle.card.image
    assert spec is not None
    size = (33, spec.height, spec.width, 3)
    pixels = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    folder = write_engine(
        tmp_path, small_bundle, "image", profiles=(Profile(batch=Span(1, 16, 40)),)
    )
    with load(folder) as tower:
        for _ in range(3):
            found = tower.run(OnGpu(cuda, pixels))
            np.testing.assert_allclose(found, expected(small_bundle, pixels), atol=1e-5)
        assert tower.graphs == 1


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
        ({"shape": (-2, 7)}, r"does not describe itself .*the shape is \(-2, 7\)"),
        ({"shape": (2.5, 7)}, "does not describe itself"),
        ({"shape": 7}, "does not describe itself"),
        ({"strides": (4,)}, "does not describe itself .*1 strides for 2 sizes"),
        ({"strides": 5}, "does not describe itself"),
        ({"strides": (28, "a")}, "does not describe itself"),
        ({"stream": "x"}, "does not describe itself"),
        ({"stream": -3}, "does not describe itself .*the stream is -3"),
        ({"data": None}, "does not describe itself"),
        ({"typestr": "nonsense"}, "does not describe itself"),
        ({"typestr": None}, "does not describe itself"),
        ({"typestr": ">i4"}, "takes int32 tokens, got >i4"),
        ({"typestr": "<i8"}, "takes int32 tokens, got int64"),
    ],
)
def test_arrays_on_the_gpu_that_are_refused(
    changes: dict[str, object], message: str, load: Load, text_engine: Path, cuda: StandInCuda
) -> None:
    with load(text_engine) as tower, pytest.raises(InvalidInput, match=message):
        tower.run(OnGpu(cuda, some_tokens(2), **changes))


def test_an_array_that_says_it_is_not_on_a_gpu_is_refused(load: Load, text_engine: Path) -> None:
    """As torch's on the host do."""

    class OnHost:
        @property
        def __cuda_array_interface__(self) -> dict[str, Any]:
            raise AttributeError("use tensor.cpu()")

    with load(text_engine) as tower, pytest.raises(InvalidInput, match="on a GPU|on the GPU"):
        tower.run(OnHost())


def test_an_array_elsewhere_is_refused(load: Load, text_engine: Path, cuda: StandInCuda) -> None:
    tokens = some_tokens(2)
    array = OnGpu(cuda, tokens, data=(tokens.ctypes.data, False))
    with load(text_engine) as tower, pytest.raises(InvalidInput, match="not a GPU's"):
        tower.run(array)


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
