"""Arrays of embeddings know their space: what keeps it, what loses it, and what is refused."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays, basic_indices
from numpy.typing import NDArray

from cliprt import Embeddings, InvalidInput, SpaceMismatch
from cliprt._zero_shot import probabilities

ONE, OTHER = "1" * 64, "abcdef" + "0" * 58

floats = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, max_side=6),
    elements=st.floats(-1, 1, width=32),
)


def rows(count: int = 3, dim: int = 4, space: str = ONE) -> Embeddings:
    numbers = np.random.default_rng(count).standard_normal((count, dim))
    return Embeddings.of(numbers.astype(np.float32), space)


def is_plain(value: object) -> bool:
    return not isinstance(value, Embeddings)


# What mixes two arrays, by the name that a failure shows.
MIXING: dict[str, Callable[[Any, Any], Any]] = {
    "matmul": lambda a, b: a @ b.T,
    "matmul of plain transposed": lambda a, b: np.matmul(a, b.T),
    "dot": lambda a, b: np.dot(a, b.T),
    "dot method": lambda a, b: a.dot(b.T),
    "inner": np.inner,
    "outer": np.outer,
    "vdot": np.vdot,
    "tensordot": lambda a, b: np.tensordot(a, b, axes=([1], [1])),
    "einsum": lambda a, b: np.einsum("id,jd->ij", a, b),
    "kron": np.kron,
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "equal": lambda a, b: a == b,
    "maximum": np.maximum,
    "add at": lambda a, b: np.add.at(a, slice(None), b),
    "in place": lambda a, b: a.__iadd__(b),
    "out": lambda a, b: np.negative(a, out=b),
    "concatenate": lambda a, b: np.concatenate([a, b]),
    "concatenate three": lambda a, b: np.concatenate((a, np.asarray(a), b)),
    "stack": lambda a, b: np.stack([a, b]),
    "vstack": lambda a, b: np.vstack([a, b]),
    "hstack": lambda a, b: np.hstack([a, b]),
    "append": lambda a, b: np.append(a, b, axis=0),
    "block": lambda a, b: np.block([[a], [b]]),
    "where": lambda a, b: np.where(np.ones((3, 1), bool), a, b),
    "insert": lambda a, b: np.insert(a, 0, b[0], axis=0),
    "copyto": np.copyto,
    "assignment": lambda a, b: a.__setitem__(0, b[0]),
    "allclose": np.allclose,
    "array_equal": np.array_equal,
    "corrcoef": np.corrcoef,
    "norm of difference": lambda a, b: np.linalg.norm(a - b),
    "searchsorted": lambda a, b: a[0].searchsorted(b[0]),
    "a slice of it": lambda a, b: a[:1] @ b[1:2].T,
    "a copy of it": lambda a, b: a @ copy.deepcopy(b).T,
    "in float64": lambda a, b: a.astype(np.float64) @ b.astype(np.float64).T,
    "normalised": lambda a, b: (a / np.linalg.norm(a, axis=1, keepdims=True)) @ b.T,
    "probabilities": lambda a, b: probabilities(a, b, 10.0),
}

KEEPING: dict[str, Callable[[Any], Any]] = {
    "slice": lambda e: e[1:],
    "row": lambda e: e[0],
    "chosen rows": lambda e: e[[2, 0]],
    "mask": lambda e: e[np.array([True, False, True])],
    "copy": lambda e: e.copy(),
    "copy.copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda e: pickle.loads(pickle.dumps(e)),
    "old pickle": lambda e: pickle.loads(pickle.dumps(e, protocol=2)),
    "float64": lambda e: e.astype(np.float64),
    "float16": lambda e: e.astype(np.float16),
    "transposed": lambda e: e.T,
    "take": lambda e: np.take(e, [0, 1], axis=0),
    "take method": lambda e: e.take([0, 1], axis=0),
    "concatenate": lambda e: np.concatenate([e, e]),
    "vstack": lambda e: np.vstack((e, e[0])),
    "append": lambda e: np.append(e, e, axis=0),
    "split": lambda e: np.split(e, 3)[1],
    "scaled": lambda e: 2 * e,
    "normalised": lambda e: e / np.linalg.norm(e, axis=1, keepdims=True),
    "centred": lambda e: e - e.mean(axis=0),
    "mean of two": lambda e: (e + e) / 2,
    "in place": lambda e: e.__itruediv__(2.0),
}

LOSING: dict[str, Callable[[Any], Any]] = {
    "asarray": np.asarray,
    "ascontiguousarray": lambda e: np.ascontiguousarray(e.T),
    "similarity": lambda e: e @ e.T,
    "similarity to plain": lambda e: np.asarray(e) @ e.T,
    "dot method": lambda e: e.dot(e.T),
    "product": lambda e: e * e,
    "reciprocal": lambda e: 1 / e,
    "comparison": lambda e: e > 0,
    "sum": lambda e: e.sum(axis=1),
    "mean": lambda e: e.mean(axis=0),
    "std": lambda e: e.std(axis=0),
    "max": lambda e: np.max(e, axis=0),
    "norm": lambda e: np.linalg.norm(e, axis=1),
    "argmax": lambda e: e.argmax(axis=1),
    "argsort": lambda e: np.argsort(e),
    "argpartition method": lambda e: e.argpartition(1, axis=1),
    "integers": lambda e: e.astype(np.int8),
    "einsum": lambda e: np.einsum("id,jd->ij", e, e),
    "zeros_like": np.zeros_like,
    "joined with unknown": lambda e: np.concatenate([e, np.asarray(e)]),
    "number": lambda e: e[0, 0],
    "svd": lambda e: np.linalg.svd(e)[0],
}


@pytest.mark.parametrize("mix", MIXING.values(), ids=MIXING)
def test_two_spaces_do_not_mix(mix: Callable[[Any, Any], Any]) -> None:
    with pytest.raises(SpaceMismatch, match=r"spaces 111111111111 and abcdef000000 .*embed both"):
        mix(rows(), rows(space=OTHER))


@pytest.mark.parametrize("mix", MIXING.values(), ids=MIXING)
def test_one_space_and_plain_arrays_mix(mix: Callable[[Any, Any], Any]) -> None:
    expected = mix(np.asarray(rows()).copy(), np.asarray(rows()).copy())
    for one, other in ((rows(), rows()), (rows(), np.array(rows())), (np.array(rows()), rows())):
        found = mix(one, other)
        np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


@pytest.mark.parametrize("keep", KEEPING.values(), ids=KEEPING)
def test_what_is_still_an_embedding_keeps_its_space(keep: Callable[[Any], Any]) -> None:
    expected = keep(np.array(rows()))
    found = keep(rows())
    assert isinstance(found, Embeddings)
    assert (found.space, found.dtype) == (ONE, expected.dtype)
    np.testing.assert_array_equal(np.asarray(found), expected)


@pytest.mark.parametrize("lose", LOSING.values(), ids=LOSING)
def test_what_is_no_embedding_is_plain(lose: Callable[[Any], Any]) -> None:
    found = lose(rows())
    assert is_plain(found)
    np.testing.assert_array_equal(found, lose(np.array(rows())))


@given(floats, st.data())
def test_any_selection_of_rows_keeps_space_and_numbers(
    numbers: NDArray[np.float32], data: st.DataObject
) -> None:
    index = data.draw(basic_indices(numbers.shape, allow_newaxis=True))
    found = Embeddings.of(numbers, ONE)[index]
    np.testing.assert_array_equal(np.asarray(found), numbers[index])
    if isinstance(found, np.ndarray):
        assert isinstance(found, Embeddings)
        assert found.space == ONE


@given(floats, floats)
def test_similarities_are_those_of_plain_arrays(
    one: NDArray[np.float32], other: NDArray[np.float32]
) -> None:
    dim = min(one.shape[1], other.shape[1])
    one, other = one[:, :dim], other[:, :dim]
    found = Embeddings.of(one, ONE) @ Embeddings.of(other, ONE).T
    assert is_plain(found)
    np.testing.assert_array_equal(found, one @ other.T)
    with pytest.raises(SpaceMismatch):
        Embeddings.of(one, ONE) @ Embeddings.of(other, OTHER).T


@given(floats, st.sampled_from([2, 3, 4, 5]))
def test_pickles_of_every_protocol_keep_all(numbers: NDArray[np.float32], protocol: int) -> None:
    buffers: list[pickle.PickleBuffer] = []
    out_of_band = buffers.append if protocol == 5 else None
    data = pickle.dumps(Embeddings.of(numbers, ONE), protocol=protocol, buffer_callback=out_of_band)
    found = pickle.loads(data, buffers=buffers)
    assert found.space == ONE
    np.testing.assert_array_equal(np.asarray(found), numbers)


def _space_and_sum(embeddings: Embeddings) -> tuple[str, float]:
    return embeddings.space, float(embeddings.sum())


def test_other_processes_get_the_space() -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        (found,) = pool.map(_space_and_sum, [rows()])
    assert found == (ONE, float(rows().sum()))


def test_files_of_numpy_lose_it_and_it_can_be_put_back(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", rows())
    loaded = np.load(tmp_path / "rows.npy")
    assert is_plain(loaded)
    assert Embeddings.of(loaded, ONE).space == ONE


def test_what_takes_memory_takes_theirs() -> None:
    found = rows()
    plain = np.asarray(found)
    assert type(plain) is np.ndarray
    assert np.shares_memory(plain, found)
    assert memoryview(found).shape == (3, 4)
    assert found.__array_interface__["data"] == plain.__array_interface__["data"]
    assert np.frombuffer(found, dtype=np.float32).tolist() == plain.ravel().tolist()
    assert np.from_dlpack(found).tolist() == plain.tolist()
    assert found.tobytes() == plain.tobytes()


def test_it_is_where_the_input_is_at_fault() -> None:
    with pytest.raises(InvalidInput) as caught:
        rows() @ rows(space=OTHER).T
    assert caught.value.spaces == (ONE, OTHER)  # type: ignore[attr-defined]
    assert pickle.loads(pickle.dumps(caught.value)).spaces == (ONE, OTHER)


def test_only_floats_of_one_space_are_labelled() -> None:
    with pytest.raises(TypeError, match="embeddings are floats, not int64"):
        Embeddings.of(np.zeros((1, 2), np.int64), ONE)  # type: ignore[arg-type]
    with pytest.raises(SpaceMismatch):
        Embeddings.of(rows(), OTHER)
    assert Embeddings.of(rows(), ONE).space == ONE


def test_bytes_of_embeddings_have_no_space() -> None:
    assert rows().view(np.uint8).space == ""
