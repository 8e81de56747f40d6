"""A finished folder of embeddings, read in blocks that fit any memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from cliprt._errors import DeploymentError, InvalidInput
from cliprt._extras import require
from cliprt_batch._inside import inside
from cliprt_batch._manifest import UnitRecord, read_manifest
from cliprt_batch._records import EMBEDDINGS, METADATA

if TYPE_CHECKING:
    import pyarrow.parquet as pq

Among: TypeAlias = Literal["image", "text"]

BLOCK_ROWS = 8192
"""Most embeddings that are read at once: 32 MiB of them where they have 1,024 numbers."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One embedded item of a folder, as its metadata describe it.

    Attributes:
        shard: number of the shard that it lies in.
        row: its row there, from 0 on.
        key: its name in the source.
        image_path: the picture's place; None where it has none of its own.
        caption: its text, or None.
        width: of the picture in pixels, or None where it is not known.
        height: likewise.
        sha256: of the encoded picture, hexadecimal, or None.
    """

    shard: int
    row: int
    key: str
    image_path: str | None = None
    caption: str | None = None
    width: int | None = None
    height: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Block:
    """Some embeddings that follow each other.

    Attributes:
        places: int64 [n], ascending: where each one lies among all rows of all shards.
        vectors: float32 [n, dim].
    """

    places: NDArray[np.int64]
    vectors: NDArray[np.float32]


class Collection:
    """A finished folder. A place is a row counted through all shards, in their order."""

    def __init__(self, folder: str | Path) -> None:
        """Opens a folder, and sees that its files are there and as long as its manifest says.

        Raises:
            OutputUnfinished: the job has not been carried to its end.
            DeploymentError: there is no such folder, its manifest cannot be read, or a file is
                missing, of another size, or a link.
            MissingExtra: pyarrow is not installed.
        """
        require("pyarrow.parquet", extra="batch")
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        shards = self.manifest.shards
        for shard in shards:
            for name, file in shard.files.items():
                self._check(name, file.bytes)
        rows = [self._rows(shard) for shard in shards]
        self._ends = np.cumsum([0, *rows], dtype=np.int64)

    @property
    def rows(self) -> int:
        """How many places there are; in the layout parquet items that failed have one, too."""
        return int(self._ends[-1])

    def require_tower(self, tower: Among) -> None:
        """Sees that there are embeddings of this kind.

        Raises:
            InvalidInput: there are none.
        """
        if tower not in self.manifest.towers:
            raise InvalidInput(
                f"{self.folder} has no {tower} embeddings, only those of: "
                f"{', '.join(self.manifest.towers)}; embed its source again with "
                f"'cliprt embed --what both' (or --what {tower})"
            )

    def blocks(self, tower: Among, start: int = 0) -> Iterator[Block]:
        """Reads all embeddings of one kind, at most BLOCK_ROWS at once.

        Args:
            tower: which ones.
            start: the place to begin at.

        Raises:
            DeploymentError: a shard does not hold what the manifest says.
        """
        for number, shard in enumerate(self.manifest.shards):
            first = int(self._ends[number])
            skipped = max(0, start - first)
            if skipped >= self._rows(shard):
                continue
            read = self._of_npy if self.manifest.layout == "npy" else self._of_parquet
            for rows, vectors in read(shard, tower, skipped):
                if len(rows):
                    yield Block(rows + first, vectors)

    def entries(self, places: Sequence[int] | NDArray[np.int64]) -> list[Entry]:
        """What the metadata say of some places, in the order of these."""
        wanted = np.asarray(places, dtype=np.int64)
        order = np.argsort(wanted, kind="stable")
        owners = np.searchsorted(self._ends, wanted[order], side="right") - 1
        found: dict[int, Entry] = {}
        for number in np.unique(owners):
            rows = wanted[order][owners == number] - self._ends[number]
            for row, entry in self._entries(self.manifest.shards[number], np.unique(rows)):
                found[int(self._ends[number]) + row] = entry
        return [found[int(place)] for place in wanted]

    def column(self, name: str) -> Iterator[tuple[int, Any]]:
        """Reads a column of the metadata, and which rows failed.

        Yields:
            The place of the first row, and an Arrow record batch of the columns ``name`` and
            ``error``.
        """
        for number, shard in enumerate(self.manifest.shards):
            first = int(self._ends[number])
            with self._metadata(shard) as file:
                for batch in file.iter_batches(BLOCK_ROWS, columns=[name, "error"]):
                    yield first, batch
                    first += len(batch)

    def _rows(self, shard: UnitRecord) -> int:
        return shard.embedded if self.manifest.layout == "npy" else shard.items

    def _check(self, name: str, size: int) -> None:
        file = inside(self.folder, name)
        try:
            found = file.stat().st_size
        except OSError as error:
            raise DeploymentError(
                f"{file} cannot be read: {error.strerror}; the manifest names it: copy the whole "
                "folder, or embed the source again"
            ) from None
        if found != size:
            raise DeploymentError(
                f"{file} has {found:,} bytes, its manifest says {size:,}: it is damaged or was "
                "changed; copy it again, or embed the source again"
            )

    def _file(self, shard: UnitRecord, kind: str) -> Path:
        for name in shard.files:
            if name.startswith(f"{kind}/"):
                return self.folder / name
        raise DeploymentError(
            f"{self.folder}: the manifest names no file of {kind} for shard {shard.number}"
        )

    def _of_npy(
        self, shard: UnitRecord, tower: Among, start: int
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        file = self._file(shard, "img_emb" if tower == "image" else "text_emb")
        try:
            stored = np.load(file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DeploymentError(f"{file} is no array that can be read: {error}") from None
        expected = (shard.embedded, self.manifest.dim)
        if stored.shape != expected or stored.dtype != self.manifest.dtype:
            raise DeploymentError(
                f"{file} holds {stored.dtype} {list(stored.shape)}, its manifest says "
                f"{self.manifest.dtype} {list(expected)}"
            )
        for at in range(start, shard.embedded, BLOCK_ROWS):
            piece = stored[at : at + BLOCK_ROWS]
            yield np.arange(at, at + len(piece)), np.ascontiguousarray(piece, dtype=np.float32)

    def _of_parquet(
        self, shard: UnitRecord, tower: Among, start: int
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        name = EMBEDDINGS[tower]
        with self._metadata(shard) as file:
            groups, at = _groups_from(file, start)
            for batch in file.iter_batches(BLOCK_ROWS, row_groups=groups, columns=[name, "error"]):
                # An item that failed is left out, as in the other layout.
                good = batch.column("error").is_null()
                rows = np.flatnonzero(good.to_numpy(zero_copy_only=False)) + at
                at += len(batch)
                numbers = batch.column(name).filter(good).flatten()
                if len(numbers) != len(rows) * self.manifest.dim or numbers.null_count:
                    raise DeploymentError(
                        f"{self._file(shard, 'embeddings')}: not every item that did not fail has "
                        f"an {name} of {self.manifest.dim} numbers, as the manifest says"
                    )
                dense = numbers.to_numpy(zero_copy_only=False).reshape(len(rows), -1)
                kept = rows >= start
                yield rows[kept], np.ascontiguousarray(dense[kept], dtype=np.float32)

    def _metadata(self, shard: UnitRecord) -> pq.ParquetFile:
        import pyarrow as pa
        import pyarrow.parquet as pq

        kind = "metadata" if self.manifest.layout == "npy" else "embeddings"
        path = self._file(shard, kind)
        try:
            file = pq.ParquetFile(path, memory_map=True)
        except (OSError, pa.ArrowInvalid) as error:
            raise DeploymentError(f"{path} is no Parquet file that can be read: {error}") from None
        if file.metadata.num_rows != self._rows(shard):
            raise DeploymentError(
                f"{path} has {file.metadata.num_rows:,} rows, its manifest says "
                f"{self._rows(shard):,}"
            )
        return file

    def _entries(self, shard: UnitRecord, rows: NDArray[np.int64]) -> Iterator[tuple[int, Entry]]:
        with self._metadata(shard) as file:
            begin = 0
            for group in range(file.metadata.num_row_groups):
                end = begin + file.metadata.row_group(group).num_rows
                here = rows[(begin <= rows) & (rows < end)]
                if len(here):
                    table = file.read_row_group(group, columns=[*METADATA]).take(here - begin)
                    for row, values in zip(here, table.to_pylist(), strict=True):
                        yield int(row), Entry(shard=shard.number, row=int(row), **values)
                begin = end


def _groups_from(file: pq.ParquetFile, start: int) -> tuple[list[int], int]:
    """The row groups that hold rows from ``start`` on, and the first row of these."""
    begin = 0
    for group in range(file.metadata.num_row_groups):
        end = begin + file.metadata.row_group(group).num_rows
        if end > start:
            return list(range(group, file.metadata.num_row_groups)), begin
        begin = end
    return [], begin
