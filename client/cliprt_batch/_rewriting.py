"""The rows of a finished shard as they were before it was assembled, some of them replaced."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cliprt_batch._inside import inside
from cliprt_batch._manifest import Failure, UnitRecord
from cliprt_batch._records import EMBEDDINGS, PART_ITEMS, schema
from cliprt_batch._run_config import RunConfig
from cliprt_batch._shards import embedding_column, nulls_outside, shard_files

if TYPE_CHECKING:
    import pyarrow as pa


def rows_replaced(
    folder: Path,
    config: RunConfig,
    record: UnitRecord,
    failures: Sequence[Failure],
    table: pa.Table,
) -> Iterator[pa.Table]:
    """All rows of a shard in their order, ``PART_ITEMS`` at a time.

    In the layout ``npy`` rows that are still failed have nothing but their key and the reason: it
    does not keep more of them.

    Args:
        folder: the output.
        config: of the run.
        record: of the shard.
        failures: of the shard, in the order of their places.
        table: the rows that take the place of failed ones, with the columns of ``_records.schema``.

    Raises:
        OutputError: a file of the shard is a link.
    """
    import pyarrow as pa

    replaced = table["row"].to_numpy()
    gone = set(replaced.tolist())
    kept = [failure for failure in failures if failure.row not in gone]
    read = _read_rows if config.layout == "parquet" else _read_arrays
    for start, rows in read(folder, config, record, failures):
        stop = min(start + PART_ITEMS, record.items)
        here = [failure for failure in kept if start <= failure.row < stop]
        first, last = np.searchsorted(replaced, [start, stop])
        pieces = [rows.filter(pa.array(~np.isin(rows["row"].to_numpy(), replaced)))]
        if config.layout == "npy" and here:
            pieces.append(_failed(here, rows.schema))
        pieces.append(table.slice(first, last - first))
        whole = pa.concat_tables(pieces).combine_chunks()
        yield whole.take(pa.array(np.argsort(whole["row"].to_numpy(), kind="stable")))


def _failed(failures: Sequence[Failure], columns: pa.Schema) -> pa.Table:
    import pyarrow as pa

    known = {
        "row": [failure.row for failure in failures],
        "key": [failure.key for failure in failures],
        "stage": [failure.stage for failure in failures],
        "error": [failure.reason for failure in failures],
    }
    arrays = [pa.array(known.get(f.name, [None] * len(failures)), f.type) for f in columns]
    return pa.table(arrays, schema=columns)


class _Pulled:
    """Rows of a Parquet file, as many at a time as are asked for."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        self._file = pq.ParquetFile(path)
        self._batches = self._file.iter_batches(batch_size=PART_ITEMS)
        self._held: pa.Table = self._file.schema_arrow.empty_table()

    def pull(self, count: int) -> pa.Table:
        import pyarrow as pa

        while self._held.num_rows < count:
            batch = next(self._batches, None)
            if batch is None:
                raise ValueError("the shard has fewer rows than recorded")
            self._held = pa.concat_tables([self._held, pa.Table.from_batches([batch])])
        rows, self._held = self._held.slice(0, count), self._held.slice(count)
        return rows.combine_chunks()

    def close(self) -> None:
        self._file.close()


def _read_rows(
    folder: Path, config: RunConfig, record: UnitRecord, failures: Sequence[Failure]
) -> Iterator[tuple[int, pa.Table]]:
    """The layout ``parquet``: every row is there."""
    import pyarrow as pa

    columns = schema(config.towers, config.dim, config.dtype)
    failed = {failure.row: failure for failure in failures}
    file = _Pulled(inside(folder, shard_files(config, record.number)["rows"]))
    try:
        for start in range(0, record.items, PART_ITEMS):
            places = range(start, min(start + PART_ITEMS, record.items))
            rows = file.pull(len(places))
            here = [failed.get(place) for place in places]
            known = {
                "row": pa.array(places, pa.int64()),
                "stage": pa.array([f and f.stage for f in here], pa.string()),
                "error": pa.array([f and f.reason for f in here], pa.string()),
            }
            for name in set(EMBEDDINGS.values()) & set(columns.names):
                known[name] = nulls_outside(rows[name], config.dim, config.dtype)
            arrays = [known[name] if name in known else rows[name] for name in columns.names]
            yield start, pa.table(arrays, schema=columns)
    finally:
        file.close()


def _read_arrays(
    folder: Path, config: RunConfig, record: UnitRecord, failures: Sequence[Failure]
) -> Iterator[tuple[int, pa.Table]]:
    """The layout ``npy``: rows that did not fail, at the places that no failure has."""
    import pyarrow as pa

    columns = schema(config.towers, config.dim, config.dtype)
    names = shard_files(config, record.number)
    failed = np.array([failure.row for failure in failures], np.int64)
    file = _Pulled(inside(folder, names["rows"]))
    vectors: dict[str, NDArray[Any]] = {
        EMBEDDINGS[tower]: np.load(inside(folder, names[tower]), mmap_mode="r")
        for tower in config.towers
    }
    done = 0
    try:
        for start in range(0, record.items, PART_ITEMS):
            places = np.arange(start, min(start + PART_ITEMS, record.items))
            places = places[~np.isin(places, failed)]
            rows = file.pull(len(places))
            nothing = pa.nulls(len(places), pa.string())
            known = {"row": pa.array(places), "stage": nothing, "error": nothing}
            for name, array in vectors.items():
                known[name] = embedding_column(array[done : done + len(places)], config.dtype)
            done += len(places)
            arrays = [known[name] if name in known else rows[name] for name in columns.names]
            yield start, pa.table(arrays, schema=columns)
    finally:
        file.close()
