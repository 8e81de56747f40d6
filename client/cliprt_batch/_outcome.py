"""A part under way: what became of its items so far, and the table that is kept of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from cliprt._errors import InvalidInput
from cliprt_batch._decode_process import Seen
from cliprt_batch._encoders import Text
from cliprt_batch._items import Item, Ref, Stage
from cliprt_batch._records import EMBEDDINGS, Dtype, schema
from cliprt_batch._shards import embedding_column

if TYPE_CHECKING:
    import pyarrow as pa


class Part:
    """Items of a unit, and what became of them so far. Pictures are not kept.

    Attributes:
        captions: by the item's place in the part, those that are to be embedded.
    """

    def __init__(self, towers: tuple[str, ...], dim: int) -> None:
        """Begins without items.

        Args:
            towers: which embeddings are wanted.
            dim: length of an embedding.
        """
        self.captions: dict[int, str] = {}
        self._towers, self._dim = towers, dim
        self._rows: list[int] = []
        self._items: list[Item] = []
        self._seen: dict[int, Seen] = {}
        self._found: dict[str, dict[int, NDArray[np.float32]]] = {tower: {} for tower in towers}
        self._failed: dict[int, list[tuple[Stage, str]]] = {}
        self._done: set[int] = set()

    def add(self, rows: Sequence[int], items: Sequence[Item]) -> dict[int, Ref | bytes]:
        """Adds items.

        Args:
            rows: their places in the unit.
            items: the items.

        Returns:
            By the item's place in the part, the pictures that are to be embedded.
        """
        pictures = {}
        for row, item in zip(rows, items, strict=True):
            place = len(self._items)
            self._rows.append(row)
            self._items.append(msgspec.structs.replace(item, image=None))
            if item.fault is not None:
                self._fail(place, "source", item.fault)
                continue
            if "image" in self._towers:
                if item.image is None:
                    self._fail(place, "source", "the item has no picture")
                else:
                    pictures[place] = item.image
            if "text" in self._towers:
                if item.caption is None:
                    self._fail(place, "source", "the item has no caption")
                else:
                    self.captions[place] = item.caption
        return pictures

    def take_pictures(
        self, places: Sequence[int], seen: Sequence[Seen], embeddings: NDArray[np.float32]
    ) -> tuple[int, int]:
        """Keeps what became of pictures.

        Args:
            places: of the items.
            seen: what became of each picture.
            embeddings: float32 [m, dim], of those that could be decoded.

        Returns:
            How many items more are done, and how many of these failed.
        """
        rows = iter(embeddings)
        for place, one in zip(places, seen, strict=True):
            self._seen[place] = one
            if one.stage is None:
                self._found["image"][place] = next(rows)
            else:
                self._fail(place, one.stage, one.reason or "")
        # With captions to come, nothing is done yet.
        return (0, 0) if "text" in self._towers else self._tell(places)

    def take_captions(self, places: Sequence[int], texts: Sequence[Text]) -> tuple[int, int]:
        """Keeps what became of captions; returns as ``take_pictures``."""
        for place, text in zip(places, texts, strict=True):
            if isinstance(text, InvalidInput):
                self._fail(place, "text", text.reason)
            else:
                self._found["text"][place] = text
        return self._tell(places)

    def told(self) -> tuple[int, int]:
        """How many items have not been told of as done, and how many of these failed."""
        return self._tell([place for place in range(len(self._items)) if place not in self._done])

    def readings(self) -> Iterator[tuple[str, str | None]]:
        """By key, in order, why a picture could not be read; None where it could.

        Items that have no picture to read are left out.
        """
        for place, seen in sorted(self._seen.items()):
            yield self._items[place].key, (seen.reason or "") if seen.stage == "read" else None

    def table(self, dtype: Dtype) -> pa.Table:
        """The rows of ``_records.schema``."""
        import pyarrow as pa

        count = range(len(self._items))
        seen = [self._seen.get(place, Seen()) for place in count]
        failed = [self._failed.get(place) for place in count]
        columns = {
            "row": list(self._rows),
            "key": [item.key for item in self._items],
            "image_path": [item.path for item in self._items],
            "caption": [_storable(item.caption) for item in self._items],
            "width": [one.width for one in seen],
            "height": [one.height for one in seen],
            "sha256": [one.sha256 for one in seen],
            # Of two reasons the first one met is the one to mend first.
            "stage": [reasons[0][0] if reasons else None for reasons in failed],
            "error": [
                "; ".join(each[1] for each in reasons) if reasons else None for reasons in failed
            ],
        }
        wanted = schema(self._towers, self._dim, dtype)
        arrays = {
            name: pa.array(values, wanted.field(name).type) for name, values in columns.items()
        }
        for tower in self._towers:
            arrays[EMBEDDINGS[tower]] = self._embeddings(tower, dtype)
        return pa.Table.from_arrays([arrays[name] for name in wanted.names], schema=wanted)

    def _embeddings(self, tower: str, dtype: Dtype) -> pa.Array:
        found = self._found[tower]
        values = np.zeros((len(self._items), self._dim), np.dtype(dtype))
        missing = np.ones(len(self._items), bool)
        for place, embedding in found.items():
            values[place] = embedding
            missing[place] = False
        return embedding_column(values, dtype, missing=missing)

    def _tell(self, places: Sequence[int]) -> tuple[int, int]:
        self._done.update(places)
        return len(places), sum(place in self._failed for place in places)

    def _fail(self, place: int, stage: Stage, reason: str) -> None:
        self._failed.setdefault(place, []).append((stage, reason))


def _storable(text: str | None) -> str | None:
    """A text as Arrow can keep it: lone surrogates, which no encoder takes, become U+FFFD."""
    return (
        None if text is None else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    )
