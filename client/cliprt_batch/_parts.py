"""Parts of a unit on the disk: an Arrow stream, and behind it what its bytes hash to."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np

from cliprt_batch._items import Stage
from cliprt_batch._manifest import Failure
from cliprt_batch._records import IMAGE, TEXT

if TYPE_CHECKING:
    import pyarrow as pa

# Readers of Arrow streams stop at the end mark and do not see this.
_MARK = b"\ncliprt part 1\n"
_TRAILER = len(_MARK) + hashlib.sha256().digest_size


def encoded(table: pa.Table) -> tuple[pa.Buffer, bytes]:
    """A table as the two pieces of a file: the stream and the trailer."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    stream = sink.getvalue()
    return stream, _MARK + hashlib.sha256(stream).digest()


def read_part(path: Path, schema: pa.Schema) -> pa.Table | None:
    """A part, or None if the file is torn, damaged, or of another schema.

    Raises:
        OSError: it cannot be read.
    """
    import pyarrow as pa

    content = pa.py_buffer(path.read_bytes())
    if content.size <= _TRAILER:
        return None
    stream = content.slice(0, content.size - _TRAILER)
    trailer = content.slice(content.size - _TRAILER).to_pybytes()
    if trailer != _MARK + hashlib.sha256(stream).digest():
        return None
    table = pa.ipc.open_stream(stream).read_all()
    return table if table.schema.equals(schema) and table.num_rows else None


def check_rows(table: pa.Table, schema: pa.Schema) -> None:
    """That a table is one that can be kept: whole rows, good or failed, in order.

    Raises:
        ValueError: it is not; whoever made it has to be mended.
    """
    if not table.schema.equals(schema):
        raise ValueError(f"the table has the columns {table.schema}, not {schema}")
    if not table.num_rows:
        raise ValueError("the table has no rows")
    if table["row"].null_count or table["key"].null_count:
        raise ValueError("a row has no place or no key")
    places = table["row"].to_numpy()
    if places[0] < 0 or (np.diff(places) <= 0).any():
        raise ValueError("the rows are not in the order of their places")
    good = valid(table, "stage", null=True)
    if (good != valid(table, "error", null=True)).any():
        raise ValueError("a row has a stage without an error, or an error without a stage")
    if not set(table["stage"].unique().to_pylist()) <= {None, *get_args(Stage)}:
        raise ValueError("a row failed at an unknown stage")
    for name in {IMAGE, TEXT} & set(table.column_names):
        if (good & valid(table, name, null=True)).any():
            raise ValueError(f"a row that did not fail has no {name}")


def valid(
    table: pa.Table, column: str, *, null: bool = False
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which rows of a column hold something, or, with ``null``, which hold nothing."""
    chosen = table[column].is_null() if null else table[column].is_valid()
    mask: np.ndarray[tuple[int], np.dtype[np.bool_]] = chosen.to_numpy()
    return mask


def failures_of(unit: int, table: pa.Table) -> list[Failure]:
    """The rows of a unit that failed."""
    import pyarrow as pa

    failed = table.filter(pa.array(valid(table, "stage")))
    columns = (failed[name].to_pylist() for name in ("key", "row", "stage", "error"))
    return [
        Failure(key, unit, row, stage, why) for key, row, stage, why in zip(*columns, strict=True)
    ]
