"""What is kept of each item: one row of an Arrow table, whatever the layout of the output."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    import pyarrow as pa

Dtype: TypeAlias = Literal["float32", "float16"]

PART_ITEMS = 512
"""Items that are kept together: what a run that is killed loses of a shard at most."""

IMAGE, TEXT = "image_embedding", "text_embedding"

EMBEDDINGS = {"image": IMAGE, "text": TEXT}
"""Columns of embeddings by tower."""

METADATA = ("key", "image_path", "caption", "width", "height", "sha256")
"""Columns that both layouts keep of an item, besides its error."""


def schema(towers: tuple[str, ...], dim: int, dtype: Dtype) -> pa.Schema:
    """The columns of a part: one row for each item of it, in the order of the source.

    ``row`` is the item's place in its unit. An item that failed has ``stage`` and ``error``; what
    of it could not be embedded is null. ``width`` and ``height`` are the picture's own, ``sha256``
    is of its encoded bytes; all three are null where they are not known.

    Args:
        towers: which embeddings there are: ``image``, ``text`` or both.
        dim: length of an embedding.
        dtype: of its numbers.
    """
    import pyarrow as pa

    number = pa.float32() if dtype == "float32" else pa.float16()
    embedding = pa.list_(number, dim)
    return pa.schema(
        [
            pa.field("row", pa.int64(), nullable=False),
            pa.field("key", pa.string(), nullable=False),
            ("image_path", pa.string()),
            ("caption", pa.string()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("sha256", pa.string()),
            ("stage", pa.string()),
            ("error", pa.string()),
            *((EMBEDDINGS[tower], embedding) for tower in towers),
        ]
    )
