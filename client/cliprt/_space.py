"""Arrays of embeddings that know their space, and refuse to meet those of another one.

Two embeddings of different spaces have a cosine like any two others; nothing about the number says
that it means nothing. So every way of computing embeddings labels what it returns, and NumPy asks
here before it compares, multiplies or joins labelled arrays.

What cannot be seen: functions that make plain arrays of their arguments first (``np.asarray``,
``np.ascontiguousarray``, ``np.array([a, b])``, scipy's distances), and files of ``np.save``, which
hold numbers alone. Keep ``card.space`` beside such a file and put it back with ``Embeddings.of``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from cliprt._errors import SpaceMismatch

_SHOWN = 12
"""Digits of a space in messages."""

# Sums, and products with plain numbers: centring, scaling to length 1, the mean of some prompts.
# Everything else of NumPy's arithmetic gives numbers that are no embeddings.
_SUMS = frozenset((np.add, np.subtract, np.positive, np.negative))
_PRODUCTS = frozenset((np.multiply, np.true_divide))

# Functions that pick, copy or join rows.
_ROWS = frozenset(
    (
        np.append, np.array_split, np.atleast_2d, np.broadcast_to, np.column_stack, np.compress,
        np.concatenate, np.copy, np.delete, np.dstack, np.expand_dims, np.flip, np.flipud,
        np.hstack, np.insert, np.moveaxis, np.ravel, np.repeat, np.reshape, np.resize, np.roll,
        np.split, np.squeeze, np.stack, np.swapaxes, np.take, np.tile, np.transpose, np.vsplit,
        np.vstack, np.where,
    )
)  # fmt: skip


class Embeddings(np.ndarray[Any, np.dtype[np.float32]]):
    """Embeddings: float32 [n, dim], and the space they live in.

    An ``ndarray`` in every way. Slices, chosen rows, copies, float casts, joined arrays of one
    space and scaled or added ones keep the label; similarities, comparisons and reductions are
    plain arrays. NumPy functions that mix two spaces raise ``SpaceMismatch``; mixing with plain
    arrays is allowed. ``np.asarray`` gives a plain array of the same memory.

    Copies and pickles keep the label, files of ``np.save`` do not.

    Example:
        >>> np.save("cats.npy", cats)                      # keep client.card.space beside it
        >>> cats = Embeddings.of(np.load("cats.npy"), space)
    """

    __slots__ = ("_space",)
    _space: str

    @staticmethod
    def of(array: NDArray[np.floating[Any]], space: str) -> Embeddings:
        """Labels an array, whose memory is shared.

        Args:
            array: float32 [n, dim] or [dim]; other floats are labelled as they are.
            space: of the card of the model that computed it.

        Raises:
            TypeError: the array does not hold floats.
            SpaceMismatch: the array is already labelled with another space.
        """
        if array.dtype.kind != "f":
            raise TypeError(f"embeddings are floats, not {array.dtype}")
        same_space(array, space=space)
        return _labelled(np.asarray(array), space)

    @property
    def space(self) -> str:
        """The space, hexadecimal; empty where nothing is known, integers for instance."""
        return getattr(self, "_space", "") if self.dtype.kind == "f" else ""

    def __array_finalize__(self, source: NDArray[Any] | None) -> None:
        # Called for every view and copy.
        self._space = getattr(source, "_space", "")

    def __array_ufunc__(
        self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **kwargs: Any
    ) -> Any:
        space = same_space(*inputs, *(out or ()))
        plain = [_plain(value) for value in inputs]
        if out is not None:
            kwargs["out"] = tuple(_plain(value) for value in out)
        # A mask may be labelled as well.
        if (where := kwargs.get("where")) is not None:
            kwargs["where"] = _plain(where)
        found = getattr(ufunc, method)(*plain, **kwargs)
        if out is not None:
            return out[0] if len(out) == 1 else out
        if method == "__call__" and _stays(ufunc, inputs, found):
            return _labelled(found, space)
        return found

    def __array_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Iterable[Any],
        kwargs: Mapping[str, Any],
    ) -> Any:
        space = same_space(*_leaves((args, kwargs)))
        found = func(*_unlabelled(args), **_unlabelled(kwargs))
        if (out := kwargs.get("out")) is not None:
            return out
        # Rows of unknown origin among them would be vouched for.
        if space and func in _ROWS and not any(map(_unknown, _leaves((args, kwargs)))):
            return _relabelled(found, space)
        return found

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The plain array inside is pickled as NumPy does it, out of band where that is asked for.
        return _labelled, (np.asarray(self), self.space)

    if not TYPE_CHECKING:
        # NumPy computes these methods without asking __array_ufunc__. Types are those of ndarray.

        def __setitem__(self, key, value):
            if isinstance(value, Embeddings):
                same_space(self, value)
            super().__setitem__(_plain(key), _plain(value))

        def astype(self, dtype, *args, **kwargs):
            """A cast; floats keep the label, the rest is plain."""
            cast = np.ndarray.astype(self, dtype, *args, **kwargs)
            return cast if cast.dtype.kind == "f" else _plain(cast)

        def dot(self, other, out=None):
            """As ``np.dot``."""
            return np.dot(self, other, out)


def same_space(*values: Any, space: str = "") -> str:
    """The one space of all labelled arrays among some values; empty if none is labelled.

    Args:
        values: arrays, or anything else.
        space: one that they must have as well; empty demands none.

    Raises:
        SpaceMismatch: there are two.
    """
    for value in values:
        if isinstance(value, Embeddings) and (other := value.space) and other != space:
            if space:
                raise _mismatch(space, other)
            space = other
    return space


def _mismatch(one: str, other: str) -> SpaceMismatch:
    return SpaceMismatch(
        f"embeddings of the spaces {one[:_SHOWN]} and {other[:_SHOWN]} cannot be compared or "
        "joined: the models differ ('cliprt compare' says in what); embed both with one model, or "
        "pass np.asarray(embeddings) where the numbers alone are meant",
        spaces=(one, other),
    )


def _stays(ufunc: np.ufunc, inputs: tuple[Any, ...], found: Any) -> bool:
    """Whether what a function of elements gave are still embeddings."""
    if ufunc not in _SUMS and ufunc not in _PRODUCTS:
        return False
    labelled = [value for value in inputs if isinstance(value, Embeddings)]
    if ufunc in _PRODUCTS and len(labelled) > 1:
        return False
    # 2 * a is welcome, 1 / a is not.
    if ufunc is np.true_divide and labelled[0] is not inputs[0]:
        return False
    return (
        isinstance(found, np.ndarray)
        and found.dtype.kind == "f"
        and any(value.shape == found.shape for value in labelled)
    )


def _labelled(array: NDArray[Any], space: str) -> Embeddings:
    view = array.view(Embeddings)
    view._space = space
    return view


def _relabelled(found: Any, space: str) -> Any:
    """Labels what a function returned, also where that is a list of arrays."""
    if isinstance(found, np.ndarray):
        return _labelled(found, space) if found.dtype.kind == "f" else found
    if isinstance(found, (list, tuple)):
        return type(found)(_relabelled(value, space) for value in found)
    return found


def _plain(value: Any) -> Any:
    return value.view(np.ndarray) if isinstance(value, Embeddings) else value


def _unlabelled(value: Any) -> Any:
    """The same arguments with plain arrays, at any depth of lists."""
    if isinstance(value, Embeddings):
        return value.view(np.ndarray)
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return type(value)(_unlabelled(item) for item in value)
    if isinstance(value, dict):
        return {key: _unlabelled(item) for key, item in value.items()}
    return value


def _leaves(value: Any) -> list[Any]:
    """All arguments that are no lists, at any depth."""
    found, rest = [], [value]
    while rest:  # no recursion: a list may hold an array for each of many items
        value = rest.pop()
        if isinstance(value, (list, tuple)):
            rest.extend(reversed(value))
        elif isinstance(value, dict):
            rest.extend(reversed(value.values()))
        else:
            found.append(value)
    return found


def _unknown(value: Any) -> bool:
    """Whether it is an array that may hold embeddings and does not say whose."""
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f" or not value.ndim:
        return False
    return not (isinstance(value, Embeddings) and value.space)


_PLAIN_METHODS = ("argmax", "argmin", "argpartition", "argsort", "nonzero", "searchsorted", "trace")
"""Methods of ndarray that compute no embeddings and would keep the class."""


def _plain_method(name: str) -> Callable[..., Any]:
    method = cast("Callable[..., Any]", getattr(np.ndarray, name))

    def plain(self: Embeddings, *args: Any, **kwargs: Any) -> Any:
        same_space(self, *args, *kwargs.values())
        return method(_plain(self), *map(_plain, args), **_unlabelled(kwargs))

    plain.__name__, plain.__doc__ = name, method.__doc__
    return plain


for _name in _PLAIN_METHODS:
    setattr(Embeddings, _name, _plain_method(_name))
