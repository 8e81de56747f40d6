"""What is nearest to a query: exact, and the same with and without faiss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from embedded_folders import MODEL, SPACE, random_units, unit, write_folder
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from cliprt import Embeddings, InvalidInput, SpaceMismatch
from cliprt_batch import _collection, _near
from cliprt_batch._near import near_best
from cliprt_batch._search import joined, search


@pytest.fixture(params=["faiss", "numpy"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "numpy":
        monkeypatch.setattr(_near, "faiss_at_hand", lambda: None)
    return str(request.param)


def query(seed: int = 99, dim: int = 16) -> Embeddings:
    return Embeddings.of(random_units(1, dim, seed), SPACE)


def places(vectors: NDArray[Any], asked: NDArray[Any], top: int) -> list[str]:
    """Every product in float64, sorted; equal ones in their order."""
    scores = vectors.astype(np.float64) @ np.asarray(asked, np.float64).ravel()
    return [f"item-{row}" for row in np.argsort(-scores, kind="stable")[:top]]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("layout", ["npy", "parquet"])
def test_it_finds_what_comparing_with_each_finds(
    tmp_path: Path, layout: str, dtype: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_collection, "BLOCK_ROWS", 64)
    vectors = random_units(500)
    write_folder(tmp_path, image=vectors, layout=layout, dtype=dtype, cuts=(130, 131, 400))
    hits = search(tmp_path, query(), top=12)
    assert [hit.key for hit in hits] == places(vectors.astype(dtype), query(), 12)
    expected = [float(vectors[int(hit.key[5:])] @ np.asarray(query())[0]) for hit in hits]
    assert [hit.score for hit in hits] == pytest.approx(expected, abs=1e-3)


def test_of_equal_ones_the_first_come_first(
    tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_collection, "BLOCK_ROWS", 128)
    vectors = np.repeat(random_units(2), 200, axis=0)
    write_folder(tmp_path, image=vectors, cuts=(150, 310))
    keys = [hit.key for hit in search(tmp_path, Embeddings.of(vectors[300:301], SPACE), top=30)]
    assert keys == [f"item-{row}" for row in range(200, 230)]


def test_faiss_is_asked_where_it_is_installed() -> None:
    assert _near.faiss_at_hand() is not None
    # More than the few that are needed: only NumPy answers so.
    vectors = np.repeat(random_units(1), 100, axis=0)
    assert len(near_best(vectors, vectors[0], 1)) == 100
    vectors = random_units(1000)
    assert len(near_best(vectors, vectors[0], 1)) == 17


few_values = arrays.arrays(
    np.float32, (60, 3), elements=st.sampled_from([-1.0, -0.5, 0.25, 1.0]), fill=st.nothing()
)


@given(few_values, st.integers(1, 70))
def test_the_best_are_always_among_those_that_may_be(values: NDArray[np.float32], top: int) -> None:
    vectors = unit(values)
    asked = vectors[0]
    exact = vectors.astype(np.float64) @ asked.astype(np.float64)
    best = set(np.argsort(-exact, kind="stable")[:top])
    assert best <= set(near_best(vectors, asked, top).tolist())


def test_there_may_be_fewer_than_wanted(tmp_path: Path) -> None:
    write_folder(tmp_path, image=random_units(5), layout="parquet", failed=(2,))
    assert len(search(tmp_path, query(), top=10)) == 4


def test_captions_are_searched_among_texts(tmp_path: Path) -> None:
    images, texts = random_units(40), random_units(40, seed=1)
    write_folder(tmp_path, image=images, text=texts)
    hits = search(tmp_path, query(), among="text", top=3)
    assert [hit.key for hit in hits] == places(texts, query(), 3)


def test_a_hit_tells_all_of_its_item(tmp_path: Path) -> None:
    columns = {
        "key": ["a"], "image_path": ["/p/a.jpg"], "caption": ["a cat"], "width": [3],
        "height": [2], "sha256": ["ab" * 32],
    }  # fmt: skip
    write_folder(tmp_path, image=np.asarray(query()), columns=columns)
    (hit,) = search(tmp_path, query())
    assert (hit.shard, hit.row, hit.key, hit.image_path) == (0, 0, "a", "/p/a.jpg")
    assert (hit.caption, hit.width, hit.height, hit.sha256) == ("a cat", 3, 2, "ab" * 32)
    assert hit.score == pytest.approx(1.0)


def test_a_query_of_another_space_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, image=random_units(5))
    with pytest.raises(SpaceMismatch, match="embed the source again") as caught:
        search(tmp_path, Embeddings.of(random_units(1), "b0" * 32))
    assert caught.value.spaces == (SPACE, "b0" * 32)
    assert MODEL in str(caught.value)


def test_a_query_without_a_label_is_taken(tmp_path: Path) -> None:
    vectors = random_units(5)
    write_folder(tmp_path, image=vectors)
    assert search(tmp_path, vectors[3], top=1)[0].key == "item-3"  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [1e-3, 1e3])
def test_the_length_of_a_query_does_not_matter(tmp_path: Path, length: float) -> None:
    write_folder(tmp_path, image=random_units(50))
    scores = [hit.score for hit in search(tmp_path, query() * np.float32(length))]
    assert scores == pytest.approx([hit.score for hit in search(tmp_path, query())], abs=1e-6)


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (np.ones((1, 15), np.float32), "16 numbers"),
        (np.ones((2, 16), np.float32), "16 numbers"),
        (np.zeros((1, 16), np.float32), "direction"),
        (np.full((1, 16), np.nan, np.float32), "direction"),
    ],
)
def test_a_malformed_query(tmp_path: Path, asked: NDArray[np.float32], reason: str) -> None:
    write_folder(tmp_path, image=random_units(5))
    with pytest.raises(InvalidInput, match=reason):
        search(tmp_path, Embeddings.of(asked, SPACE))


def test_no_items_cannot_be_wanted(tmp_path: Path) -> None:
    write_folder(tmp_path, image=random_units(5))
    with pytest.raises(InvalidInput, match="top must be at least 1, got 0"):
        search(tmp_path, query(), top=0)


def test_two_queries_rank_as_the_mean_of_their_cosines(tmp_path: Path) -> None:
    vectors, one, other = random_units(80), query(1), query(2)
    write_folder(tmp_path, image=vectors)
    mean = (vectors @ np.asarray(one)[0] + vectors @ np.asarray(other)[0]) / 2
    expected = [f"item-{row}" for row in np.argsort(-mean)[:5]]
    # However long they are.
    both = joined(one, other * np.float32(7))
    assert [hit.key for hit in search(tmp_path, both, top=5)] == expected
    assert both.space == SPACE


def test_queries_of_two_models_are_not_joined() -> None:
    with pytest.raises(SpaceMismatch):
        joined(query(), Embeddings.of(random_units(1), "b0" * 32))


def test_opposite_queries_are_refused() -> None:
    with pytest.raises(InvalidInput, match="direction"):
        joined(query(), -query())
