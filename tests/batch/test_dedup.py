"""Near-identical pictures: the same as comparing every pair, with and without faiss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from embedded_folders import random_units, unit, write_folder
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cliprt import InvalidInput
from cliprt_batch import _collection, _dedup, _near
from cliprt_batch._dedup import Group, near_duplicates, seconds_for
from cliprt_batch._groups import Groups


@pytest.fixture(params=["faiss", "numpy"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "numpy":
        monkeypatch.setattr(_near, "faiss_at_hand", lambda: None)
    return str(request.param)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_collection, "BLOCK_ROWS", 13)
    monkeypatch.setattr(_dedup, "HELD_ROWS", 31)
    monkeypatch.setattr(_dedup, "STRIP_ROWS", 5)


def keys(groups: list[Group]) -> list[list[str]]:
    return [[one.representative.key, *(d.key for d in one.duplicates)] for one in groups]


def components(vectors: NDArray[np.float32], threshold: float) -> list[list[str]]:
    """By comparing every pair, and walking from each to all that are near."""
    exact = vectors.astype(np.float64)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    near = exact @ exact.T >= threshold
    seen: set[int] = set()
    found = []
    for first in range(len(vectors)):
        if first in seen:
            continue
        group, rest = {first}, [first]
        while rest:
            new = set(np.flatnonzero(near[rest.pop()]).tolist()) - group
            group |= new
            rest += new
        seen |= group
        if len(group) > 1:
            found.append([f"item-{row}" for row in sorted(group)])
    return found


def clusters(count: int = 150, seed: int = 3) -> NDArray[np.float32]:
    """Some pictures alone, some in clouds, some in chains."""
    random = np.random.default_rng(seed)
    centres = random_units(count // 3, seed=seed)
    chosen = centres[random.integers(0, len(centres), count)]
    return unit(chosen + 0.05 * random.standard_normal(chosen.shape))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("layout", ["npy", "parquet"])
@pytest.mark.parametrize("threshold", [0.9, 0.95, 0.97])
def test_groups_are_those_of_all_pairs(
    tmp_path: Path, layout: str, dtype: str, threshold: float, backend: str
) -> None:
    vectors = clusters()
    write_folder(tmp_path, image=vectors, layout=layout, dtype=dtype, cuts=(40, 41, 110))
    expected = components(vectors.astype(dtype).astype(np.float32), threshold)
    assert len(expected) > 1
    assert keys(near_duplicates(tmp_path, threshold)) == expected


def test_a_chain_is_one_group(tmp_path: Path, backend: str) -> None:
    angles = np.arange(40)[:, None] * np.deg2rad(5)
    vectors = np.hstack([np.cos(angles), np.sin(angles)]).astype(np.float32)
    write_folder(tmp_path, image=vectors[::-1])
    (group,) = near_duplicates(tmp_path, 0.99)
    assert len(group.duplicates) == 39
    assert {one.nearest for one in group.duplicates} == {0.9962}


def test_equal_embeddings_reach_a_threshold_of_one(tmp_path: Path, backend: str) -> None:
    vectors = random_units(30, 512)
    write_folder(tmp_path, image=vectors[np.r_[0:30, 7]])
    assert keys(near_duplicates(tmp_path, 1.0)) == [["item-7", "item-30"]]


@pytest.mark.parametrize(("apart", "found"), [(-3e-6, 0), (-5e-7, 1), (5e-7, 1)])
def test_cosines_are_compared_to_six_digits(
    tmp_path: Path, apart: float, found: int, backend: str
) -> None:
    angle = np.arccos(0.98 + apart)
    vectors = np.zeros((2, 512))
    vectors[0, :8] = 1 / np.sqrt(8)
    vectors[1] = np.cos(angle) * vectors[0]
    vectors[1, 8:] += np.sin(angle) / np.sqrt(504)
    write_folder(tmp_path, image=vectors.astype(np.float32))
    assert len(near_duplicates(tmp_path, 0.98)) == found


def test_thousands_of_equal_pictures_are_one_group_in_no_time(tmp_path: Path, backend: str) -> None:
    """Eight million pairs, which would take minutes and gigabytes one by one."""
    write_folder(tmp_path, image=np.repeat(random_units(1, 4), 4000, axis=0))
    (group,) = near_duplicates(tmp_path)
    assert len(group.duplicates) == 3999


@pytest.mark.parametrize("layout", ["npy", "parquet"])
def test_files_of_the_same_bytes_are_named_as_such(tmp_path: Path, layout: str) -> None:
    vectors = random_units(6)
    vectors[4] = vectors[1] = vectors[2]
    hashes = ["a0", "a1", "a2", None, "a2", "a0"]
    write_folder(tmp_path, image=vectors, layout=layout, cuts=(3,), columns={"sha256": hashes})
    groups = near_duplicates(tmp_path)
    # 0 and 5 have other embeddings here, so that nothing but the bytes joins them.
    assert keys(groups) == [["item-0", "item-5"], ["item-1", "item-2", "item-4"]]
    assert [d.exact for d in groups[0].duplicates] == [True]
    # 1 is kept, to which no file is equal; 4 equals 2.
    assert [d.exact for d in groups[1].duplicates] == [False, True]
    assert {one.nearest for group in groups for one in group.duplicates} == {1.0}


def test_failed_items_are_no_duplicates(tmp_path: Path) -> None:
    same = np.repeat(random_units(1), 5, axis=0)
    hashes = ["a0"] * 5
    write_folder(tmp_path, image=same, layout="parquet", failed=(0, 3), columns={"sha256": hashes})
    assert keys(near_duplicates(tmp_path)) == [["item-1", "item-2", "item-4"]]


def test_the_largest_picture_is_kept_then_the_first(tmp_path: Path) -> None:
    same = np.repeat(random_units(2), 3, axis=0)
    sizes = {"width": [10, 20, None, 5, 5, 5], "height": [10, 20, None, 5, 5, 5]}
    write_folder(tmp_path, image=same, columns=sizes)
    assert keys(near_duplicates(tmp_path)) == [
        ["item-1", "item-0", "item-2"],
        ["item-3", "item-4", "item-5"],
    ]


def test_no_duplicates_in_an_empty_folder(tmp_path: Path) -> None:
    write_folder(tmp_path, image=np.empty((0, 4), np.float32))
    assert near_duplicates(tmp_path) == []


@pytest.mark.usefixtures("small_blocks")
def test_never_more_than_a_strip_is_compared_with_what_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []

    def watched(vectors: NDArray[np.float32]) -> _near.Held:
        class Watched:
            def near(
                self, others: NDArray[np.float32], least: float
            ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
                seen.append((len(vectors), len(others)))
                return _near.hold(vectors).near(others, least)

        return Watched()

    monkeypatch.setattr(_dedup, "hold", watched)
    write_folder(tmp_path, image=clusters())
    near_duplicates(tmp_path, 0.9)
    assert max(held for held, _ in seen) == 31
    assert max(strip for _, strip in seen) == 5
    # Each with itself and all that follow: 31 * (150 + 119 + 88 + 57) + 26 * 26.
    assert sum(held * strip for held, strip in seen) == 13_510


def test_too_many_pictures_are_refused_with_the_way_out(tmp_path: Path) -> None:
    write_folder(tmp_path, image=random_units(11))
    with pytest.raises(InvalidInput, match=r"11 different pictures.*55; .*--limit 11"):
        near_duplicates(tmp_path, most=10)


def test_without_faiss_the_refusal_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path, image=random_units(11))
    monkeypatch.setattr(_dedup, "faiss_at_hand", lambda: None)
    with pytest.raises(InvalidInput, match=r"pip install 'cliprt\[faiss\]'"):
        near_duplicates(tmp_path, most=10)


@pytest.mark.parametrize("threshold", [0.0, -0.5, 1.01, float("nan")])
def test_a_threshold_that_is_no_cosine_above_zero(tmp_path: Path, threshold: float) -> None:
    write_folder(tmp_path, image=random_units(3))
    with pytest.raises(InvalidInput, match="threshold"):
        near_duplicates(tmp_path, threshold)


def test_a_folder_of_texts_has_no_pictures(tmp_path: Path) -> None:
    write_folder(tmp_path, text=random_units(3))
    with pytest.raises(InvalidInput, match="no image embeddings"):
        near_duplicates(tmp_path)


@pytest.mark.usefixtures("small_blocks")
def test_progress_ends_where_it_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_dedup, "_MILLION", 1000)
    write_folder(tmp_path, image=clusters(), cuts=(70,))
    near_duplicates(tmp_path, show_progress=True)
    assert capsys.readouterr().err.startswith("14 of 14 million comparisons")


def test_the_time_is_estimated_by_the_square() -> None:
    few, many = seconds_for(1000, 8), seconds_for(1_000_000, 8)
    assert few * 1000 < many


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=80), st.integers(1, 9))
def test_pairs_become_groups(pairs: list[tuple[int, int]], at_once: int) -> None:
    groups, sets = Groups(31), [{number} for number in range(31)]
    for one, other in pairs:
        both = sets[one] | sets[other]
        for number in both:
            sets[number] = both
    for at in range(0, len(pairs), at_once):
        ones, others = np.array(pairs[at : at + at_once], dtype=np.int64).T
        groups.join(ones, others)
    members, roots = groups.shared()
    expected = [(number, min(sets[number])) for number in range(31) if len(sets[number]) > 1]
    assert list(zip(members.tolist(), roots.tolist(), strict=True)) == expected
