"""Search in a finished folder: the items whose embeddings are nearest to a query."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliprt._errors import InvalidInput, SpaceMismatch
from cliprt._progress import progress
from cliprt._space import Embeddings, same_space
from cliprt_batch._collection import Among, Collection, Entry
from cliprt_batch._near import near_best


class Hit(Entry, frozen=True, kw_only=True):
    """An item that was found.

    Attributes:
        score: its cosine with the query.
    """

    score: float


def search(
    folder: str | Path | Collection,
    query: Embeddings,
    *,
    among: Among = "image",
    top: int = 10,
    show_progress: bool = False,
) -> list[Hit]:
    """Finds the items of a folder that are nearest to a query.

    Exact: every embedding is compared, in blocks of a few thousand. The best are ranked by products
    in float64, and of equal ones the first in the folder comes first, so that it does not matter
    whether faiss is installed.

    Args:
        folder: what ``cliprt embed`` made.
        query: floats [dim] or [1, dim], of the model that embedded the folder; it need not have
            length 1.
        among: which of the folder's embeddings are compared.
        top: how many items are wanted; there may be fewer.
        show_progress: tell on standard error how far it is.

    Returns:
        The best first.

    Raises:
        InvalidInput: the folder is none, has no such embeddings, or query or top is malformed.
        SpaceMismatch: the query is known to be of another model.
        DeploymentError: the folder is damaged.
        MissingExtra: pyarrow is not installed.
    """
    collection = folder if isinstance(folder, Collection) else Collection(folder)
    collection.require_tower(among)
    if top < 1:
        raise InvalidInput(f"top must be at least 1, got {top}")
    if space := same_space(query):
        check_space(collection, space, "the query's model")
    unit = _unit(query, collection.manifest.dim)
    rough = unit.astype(np.float32)
    scores, places = np.empty(0), np.empty(0, dtype=np.int64)
    with progress("items", range(collection.rows), show=show_progress) as advance:
        for block in collection.blocks(among):
            near = near_best(block.vectors, rough, top)
            exact = (block.vectors[near].astype(np.float64) * unit).sum(axis=1)
            scores = np.concatenate([scores, exact])
            places = np.concatenate([places, block.places[near]])
            best = np.lexsort((places, -scores))[:top]
            scores, places = scores[best], places[best]
            advance(len(block.places))
    entries = collection.entries(places)
    return [
        Hit(score=float(score), **{name: getattr(entry, name) for name in entry.__struct_fields__})
        for score, entry in zip(scores, entries, strict=True)
    ]


def joined(*queries: Embeddings) -> Embeddings:
    """One query of several, a text and a picture for instance: the sum of their unit vectors.

    Its cosine with an item ranks as the mean of the cosines of all queries does.

    Args:
        queries: floats [dim] or [1, dim] each, of one space.

    Raises:
        InvalidInput: they point in opposite directions, or one has no direction.
        SpaceMismatch: they are of two models.
    """
    total = np.sum([_unit(query, query.shape[-1]) for query in queries], axis=0)
    # NumPy asks whether all are of one space.
    space = np.concatenate([query.reshape(1, -1) for query in queries]).space
    return Embeddings.of(_unit(total, len(total)).astype(np.float32), space)


def check_space(collection: Collection, space: str, model: str) -> None:
    """Sees that a model embeds into the space of a folder.

    Args:
        collection: the folder.
        space: of the model's card.
        model: what messages call it.

    Raises:
        SpaceMismatch: it does not.
    """
    manifest = collection.manifest
    if space != manifest.space:
        raise SpaceMismatch(
            f"{collection.folder} was embedded by {manifest.model} (space {manifest.space[:12]}) "
            f"and {model} has another space ({space[:12]}), so their embeddings cannot be "
            f"compared; search with the bundle or server of {manifest.model}, or embed the source "
            "again with this one ('cliprt compare' says in what two models differ)",
            spaces=(manifest.space, space),
        )


def _unit(query: NDArray[np.floating[Any]], dim: int) -> NDArray[np.float64]:
    vector = np.asarray(query, dtype=np.float64)
    if vector.shape not in ((dim,), (1, dim)):
        raise InvalidInput(
            f"a query is one embedding of {dim} numbers, got an array {list(vector.shape)}"
        )
    vector = vector.reshape(dim)
    length = np.linalg.norm(vector)
    if not np.isfinite(length) or length < 1e-6:
        raise InvalidInput("a query needs a direction; this one is zero or not finite")
    return vector / length
