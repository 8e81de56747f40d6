"""Large batches are computed in two pieces so that copies overlap, on the stand-ins.

The twin on a GPU is in test_on_gpu.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cuda_stand_in import StandInCuda
from engine_folders import Load, expected, some_tokens, write_engine
from numpy.typing import NDArray

from cliprt import Bundle
from cliprt_engines._profiles import Profile, Span

LARGE = (Profile(batch=Span(1, 16, 40)), Profile(batch=Span(1, 1, 2)))


def some_pixels(bundle: Bundle, rows: int, seed: int) -> NDArray[np.uint8]:
    spec = bundle.card.image
    assert spec is not None
    size = (rows, spec.height, spec.width, 3)
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


@pytest.mark.parametrize("overlap", [True, False])
def test_half_of_a_large_batch_is_copied_while_the_other_is_computed(
    overlap: bool, load: Load, small_bundle: Bundle, tmp_path: Path, cuda: StandInCuda
) -> None:
    folder = write_engine(tmp_path, small_bundle, "image", profiles=LARGE)
    pixels = some_pixels(small_bundle, 32, 0)
    with load(folder, graphs=0, overlap=overlap) as tower:
        cuda.calls.clear()
        tower.run(pixels)
    wanted = ("cudaMemcpyAsync", "cudaStreamSynchronize")
    order = [call for call in cuda.calls if call in wanted]
    ups_and_downs = 4 if overlap else 2
    assert order[: ups_and_downs + 1] == ["cudaMemcpyAsync"] * ups_and_downs + [wanted[1]]


def test_large_batches_that_alternate_get_their_own_answers(
    load: Load, small_bundle: Bundle, tmp_path: Path
) -> None:
    folder = write_engine(tmp_path, small_bundle, "image", profiles=LARGE)
    batches = [some_pixels(small_bundle, rows, seed) for seed, rows in enumerate((33, 33, 40, 2))]
    wanted = [expected(small_bundle, batch) for batch in batches]
    with load(folder) as tower:
        for _ in range(3):
            for batch, answers in zip(batches, wanted, strict=True):
                np.testing.assert_allclose(tower.run(batch), answers, atol=1e-5)
        # 16 and 17 for the first two, 16 and 24 for the third: one on the first lane serves all.
        assert tower.graphs == 4


def test_tokens_are_not_cut_to_overlap(load: Load, small_bundle: Bundle, tmp_path: Path) -> None:
    profiles = (Profile(batch=Span(1, 16, 40), length=Span(2, 16, 16)),)
    folder = write_engine(tmp_path, small_bundle, "text", profiles=profiles)
    with load(folder) as tower:
        for _ in range(3):
            tower.run(some_tokens(40))
        assert tower.graphs == 1
