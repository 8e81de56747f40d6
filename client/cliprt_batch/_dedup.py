"""Near-identical pictures of a finished folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from cliprt._errors import InvalidInput
from cliprt._progress import progress
from cliprt_batch._collection import Block, Collection, Entry
from cliprt_batch._groups import Groups
from cliprt_batch._near import faiss_at_hand, hold, margin

HELD_ROWS = 32768
"""Embeddings that all later ones are compared with in one reading of the folder."""

STRIP_ROWS = 256
"""Embeddings that are compared with them at once: 8 million products, 32 MiB."""

MOST = 3_000_000
"""Pictures beyond which a comparison of all pairs is refused unless asked for: about half a day."""

# Cosines of float32 embeddings are known no better.
_ROUNDING = 1e-6

# Pairs that are computed in float64 at once.
_EXACT_ROWS = 8192

_MILLION = 1_000_000


class Member(Entry, frozen=True, kw_only=True):
    """A picture of a group.

    Attributes:
        nearest: the greatest cosine with another picture of its group, to four digits.
        exact: whether its file has the same bytes as one that comes before it in the group.
    """

    nearest: float
    exact: bool


class Group(msgspec.Struct, frozen=True):
    """Pictures that are near-identical, each to at least one other.

    Attributes:
        representative: the one to keep: the largest in pixels, of equal ones the first.
        duplicates: the others, in the order of the folder.
    """

    representative: Member
    duplicates: list[Member]


def near_duplicates(
    folder: str | Path | Collection,
    threshold: float = 0.98,
    *,
    most: int = MOST,
    show_progress: bool = False,
) -> list[Group]:
    """Groups pictures whose embeddings are nearly the same.

    Two pictures belong together if their cosine is at least the threshold, or their files have the
    same bytes; a group is what such pairs connect, so that two pictures of it may be less alike.
    All pairs are compared exactly: the time grows with the square of the number of pictures. The
    memory does not: some 500 MB where an embedding has 512 numbers, some 200 bytes for each
    picture, and what is returned. What is found does not depend on whether faiss is installed.

    Args:
        folder: what ``cliprt embed`` made, with image embeddings.
        threshold: least cosine, above 0 and at most 1; it is compared to six digits.
        most: pictures beyond which it is refused.
        show_progress: tell on standard error how far it is.

    Returns:
        The groups in the order of their first pictures.

    Raises:
        InvalidInput: the folder is none, has no image embeddings or too many, or the threshold is
            none.
        DeploymentError: the folder is damaged.
        MissingExtra: pyarrow is not installed.
    """
    collection = folder if isinstance(folder, Collection) else Collection(folder)
    collection.require_tower("image")
    if not 0 < threshold <= 1:
        raise InvalidInput(
            f"the threshold is a cosine above 0 and at most 1, got {threshold:g}; near-identical "
            "pictures have 0.95 and more"
        )
    same, single = _same_bytes(collection)
    count = int(single.sum())
    if count > most:
        raise InvalidInput(
            f"{collection.folder} has {count:,} different pictures, and all pairs would be "
            f"{count * (count - 1) // 2:,}; more than {most:,} pictures are compared only if you "
            f"raise the limit (--limit {count})" + _faster()
        )
    groups, nearest = Groups(collection.rows), np.zeros(collection.rows, dtype=np.float32)
    groups.join(*same)
    for members in same:
        nearest[members] = 1.0
    for ones, others, cosines in _near_pairs(
        collection, single, threshold, show_progress=show_progress
    ):
        np.maximum.at(nearest, ones, cosines)
        np.maximum.at(nearest, others, cosines)
        groups.join(ones, others)
    return list(_described(collection, groups, nearest))


def seconds_for(count: int, dim: int) -> float:
    """How long the pairs of so many pictures take here, from a measured sample of 8 million."""
    random = np.random.default_rng(0)
    vectors = _unit(random.standard_normal((HELD_ROWS, dim), dtype=np.float32))
    held, strip = hold(vectors), vectors[:STRIP_ROWS]
    held.near(strip, 0.99)
    begun = time.perf_counter()
    held.near(strip, 0.99)
    each = (time.perf_counter() - begun) / (HELD_ROWS * STRIP_ROWS)
    return each * count * (count + HELD_ROWS) / 2


def _faster() -> str:
    return "" if faiss_at_hand() else "; it is faster with: pip install 'cliprt[faiss]'"


def _same_bytes(
    collection: Collection,
) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64]], NDArray[np.bool_]]:
    """Pairs of files with the same bytes, and of which places the embeddings are compared.

    Those are the places of good items; of files with the same bytes the first.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    pieces, single = [], np.zeros(collection.rows, dtype=np.bool_)
    for first, batch in collection.column("sha256"):
        good = batch.column("error").is_null()
        single[first : first + len(batch)] = good.to_numpy(zero_copy_only=False)
        digests = pc.if_else(good, batch.column("sha256"), pa.scalar(None, pa.string()))
        pieces.append(digests.cast(pa.large_string()))
    if not pieces:
        return (np.empty(0, np.int64), np.empty(0, np.int64)), single
    # Equal strings get equal numbers, counted as they first occur.
    numbers = pa.concat_arrays(pieces).dictionary_encode().indices
    known = np.flatnonzero(numbers.is_valid().to_numpy(zero_copy_only=False))
    codes = numbers.drop_null().to_numpy(zero_copy_only=False)
    _, firsts = np.unique(codes, return_index=True)
    of_each = known[firsts[codes]]
    again = of_each != known
    single[known[again]] = False
    return (of_each[again], known[again]), single


def _near_pairs(
    collection: Collection,
    single: NDArray[np.bool_],
    threshold: float,
    *,
    show_progress: bool,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]]:
    """Pairs of places and their cosines, a strip at a time."""
    count, slack = int(single.sum()), margin(collection.manifest.dim)
    pairs = sum(min(HELD_ROWS, count - at) * (count - at) for at in range(0, count, HELD_ROWS))
    millions = range(-(-pairs // _MILLION))
    with progress("million comparisons", millions, show=show_progress) as advance:
        tell = _in_millions(advance)
        for mine in _held(_singles(collection.blocks("image"), single)):
            held = hold(mine.vectors)
            for block in _singles(collection.blocks("image", int(mine.places[0])), single):
                for at in range(0, len(block.places), STRIP_ROWS):
                    strip = block.vectors[at : at + STRIP_ROWS]
                    other, own, cosines = held.near(strip, threshold - slack)
                    ones, others = mine.places[own], block.places[at + other]
                    kept = ones < others
                    kept[kept] = _surely(
                        mine.vectors, own[kept], strip, other[kept], cosines[kept], threshold
                    )
                    if kept.any():
                        yield ones[kept], others[kept], cosines[kept]
                    tell(len(mine.places) * len(strip))


def _in_millions(advance: Callable[[int], None]) -> Callable[[int], None]:
    done = 0

    def tell(pairs: int) -> None:
        nonlocal done
        before, done = -(-done // _MILLION), done + pairs
        advance(-(-done // _MILLION) - before)

    return tell


def _surely(
    mine: NDArray[np.float32],
    own: NDArray[np.int64],
    strip: NDArray[np.float32],
    other: NDArray[np.int64],
    cosines: NDArray[np.float32],
    threshold: float,
) -> NDArray[np.bool_]:
    """Which pairs reach the threshold; where rounding could decide, computed in float64."""
    sure = cosines >= threshold
    doubtful = np.flatnonzero(np.abs(cosines - threshold) <= margin(mine.shape[1]) + _ROUNDING)
    for at in range(0, len(doubtful), _EXACT_ROWS):
        some = doubtful[at : at + _EXACT_ROWS]
        one, another = mine[own[some]].astype(np.float64), strip[other[some]].astype(np.float64)
        lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(another, axis=1)
        sure[some] = (one * another).sum(axis=1) >= (threshold - _ROUNDING) * lengths
    return sure


def _singles(blocks: Iterator[Block], single: NDArray[np.bool_]) -> Iterator[Block]:
    """Unit vectors of the places that are compared."""
    for block in blocks:
        kept = single[block.places]
        if kept.any():
            yield Block(block.places[kept], _unit(block.vectors[kept]))


def _held(blocks: Iterator[Block]) -> Iterator[Block]:
    """The same in blocks of HELD_ROWS; the last one may be shorter."""
    rest = Block(np.empty(0, np.int64), np.empty((0, 0), np.float32))
    for block in blocks:
        if len(rest.places):
            block = Block(
                np.concatenate([rest.places, block.places]),
                np.concatenate([rest.vectors, block.vectors]),
            )
        rest = block
        while len(rest.places) >= HELD_ROWS:
            yield Block(rest.places[:HELD_ROWS], rest.vectors[:HELD_ROWS])
            rest = Block(rest.places[HELD_ROWS:], rest.vectors[HELD_ROWS:])
    if len(rest.places):
        yield rest


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of length 1: those of float16 files are off by what these round."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: NDArray[np.float32] = vectors / np.maximum(lengths, np.float32(1e-12))
    return unit


def _described(
    collection: Collection, groups: Groups, nearest: NDArray[np.float32]
) -> Iterator[Group]:
    places, roots = groups.shared()
    entries = collection.entries(places)
    by_root: dict[int, list[tuple[Entry, float]]] = {}
    for place, root, entry in zip(places, roots, entries, strict=True):
        by_root.setdefault(int(root), []).append((entry, round(float(nearest[place]), 4)))
    for found in by_root.values():
        # max() takes the first of equal ones.
        best, best_nearest = max(found, key=lambda pair: _pixels(pair[0]))
        seen, duplicates = {best.sha256}, []
        for entry, cosine in found:
            if entry is not best:
                exact = entry.sha256 is not None and entry.sha256 in seen
                duplicates.append(_member(entry, cosine, exact=exact))
                seen.add(entry.sha256)
        yield Group(_member(best, best_nearest, exact=False), duplicates)


def _member(entry: Entry, nearest: float, *, exact: bool) -> Member:
    fields = {name: getattr(entry, name) for name in entry.__struct_fields__}
    return Member(**fields, nearest=min(nearest, 1.0), exact=exact)


def _pixels(entry: Entry) -> int:
    return (entry.width or 0) * (entry.height or 0)
