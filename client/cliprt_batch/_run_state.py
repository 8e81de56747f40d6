"""What lies where in the folder of a run, and how it is read and written.

::

    OUT/_cliprt/run.json          the configuration, and the plan's SHA-256
    OUT/_cliprt/lock  lock-I-of-N what is being run (``_locks.py``); never deleted
    OUT/_cliprt/work/000007/      parts of a unit that is not committed
    OUT/_cliprt/done/000007.json  a committed unit: its ``UnitRecord``
    OUT/_cliprt/failed/000007.jsonl   its failures, where it has any
    OUT/_cliprt/intent/000007.json    a shard that is being replaced: what has to be renamed
    OUT/_cliprt/share/I-of-N.json     a share that came to its end
    OUT/_cliprt/tmp/I-of-N/       temporary files of a share
    OUT/_cliprt/tmp/TOKEN/        those of processes that write for it (``RunFolder.invite``)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

import msgspec

from cliprt._json import UnreadableJson, read_json
from cliprt_batch._disk import Scratch, remove_flat, sync_folder
from cliprt_batch._inside import inside, refuse_links
from cliprt_batch._locks import Share, named, owned
from cliprt_batch._manifest import (
    FAILURES,
    MANIFEST,
    Failure,
    UnitRecord,
    check_files,
    sizes_agree,
    written,
)
from cliprt_batch._output_errors import OutputError, OutputMismatch
from cliprt_batch._run_config import FOLDER, RUN, RunConfig, differences
from cliprt_batch._run_records import (
    VERSION,
    Intent,
    RunRecord,
    ShareRecord,
    lines_of,
    read_intent,
    read_record,
    read_run,
)
from cliprt_batch._shards import shard_files

_FOLDERS = ("work", "done", "failed", "intent", "share", "tmp")


class RunState:
    """Paths and records of a run. Holds nothing that is not on the disk."""

    def __init__(self, out: Path, config: RunConfig) -> None:
        self.out, self.config = out, config
        self.folder = out / FOLDER
        self.scratch = self.folder / "tmp"

    def make(self) -> None:
        """Makes the folder unless it is there and holds a run.

        Raises:
            OutputError: it holds something else, or links where a run writes.
            OSError: it cannot be made.
        """
        if self.out.exists() and not self.out.is_dir():
            raise OutputError(f"{self.out} is a file; choose another --out")
        self.out.mkdir(parents=True, exist_ok=True)
        # Before a file is opened in either, the lock among them.
        refuse_links(self.folder)
        for name in shard_files(self.config, 0).values():
            inside(self.out, name)
        # A run that was killed while it made the folder has left nothing else.
        if not (self.folder / RUN).exists():
            strange = sorted(path.name for path in self.out.iterdir() if path.name != FOLDER)
            strange = [name for name in strange if name != "lost+found"]
            if strange:
                raise OutputError(
                    f"{self.out} is not empty and holds no run of cliprt embed (there is "
                    f"{strange[0]!r}); choose a new folder as --out, or empty it"
                )
        self.folder.mkdir(exist_ok=True)

    def join(self, scratch: Scratch) -> None:
        """Compares the run with the one in the folder, or begins it. To be called under the guard.

        Raises:
            OutputMismatch: it is another one.
            OSError: the folder cannot be written.
        """
        scratch.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / RUN
        if path.exists():
            found = read_run(self.out)
            differing = differences(found.config, self.config)
            if differing:
                raise OutputMismatch(
                    f"{self.out} holds another run; choose another --out, or delete it. "
                    + "; ".join(differing),
                    differences=differing,
                )
        for name in _FOLDERS:
            (self.folder / name).mkdir(exist_ok=True)
        if not path.exists():
            scratch.put(path, written(RunRecord(VERSION, self.config)))
            sync_folder(self.folder)
        # After the record: folders without one are not taken for a run.
        for name in shard_files(self.config, 0).values():
            (self.out / name).parent.mkdir(exist_ok=True)
        sync_folder(self.out)

    def plan_sha256(self) -> str | None:
        """Of the plan that was noted.

        Raises:
            OutputError: the record of the run is damaged.
        """
        return read_run(self.out).plan_sha256

    def note_plan(self, sha256: str, scratch: Scratch) -> None:
        """Records a plan, unless there is one.

        Raises:
            OutputMismatch: there is another one.
            OSError: it cannot be written.
        """
        found = self.plan_sha256()
        if found == sha256:
            return
        if found is not None:
            differing = (f"plan: the folder has {found[:16]}, the source now gives {sha256[:16]}",)
            raise OutputMismatch(
                f"{self.out} was begun with another plan: the source has changed since. "
                "Restore it, choose another --out, or delete this one. " + differing[0],
                differences=differing,
            )
        scratch.put(self.folder / RUN, written(RunRecord(VERSION, self.config, sha256)))
        sync_folder(self.folder)

    def work(self, unit: int) -> Path:
        """Where the parts of a unit lie."""
        return self.folder / "work" / f"{unit:06d}"

    def part(self, unit: int, part: int) -> Path:
        """The file of a part."""
        return self.work(unit) / f"{part:04d}.arrow"

    def begun(self) -> dict[int, int]:
        """How many parts lie there of each unit that has some, unread."""
        paths = [path for path in (self.folder / "work").iterdir() if path.name.isdecimal()]
        return {int(path.name): len(self.part_files(int(path.name))) for path in paths}

    def part_files(self, unit: int) -> list[tuple[int, Path]]:
        """The parts that there are, by number, unread."""
        paths = self.work(unit).glob("*.arrow")
        return sorted((int(path.stem), path) for path in paths if path.stem.isdecimal())

    def remove_work(self, done: AbstractSet[int] | dict[int, UnitRecord]) -> None:
        """Removes parts of units that are committed: their run was killed before it could.

        Raises:
            OSError: they cannot be removed.
        """
        for path in (self.folder / "work").iterdir():
            if path.name.isdecimal() and int(path.name) in done:
                remove_flat(path)

    def clear_scratch(self, running: AbstractSet[Share], own: Scratch) -> None:
        """Removes temporary files, but for those of shares that are being run.

        Whatever still writes for a run that is over can no longer: nothing gets a name in the
        output that was not a temporary file in a folder of its own.

        Args:
            running: the other shares that are being run.
            own: is emptied, and stays.

        Raises:
            OSError: they cannot be removed.
        """
        used = {named(share) for share in running}
        for path in self.scratch.iterdir():
            if path.name not in used and path != own.folder:
                remove_flat(path)
        own.clear()

    def read_done(self, *, keep_all: bool, owns: Callable[[int], bool]) -> dict[int, UnitRecord]:
        """The committed units whose files are there. The others are forgotten, to be done again.

        Args:
            keep_all: whether records of other shares are left as they are, because these are run.
            owns: whether a unit is of this share.

        Raises:
            OutputError: a file of a unit is a link.
            OSError: records cannot be read or removed.
        """
        done = {}
        for path in (self.folder / "done").glob("*.json"):
            if not path.stem.isdecimal():
                continue
            number = int(path.stem)
            record = read_record(path)
            if keep_all and not owns(number):
                if record:
                    done[number] = record
            elif record and record.number == number and sizes_agree(self.out, record):
                done[number] = record
            else:
                self.remove_manifest()
                path.unlink()
        return done

    def done_record(self, unit: int) -> UnitRecord | None:
        """What is recorded of a unit by now; None if it is not committed.

        Raises:
            OSError: the record cannot be read.
        """
        try:
            return read_record(self._done_path(unit))
        except FileNotFoundError:
            return None

    def _done_path(self, unit: int) -> Path:
        return self.folder / "done" / f"{unit:06d}.json"

    def remove_manifest(self) -> None:
        """Of a run that is no longer finished.

        Raises:
            OSError: it cannot be removed.
        """
        (self.out / MANIFEST).unlink(missing_ok=True)
        (self.out / FAILURES).unlink(missing_ok=True)
        sync_folder(self.out)

    def put_done(self, record: UnitRecord, scratch: Scratch) -> None:
        """Commits a unit.

        Raises:
            OSError: it cannot be written.
        """
        path = self._done_path(record.number)
        scratch.put(path, msgspec.json.encode(record))
        sync_folder(path.parent)

    def failures_path(self, unit: int) -> Path:
        """Where the failures of a unit lie, if it has any."""
        return self.folder / "failed" / f"{unit:06d}.jsonl"

    def put_failures(self, unit: int, failures: Sequence[Failure], scratch: Scratch) -> None:
        """Writes the failures of a unit.

        Raises:
            OSError: they cannot be written.
        """
        if failures:
            scratch.put(self.failures_path(unit), lines_of(failures))
        else:
            self.failures_path(unit).unlink(missing_ok=True)

    def failures(self, record: UnitRecord) -> list[Failure]:
        """The failures of a committed unit.

        Raises:
            OutputError: they are damaged.
        """
        path = self.failures_path(record.number)
        try:
            lines = path.read_bytes().splitlines()
            found = [read_json(line, Failure) for line in lines]
        except (OSError, UnreadableJson) as cause:
            raise OutputError(f"{path} is missing or damaged: {cause}{_REDO}") from None
        if len(found) != sum(record.failed.values()):
            raise OutputError(f"{path} has {len(found)} failures, not those recorded{_REDO}")
        return found

    def sync(self, record: UnitRecord) -> None:
        """Makes the names of a shard's files stay.

        Raises:
            OSError: the disk failed.
        """
        folders = {(self.out / name).parent for name in record.files}
        for folder in sorted({*folders, self.folder / "failed"}):
            sync_folder(folder)

    def intent_path(self, unit: int) -> Path:
        """Where it is noted that the shard of a unit is being replaced."""
        return self.folder / "intent" / f"{unit:06d}.json"

    def put_intent(self, intent: Intent, scratch: Scratch) -> None:
        """From now on the shard is replaced, whether this process lives or not.

        Raises:
            OSError: it cannot be written; the new files are gone.
        """
        path = self.intent_path(intent.record.number)
        try:
            sync_folder(scratch.folder)
            scratch.put(path, msgspec.json.encode(intent))
            sync_folder(path.parent)
        except BaseException:
            # In this order: an intent whose files are gone would pass for one that was carried out.
            path.unlink(missing_ok=True)
            for source, _ in intent.moves:
                (self.out / source).unlink(missing_ok=True)
            raise

    def redo(self, unit: int, scratch: Scratch) -> None:
        """Carries out what is left of the intent of a unit, if it has one, any number of times.

        Raises:
            OSError: the folder cannot be written; the intent stays.
            OutputError: the intent is damaged, or names what is a link or lies behind one; nothing
                was moved.
        """
        path = self.intent_path(unit)
        if not path.exists():
            return
        intent = read_intent(path)
        moves = [(inside(self.out, old), inside(self.out, new)) for old, new in intent.moves]
        for name in intent.record.files:
            inside(self.out, name)
        self.remove_manifest()
        for source, target in moves:
            if source.exists():
                source.replace(target)
        if not intent.record.failed:
            self.failures_path(unit).unlink(missing_ok=True)
        self.sync(intent.record)
        self.put_done(intent.record, scratch)
        path.unlink(missing_ok=True)
        sync_folder(path.parent)

    def redo_intents(self, running: AbstractSet[Share], scratch: Scratch) -> None:
        """Carries out the intents of runs that were killed.

        Raises:
            OSError: the folder cannot be written.
        """
        for path in sorted((self.folder / "intent").glob("*.json")):
            unit = int(path.stem) if path.stem.isdecimal() else None
            if unit is not None and not any(owned(unit, share) for share in running):
                self.redo(unit, scratch)

    def put_share(self, record: ShareRecord, scratch: Scratch) -> None:
        """Notes that a share came to its end.

        Raises:
            OSError: it cannot be written.
        """
        scratch.put(self.folder / "share" / f"{named(record.share)}.json", written(record))

    def check(self, record: UnitRecord) -> None:
        """Compares the files of a shard with their hashes.

        Raises:
            OutputError: they are not what was written.
        """
        check_files(self.out, record)


_REDO = "; delete the shard's files and run the same command again"
