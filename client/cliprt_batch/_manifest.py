"""What a finished run says of itself: ``manifest.json``, and of each shard."""

from __future__ import annotations

from pathlib import Path

import msgspec

from cliprt._json import UnreadableJson, read_json
from cliprt_batch._disk import FileRecord, digest_of
from cliprt_batch._inside import check_inside, inside
from cliprt_batch._items import Stage
from cliprt_batch._output_errors import OutputError, OutputUnfinished
from cliprt_batch._records import Dtype
from cliprt_batch._run_config import FOLDER, RUN, Layout, Option, RunConfig

MANIFEST, FAILURES = "manifest.json", "failures.jsonl"
VERSION = 1

# Beyond every output, and small enough for sums of them to be counted with.
_MOST_ITEMS, _MOST_NUMBERS = 2**40, 2**20


class Failure(msgspec.Struct, frozen=True):
    """An item that could not be embedded: one line of ``failures.jsonl``.

    Attributes:
        key: its name in the source.
        shard: number of its shard.
        row: its place among the items of the shard, those that failed counted too.
        stage: where it failed.
        reason: why.
    """

    key: str
    shard: int
    row: int
    stage: Stage
    reason: str


class Versioned(msgspec.Struct):
    """What every version of a record has."""

    version: int


class UnitRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A shard that is done.

    Attributes:
        number: of the shard, and of the unit of the source.
        items: how many the unit holds.
        embedded: how many of them have every embedding that was asked for.
        failed: how many failed, by stage.
        files: what its files hold, by path relative to the output.
    """

    number: int
    items: int
    embedded: int
    failed: dict[str, int]
    files: dict[str, FileRecord]

    def __post_init__(self) -> None:
        if self.number < 0 or not 0 <= self.embedded <= self.items <= _MOST_ITEMS:
            raise ValueError("its counts do not add up")
        for name in self.files:
            check_inside(name)


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A finished output. The same bytes however the run went.

    Attributes:
        version: of this file.
        model: name of the model.
        space: its embedding space, hexadecimal.
        dim: length of an embedding.
        dtype: of the numbers.
        layout: of the shards.
        towers: which embeddings there are.
        source: what was embedded.
        shard_size: items of a shard, where the source did not decide.
        options: whatever else decided the bytes.
        plan_sha256: of the plan, hexadecimal.
        items: in all shards.
        embedded: in all shards.
        failed: in all shards, by stage.
        shards: in the order of their numbers.
    """

    version: int
    model: str
    space: str
    dim: int
    dtype: Dtype
    layout: Layout
    towers: tuple[str, ...]
    source: dict[str, str]
    shard_size: int
    options: dict[str, Option]
    plan_sha256: str
    items: int
    embedded: int
    failed: dict[str, int]
    shards: tuple[UnitRecord, ...]

    def __post_init__(self) -> None:
        if not 1 <= self.dim <= _MOST_NUMBERS:
            raise ValueError(f"no embedding has {self.dim} numbers")

    def check(self, folder: Path) -> None:
        """Reads every file of the shards, and compares its SHA-256.

        Args:
            folder: the output.

        Raises:
            OutputError: a file is missing or not what it was.
        """
        for shard in self.shards:
            check_files(folder, shard)


def check_files(folder: Path, record: UnitRecord) -> None:
    """Compares the files of a shard with what was recorded.

    Raises:
        OutputError: a file is missing, a link, or not what it was.
    """
    for name, recorded in record.files.items():
        check_file(inside(folder, name), recorded, folder / name)


def check_file(path: Path, recorded: FileRecord, known_as: Path) -> None:
    """Compares a file with what was recorded.

    Raises:
        OutputError: it is missing or not what it was.
    """
    try:
        found = digest_of(path)
    except OSError as cause:
        raise OutputError(f"{known_as} cannot be read: {cause.strerror}") from None
    if found != recorded:
        raise OutputError(
            f"{known_as} is not what the run wrote: SHA-256 {found.sha256[:12]} and {found.bytes} "
            f"bytes, recorded are {recorded.sha256[:12]} and {recorded.bytes}; delete it and run "
            "the command that made it again"
        )


def sizes_agree(folder: Path, record: UnitRecord) -> bool:
    """Whether the files of a shard are there and as long as recorded; what can be seen at once.

    Raises:
        OutputError: one is a link.
    """
    files = [(inside(folder, name), recorded.bytes) for name, recorded in record.files.items()]
    try:
        return all(path.stat().st_size == size for path, size in files)
    except OSError:
        return False


def manifest_of(config: RunConfig, plan_sha256: str, shards: tuple[UnitRecord, ...]) -> Manifest:
    """The manifest of a run whose shards are all done, in their order."""
    failed: dict[str, int] = {}
    for shard in shards:
        for stage, count in shard.failed.items():
            failed[stage] = failed.get(stage, 0) + count
    return Manifest(
        version=VERSION,
        model=config.model,
        space=config.space,
        dim=config.dim,
        dtype=config.dtype,
        layout=config.layout,
        towers=config.towers,
        source=dict(sorted(config.source.items())),
        shard_size=config.shard_size,
        options=dict(sorted(config.options.items())),
        plan_sha256=plan_sha256,
        items=sum(shard.items for shard in shards),
        embedded=sum(shard.embedded for shard in shards),
        failed=dict(sorted(failed.items())),
        shards=shards,
    )


def written(value: msgspec.Struct) -> bytes:
    """A file of JSON that people can read too."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def read_manifest(folder: Path) -> Manifest:
    """Reads the manifest of a finished output.

    Args:
        folder: the output of ``cliprt embed`` or ``cliprt merge``.

    Raises:
        OutputUnfinished: there is none yet.
        OutputError: there is no output, or it is from another version, damaged or a link.
    """
    path = inside(folder, MANIFEST)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        if (folder / FOLDER / RUN).exists():
            raise OutputUnfinished(
                f"{folder} is unfinished: it has no {MANIFEST}; run the same command again, or "
                "`cliprt merge` if its shares were run one by one"
            ) from None
        raise OutputError(
            f"{folder} is no output of cliprt embed, it has no {MANIFEST}; "
            "'cliprt embed SOURCE --out FOLDER' makes one"
        ) from None
    except OSError as cause:
        raise OutputError(f"{path} cannot be read: {cause.strerror}") from None
    return decoded(content, path)


def decoded(content: bytes, path: Path) -> Manifest:
    """A manifest from its bytes.

    Raises:
        OutputError: it is from another version, or damaged.
    """
    try:
        version = read_json(content, Versioned).version
        if version != VERSION:
            raise OutputError(
                f"{path} is of version {version}, this cliprt reads {VERSION}; use the cliprt that "
                "wrote it"
            )
        manifest = read_json(content, Manifest)
    except UnreadableJson as cause:
        raise OutputError(f"{path} is damaged: {cause}") from None
    numbers = [shard.number for shard in manifest.shards]
    counted = sum(shard.items for shard in manifest.shards)
    if numbers != list(range(len(numbers))) or counted != manifest.items:
        raise OutputError(f"{path} is damaged: its shards do not add up")
    return manifest
