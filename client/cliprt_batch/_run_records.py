"""Records of a run as they lie in its folder, and how they are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from cliprt._json import UnreadableJson, read_json
from cliprt_batch._disk import FileRecord, Scratch
from cliprt_batch._inside import check_inside, inside
from cliprt_batch._locks import Share
from cliprt_batch._manifest import Failure, UnitRecord, Versioned
from cliprt_batch._output_errors import OutputError
from cliprt_batch._run_config import FOLDER, RUN, RunConfig

VERSION = 1


class RunRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``run.json``."""

    version: int
    config: RunConfig
    plan_sha256: str | None = None


class ShareRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A share all of whose units are done, and of how many units the plan is."""

    share: Share
    units: int
    plan_sha256: str


class Intent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A shard that is to be replaced: its new record, and files to be renamed (from, to)."""

    record: UnitRecord
    moves: tuple[tuple[str, str], ...]

    def __post_init__(self) -> None:
        for name in (name for move in self.moves for name in move):
            check_inside(name)


def read_record(path: Path) -> UnitRecord | None:
    """A record of ``done``; None if it is damaged."""
    try:
        return read_json(path.read_bytes(), UnitRecord)
    except UnreadableJson:
        return None


def read_intent(path: Path) -> Intent:
    """A shard that is to be replaced.

    Raises:
        OutputError: the record is damaged.
        OSError: it cannot be read.
    """
    try:
        return read_json(path.read_bytes(), Intent)
    except UnreadableJson as cause:
        raise OutputError(
            f"{path} is damaged: {cause}; delete it, and the files of that shard"
        ) from None


def lines_of(failures: Sequence[Failure]) -> bytes:
    """Failures as JSON lines."""
    return b"".join(msgspec.json.encode(failure) + b"\n" for failure in failures)


def read_run(out: Path) -> RunRecord:
    """What run is in a folder.

    Raises:
        OutputError: none, one of another version, or a damaged one.
    """
    path = inside(out, f"{FOLDER}/{RUN}")
    try:
        content = path.read_bytes()
        version = read_json(content, Versioned).version
        if version != VERSION:
            raise OutputError(
                f"{out} was begun by a cliprt of another version ({version}, this has {VERSION}); "
                "go on with that one, or choose another --out"
            )
        return read_json(content, RunRecord)
    except FileNotFoundError:
        raise OutputError(f"{out} holds no run of cliprt embed") from None
    except OSError as cause:
        raise OutputError(f"{path} cannot be read: {cause.strerror}") from None
    except UnreadableJson as cause:
        raise OutputError(f"{path} is damaged: {cause}; choose another --out") from None


def read_shares(out: Path) -> Iterator[ShareRecord]:
    """The shares of a folder that came to their end.

    Raises:
        OutputError: a record is damaged.
    """
    for path in sorted((out / FOLDER / "share").glob("*.json")):
        try:
            yield read_json(path.read_bytes(), ShareRecord)
        except (OSError, UnreadableJson) as cause:
            raise OutputError(f"{path} is damaged: {cause}") from None


def new_failures(failures: Sequence[Failure], scratch: Scratch) -> tuple[Path, FileRecord]:
    """A temporary file of failures.

    Raises:
        OSError: it cannot be written; it is gone.
    """
    sink = scratch.sink()
    try:
        sink.write(lines_of(failures))
        return sink.path, sink.finish()
    except BaseException:
        sink.discard()
        raise
