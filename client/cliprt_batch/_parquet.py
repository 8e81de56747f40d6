"""Parquet files: one item a row, with the picture in a column or at a path in it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from cliprt._errors import InvalidInput
from cliprt._extras import require
from cliprt._json import one_line
from cliprt_batch._addresses import joined, open_stream, outside, shown, shown_name
from cliprt_batch._fields import Chosen, Wanted, choose, lacking
from cliprt_batch._items import Item, Ref, Unit

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 64
"""Rows that are in memory at a time."""

_BUFFER = 2**20

# Each is listed before any is read, and a damaged file may promise any number of rows.
_MOST_UNITS = 1_000_000


def parquet_units(address: str, wanted: Wanted, size: int) -> list[Unit]:
    """The units of a file: slices of so many rows, numbered from 0.

    Where such a slice begins within a row group, reading it decodes the rows of that group before
    it; groups that are not longer than a slice cost nothing.

    Args:
        address: the file.
        wanted: what is asked of each row.
        size: rows of a unit.

    Raises:
        InvalidInput: it is no Parquet file, or lacks a column.
    """
    stream, stamp = open_stream(address)
    with stream:
        file = _opened(stream, address)
        _columns(file, wanted, address)
        rows: int = file.metadata.num_rows
    if not 0 <= rows <= size * _MOST_UNITS:
        raise InvalidInput(
            f"{shown(address)} says that it has {rows:,} rows, which would be more than "
            f"{_MOST_UNITS:,} shards; is it damaged? If not, raise the size of shards"
        )
    slices = [(start, min(start + size, rows)) for start in range(0, rows, size)]
    return [
        Unit(number, address, stamp, end - start, start, end)
        for number, (start, end) in enumerate(slices)
    ]


def read_parquet(
    stream: io.BufferedReader, unit: Unit, name: str, base: str, wanted: Wanted, start: int
) -> Iterator[Item]:
    """The rows of a unit, from one of them on.

    Where a row group is damaged, each row from the damage to its end is an item that says so.

    Args:
        stream: the file.
        unit: whose rows they are.
        name: what the file is called in keys.
        base: the folder that relative paths start from.
        wanted: what is asked of each row.
        start: the first row of the unit that is given.
    """
    file = _opened(stream, unit.address)
    import pyarrow as pa

    chosen = _columns(file, wanted, unit.address)
    columns = list(dict.fromkeys(column for column in chosen if column is not None))
    row = unit.start + start
    group_end = 0
    for group in range(file.num_row_groups):
        first, group_end = group_end, group_end + file.metadata.row_group(group).num_rows
        end = min(group_end, unit.end)
        if row >= end:
            continue
        try:
            for batch in file.iter_batches(ROWS, row_groups=[group], columns=columns):
                skipped, first = row - first, first + batch.num_rows
                if skipped < batch.num_rows:
                    kept = batch.slice(max(0, skipped), end - row)
                    for index in range(kept.num_rows):
                        yield _item(kept, index, chosen, f"{name}/{row}", base, wanted)
                        row += 1
                if row >= end:
                    break
        # What fails on the way to the file is a DeploymentError and passes.
        except (pa.ArrowException, OSError) as error:
            why = one_line(error, 200)
        else:
            why = "it holds fewer rows than are said to be in it"
        for damaged in range(row, end):
            fault = f"row group {group} of {shown(unit.address)} is damaged: {why}"
            yield Item(f"{name}/{damaged}", fault=fault)
        row = end
    # Of a damaged file the row groups may hold fewer rows than the whole.
    for damaged in range(row, unit.end):
        fault = f"{shown(unit.address)} is damaged: no row group holds the row {damaged}"
        yield Item(f"{name}/{damaged}", fault=fault)


def _opened(stream: io.BufferedReader, address: str) -> Any:
    require("pyarrow", extra="batch")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # In pieces: a column of pictures may be larger than the memory.
        return pq.ParquetFile(
            stream, buffer_size=_BUFFER, pre_buffer=False, page_checksum_verification=True
        )
    except (pa.ArrowException, OSError) as error:
        raise InvalidInput(f"{shown(address)} is no Parquet file: {one_line(error, 200)}") from None


def _columns(file: Any, wanted: Wanted, address: str) -> Chosen:
    """The columns that are read.

    Raises:
        InvalidInput: there is none, or what was named is not there or of no type that can be used.
    """
    schema: pa.Schema = file.schema_arrow
    pictures = [field.name for field in schema if _is_picture(field.type)]
    texts = [field.name for field in schema if _is_text(field.type)]
    keys = [field.name for field in schema if _is_key(field.type)]
    chosen = choose(wanted, pictures, texts, keys)
    problem = lacking(wanted, chosen, schema.names, shown(address))
    if problem is not None:
        raise InvalidInput(problem)
    for column, usable, needed in (
        (chosen.image, pictures, "paths, bytes, or a struct with bytes or path"),
        (chosen.text, texts, "strings"),
        (chosen.key, keys, "strings or whole numbers"),
    ):
        if column is not None and column not in usable:
            raise InvalidInput(
                f"column {column!r} of {shown(address)} is of type {schema.field(column).type}, "
                f"it must hold {needed}"
            )
    return chosen


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow.types as types

    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _is_key(kind: pa.DataType) -> bool:
    import pyarrow.types as types

    return _is_text(kind) or bool(types.is_integer(kind))


def _is_picture(kind: pa.DataType) -> bool:
    import pyarrow.types as types

    if types.is_struct(kind):
        # As the datasets of Hugging Face are written.
        parts = {kind.field(index).name: kind.field(index).type for index in range(kind.num_fields)}
        return ("bytes" in parts and _is_picture(parts["bytes"])) or (
            "path" in parts and _is_text(parts["path"])
        )
    binary = types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)
    return bool(binary) or _is_text(kind)


def _item(
    batch: pa.RecordBatch, index: int, chosen: Chosen, place: str, base: str, wanted: Wanted
) -> Item:
    """A row as an item; one value at a time is copied out of the batch."""
    needs_text = "text" in wanted.towers
    try:
        picture, key = (_value(batch, index, column) for column in (chosen.image, chosen.key))
        text = _text_value(batch, index, chosen.text, needed=needs_text)
    except UnicodeDecodeError as error:
        return Item(place, fault=f"the row holds a text that is not UTF-8: {error.reason}")
    path = None
    if isinstance(picture, dict):
        name, data = picture.get("path") or None, picture.get("bytes")
        if data is not None and (key is None or key == ""):
            # Beside bytes it is what the file was called elsewhere: no place, and never opened.
            key = name
        picture = name if data is None else data
    if isinstance(picture, str):
        key = picture if key is None or key == "" else key
        path = joined(base, picture) if picture else None
        picture = None if path is None else Ref(path)
    key = shown_name(place if key is None or key == "" else str(key))
    if picture is None and (text is None or not needs_text):
        columns = (chosen.image, chosen.text if needs_text else None)
        empty = " and ".join(repr(column) for column in columns if column is not None)
        return Item(key, fault=f"the row has no value in {empty}")
    if isinstance(picture, Ref):
        refused = outside(picture.address, base)
        if refused is not None:
            return Item(key, fault=refused)
    return Item(key, picture, text, path)


def _value(batch: pa.RecordBatch, index: int, column: str | None) -> Any:
    return None if column is None else batch.column(column)[index].as_py()


def _text_value(
    batch: pa.RecordBatch, index: int, column: str | None, *, needed: bool
) -> str | None:
    try:
        text: str | None = _value(batch, index, column)
    except UnicodeDecodeError:
        # A picture does not fail for a text that is only kept beside it.
        if needed:
            raise
        return None
    return text
