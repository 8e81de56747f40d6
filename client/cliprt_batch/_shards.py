"""Rows into the files of a shard, in both layouts, a part at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cliprt_batch._disk import FileRecord, Sink
from cliprt_batch._manifest import Failure, UnitRecord
from cliprt_batch._parts import valid
from cliprt_batch._records import EMBEDDINGS, METADATA, Dtype
from cliprt_batch._run_config import RunConfig

if TYPE_CHECKING:
    import pyarrow as pa

Made: TypeAlias = dict[str, tuple[Path, FileRecord]]
"""New files by the path that they are to have: where they lie now, and what they hold."""
_NPY = {"image": "img_emb", "text": "text_emb"}

# Rows of a row group. All are of this length but the last, whatever the parts were, so that the
# bytes do not depend on them; 2,048 rows of 1,024 numbers are 8 MiB.
ROW_GROUP = 2048


def shard_files(config: RunConfig, unit: int) -> dict[str, str]:
    """Paths of a shard's files relative to the output, by what they hold."""
    if config.layout == "parquet":
        return {"rows": f"embeddings/embeddings_{unit:06d}.parquet"}
    vectors = {
        tower: f"{_NPY[tower]}/{_NPY[tower]}_{unit:06d}.npy"
        for tower in _NPY
        if tower in config.towers
    }
    return {**vectors, "rows": f"metadata/metadata_{unit:06d}.parquet"}


def write_shard(
    config: RunConfig,
    unit: int,
    tables: Iterable[pa.Table],
    embedded: int,
    new_file: Callable[[], Sink],
) -> Made:
    """Writes the files of a shard under temporary names. If that fails, none is left.

    Args:
        config: of the run.
        unit: number of the shard.
        tables: its rows in their order, with the columns of ``_records.schema``.
        embedded: how many of them did not fail.
        new_file: opens a temporary file.

    Returns:
        Where each file lies now and what it holds, by its path relative to the output.

    Raises:
        OSError: they cannot be written.
    """
    names = shard_files(config, unit)
    sinks: dict[str, Sink] = {}
    try:
        for kind in names:
            sinks[kind] = new_file()
        if config.layout == "parquet":
            _write_rows(config, tables, sinks["rows"])
        else:
            _write_arrays(config, tables, embedded, sinks)
        return {names[kind]: (sink.path, sink.finish()) for kind, sink in sinks.items()}
    except BaseException:
        for sink in sinks.values():
            sink.discard()
        raise


def record_of(unit: int, items: int, failures: Sequence[Failure], made: Made) -> UnitRecord:
    """What is recorded of a shard.

    Args:
        unit: its number.
        items: how many it has.
        failures: those of them that failed.
        made: its files.
    """
    counts = Counter(failure.stage for failure in failures)
    return UnitRecord(
        number=unit,
        items=items,
        embedded=items - len(failures),
        failed={stage: counts[stage] for stage in sorted(counts)},
        files={name: made[name][1] for name in sorted(made)},
    )


def numbers_of(column: pa.ChunkedArray | pa.Array, dim: int) -> NDArray[Any]:
    """Embeddings of a column without nulls as an array [rows, dim]."""
    chunks = getattr(column, "chunks", [column])
    arrays = [chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, dim) for chunk in chunks]
    return np.concatenate(arrays) if arrays else np.zeros((0, dim))


def embedding_column(
    numbers: NDArray[Any], dtype: Dtype, *, missing: NDArray[np.bool_] | None = None
) -> pa.Array:
    """Embeddings as a column of ``_records.schema``; numbers are rounded as numpy does.

    Args:
        numbers: [rows, dim].
        dtype: of the column.
        missing: [rows], the rows that are null.
    """
    import pyarrow as pa

    flat = np.ascontiguousarray(numbers, dtype=dtype).reshape(-1)
    mask = None if missing is None else pa.array(missing)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), numbers.shape[1], mask=mask)


class _Rows(Protocol):
    def write_table(self, table: pa.Table, row_group_size: int) -> None:
        """Writes row groups."""


class _RowGroups:
    """Collects rows until a row group is full."""

    def __init__(self, writer: _Rows) -> None:
        self._writer = writer
        self._held: list[pa.Table] = []

    def add(self, table: pa.Table) -> None:
        import pyarrow as pa

        self._held.append(table)
        while sum(held.num_rows for held in self._held) >= ROW_GROUP:
            rows = pa.concat_tables(self._held)
            self._write(rows.slice(0, ROW_GROUP))
            self._held = [rows.slice(ROW_GROUP)]

    def end(self) -> None:
        import pyarrow as pa

        rows = pa.concat_tables(self._held) if self._held else None
        if rows is not None and rows.num_rows:
            self._write(rows)

    def _write(self, rows: pa.Table) -> None:
        # In one chunk: the pages of a column are cut anew at each.
        self._writer.write_table(rows.combine_chunks(), row_group_size=ROW_GROUP)


def _write_table(schema: pa.Schema, tables: Iterable[pa.Table], sink: Sink) -> None:
    """Writes Parquet that depends on the rows and on the version of pyarrow alone."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetWriter(
        pa.PythonFile(sink, mode="w"),
        schema,
        version="2.6",
        compression="zstd",
        compression_level=1,
        # Numbers of embeddings and keys do not come twice.
        use_dictionary=["width", "height", "error"],
        write_statistics=[*METADATA, "error"],
    ) as writer:
        groups = _RowGroups(writer)
        for table in tables:
            groups.add(table)
        groups.end()


def _metadata_fields() -> list[tuple[str, pa.DataType]]:
    import pyarrow as pa

    number, text = pa.int32(), pa.string()
    types = {"width": number, "height": number}
    return [(name, types.get(name, text)) for name in (*METADATA, "error")]


def _write_rows(config: RunConfig, tables: Iterable[pa.Table], sink: Sink) -> None:
    """The layout ``parquet``: all rows, failed ones too, with their embeddings."""
    import pyarrow as pa

    number = pa.float32() if config.dtype == "float32" else pa.float16()
    names = [EMBEDDINGS[tower] for tower in EMBEDDINGS if tower in config.towers]
    vectors = [(name, pa.list_(number, config.dim)) for name in names]
    schema = pa.schema([*_metadata_fields(), *vectors])

    def rows(table: pa.Table) -> pa.Table:
        columns = [table[name] for name in METADATA]
        columns.append(_in_one(table["stage"], table["error"]))
        columns += [_nulls_inside(table[name], config.dim, config.dtype) for name in names]
        return pa.table(columns, schema=schema)

    _write_table(schema, map(rows, tables), sink)


def _in_one(stage: pa.ChunkedArray, error: pa.ChunkedArray) -> pa.Array:
    """``STAGE: reason``, null where nothing failed."""
    import pyarrow as pa

    pairs = zip(stage.to_pylist(), error.to_pylist(), strict=True)
    return pa.array([None if s is None else f"{s}: {e}" for s, e in pairs], pa.string())


def _nulls_inside(column: pa.ChunkedArray, dim: int, dtype: Dtype) -> pa.Array:
    """The same with rows of nulls for null rows.

    pyarrow can neither write null rows of fixed-size lists to Parquet nor read them
    (github.com/apache/arrow/issues/35697 and 35692). Lists of any length could be null, but readers
    that index vectors want to know their length.
    """
    import pyarrow as pa

    present = column.is_valid().to_numpy()
    numbers = np.zeros((len(column), dim), dtype)
    numbers[present] = numbers_of(column.drop_null(), dim)
    mask = None if present.all() else np.repeat(~present, dim)
    return pa.FixedSizeListArray.from_arrays(pa.array(numbers.reshape(-1), mask=mask), dim)


def nulls_outside(column: pa.ChunkedArray, dim: int, dtype: Dtype) -> pa.Array:
    """What ``_nulls_inside`` made, as it was: a row is null if its numbers are."""
    import pyarrow as pa

    if not len(column):
        return pa.array([], column.type)
    flat = pa.concat_arrays([chunk.flatten() for chunk in column.chunks])
    missing = flat.is_null().to_numpy(zero_copy_only=False).reshape(-1, dim)[:, 0]
    # Nulls come as NaN; they lie under the mask.
    numbers = flat.to_numpy(zero_copy_only=False)
    return embedding_column(numbers.reshape(-1, dim), dtype, missing=missing)


def _write_arrays(
    config: RunConfig, tables: Iterable[pa.Table], embedded: int, sinks: dict[str, Sink]
) -> None:
    """The layout ``npy``: rows that did not fail, in arrays and metadata of equal length."""
    import pyarrow as pa

    schema = pa.schema(_metadata_fields())
    towers = [tower for tower in EMBEDDINGS if tower in config.towers]
    descr = np.dtype(config.dtype).newbyteorder("<").str
    for tower in towers:
        header = {"descr": descr, "fortran_order": False, "shape": (embedded, config.dim)}
        np.lib.format.write_array_header_1_0(sinks[tower], header)  # type: ignore[no-untyped-call]

    def rows(table: pa.Table) -> pa.Table:
        good = table.filter(pa.array(valid(table, "stage", null=True)))
        for tower in towers:
            numbers = numbers_of(good[EMBEDDINGS[tower]], config.dim).astype(descr, copy=False)
            sinks[tower].write(numbers.tobytes())
        columns = [good[name] for name in METADATA]
        return pa.table([*columns, pa.nulls(good.num_rows, pa.string())], schema=schema)

    _write_table(schema, map(rows, tables), sinks["rows"])
