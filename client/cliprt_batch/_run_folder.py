"""The folder that a run writes: what is done, and how more is added so that nothing is lost."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from cliprt._extras import require
from cliprt_batch._disk import Scratch, remove_flat
from cliprt_batch._finish import write_manifest
from cliprt_batch._inside import inside
from cliprt_batch._locks import Locks, Share, named, owned
from cliprt_batch._manifest import Failure, Manifest, UnitRecord
from cliprt_batch._output_errors import OutputError, OutputUnfinished, writing
from cliprt_batch._parts import check_rows, encoded, failures_of, read_part
from cliprt_batch._records import schema
from cliprt_batch._rewriting import rows_replaced
from cliprt_batch._run_config import RunConfig
from cliprt_batch._run_records import Intent, ShareRecord, new_failures
from cliprt_batch._run_state import RunState
from cliprt_batch._shards import Made, record_of, write_shard

if TYPE_CHECKING:
    import pyarrow as pa

_Folder = TypeVar("_Folder", bound="RunFolder")


class RunFolder:
    """One share of a run, open for writing. No other process can open the same share meanwhile.

    Parts of different units may be written, and different units committed, by several threads at
    once. Worker processes must be started, not forked: a forked one keeps the lock.
    """

    def __init__(self, state: RunState, locks: Locks, share: Share, scratch: str) -> None:
        """Use ``RunFolder.open`` or ``GuestFolder.join``."""
        self._state, self._locks, self._share = state, locks, share
        self._scratch = Scratch(state.scratch / scratch)
        # The thread that commits adds to it while others read.
        self._known = threading.Lock()
        self._done: dict[int, UnitRecord] = {}
        self._items = 0
        config = state.config
        self._schema = schema(config.towers, config.dim, config.dtype)

    @classmethod
    def open(
        cls: type[_Folder],
        out: Path,
        config: RunConfig,
        *,
        share: Share = (1, 1),
        told: Callable[[], None] | None = None,
    ) -> _Folder:
        """Makes the folder, or opens the run in it, finished or not.

        What a killed run left half done is completed or removed.

        Args:
            out: the folder.
            config: of the run; one of another configuration is refused.
            share: which part of the units this process does: the I-th of N, from 1.
            told: called once, after two seconds, where another share opens, plans or finishes and
                is waited for.

        Raises:
            OutputMismatch: the folder holds another run; every difference is named.
            OutputBusy: the share, or one of another division, is being run.
            OutputError: the folder is no run, or cannot be written.
            MissingExtra: pyarrow or filelock is not installed.
        """
        if not 1 <= share[0] <= share[1]:
            raise ValueError(f"share {share[0]} of {share[1]} does not exist")
        require("pyarrow", extra="batch")
        out = out.absolute()
        state = RunState(out, config)
        with writing(out):
            state.make()
            locks = Locks(state.folder, share)
            with locks.guard(told):
                locks.take()
                run = cls(state, locks, share, named(share))
                try:
                    state.join(run._scratch)
                    run._recover()
                except BaseException:
                    locks.release()
                    raise
        return run

    def invite(self) -> str:
        """Lets other processes write units of this run, here or where the folder is shared.

        They may until the run is finished, or the folder opened again. It takes no more than that
        each unit is done by one of them at a time; one that is done by two, because the first one
        was taken for dead, comes out the same.

        Returns:
            What ``join`` wants.

        Raises:
            OutputError: the folder cannot be written.
        """
        token = secrets.token_hex(8)
        with self._writing(self._state.scratch):
            (self._state.scratch / token).mkdir()
        return token

    def look(self, unit: int) -> bool:
        """Whether a unit is committed by now, whoever did it; brings what is known up to date.

        A replacement of its shard that was cut short is completed.

        Raises:
            OutputError: the folder cannot be read or written.
        """
        with self._writing(self._state.out):
            self._state.redo(unit, self._scratch)
            record = self._state.done_record(unit)
        if record is not None:
            self._note(record)
        return record is not None

    def begun(self) -> dict[int, int]:
        """How many parts there are of each unit under way, unread; all but the last are full.

        Raises:
            OutputError: the folder cannot be read.
        """
        with self._writing(self._state.folder):
            return self._state.begun()

    def _recover(self) -> None:
        """Completes or removes what killed runs left; shares that are being run are left alone."""
        running = self._locks.running()
        self._state.redo_intents(running, self._scratch)
        self._state.clear_scratch(running, self._scratch)
        done = self._state.read_done(keep_all=bool(running), owns=self.owns)
        with self._known:
            self._done, self._items = done, sum(record.items for record in done.values())
        self._state.remove_work(self._done)

    def __enter__(self: _Folder) -> _Folder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets other processes open the share. What is done stays done."""
        self._locks.release()

    @property
    def out(self) -> Path:
        """The output."""
        return self._state.out

    @property
    def plan_folder(self) -> Path:
        """Where the plan and the listing lie; ``cliprt merge`` copies files that lie there."""
        return self._state.folder

    @contextmanager
    def alone(self, told: Callable[[], None] | None = None) -> Iterator[None]:
        """While the block runs, no other share opens, plans or finishes: for making the plan.

        One that does is waited for, however long it takes; its lock ends with its process.

        Args:
            told: called once, when the wait is longer than two seconds.

        Raises:
            OutputBusy: this thread is within such a block already.
            OutputError: the lock cannot be taken.
        """
        with ExitStack() as held:
            # What goes wrong within the block may be the source's fault.
            with self._writing(self._state.folder):
                held.enter_context(self._locks.guard(told))
            yield

    def note_plan(self, sha256: str) -> None:
        """Records the plan of the run, or compares it with the one that is recorded.

        Not to be called within ``alone``.

        Raises:
            OutputMismatch: the run has another plan; the source has changed.
            OutputError: it cannot be written.
        """
        with self._writing(self._state.folder), self._locks.guard():
            self._state.note_plan(sha256, self._scratch)

    def owns(self, unit: int) -> bool:
        """Whether a unit is of the share that this process runs."""
        return owned(unit, self._share)

    def is_done(self, unit: int) -> bool:
        """Whether a unit was committed, when the folder was opened or since."""
        return unit in self._done

    def done(self) -> dict[int, UnitRecord]:
        """The units that were committed, by number; those of other shares as of the opening."""
        with self._known:
            return dict(sorted(self._done.items()))

    def done_record(self, unit: int) -> UnitRecord:
        """What was recorded of a committed unit."""
        return self._done[unit]

    def parts(self, unit: int) -> dict[int, int]:
        """Items of each complete part of a unit that is not committed, by the part's number.

        Every part is read. Torn and damaged ones are deleted.

        Raises:
            OutputError: a part cannot be read, or a damaged one not be deleted.
        """
        found = {}
        with self._writing(self._state.work(unit)):
            for part, path in self._state.part_files(unit):
                table = read_part(path, self._schema)
                if table is None:
                    path.unlink()
                else:
                    found[part] = table.num_rows
        return found

    def write_part(self, unit: int, part: int, table: pa.Table) -> None:
        """Keeps a part of a unit: from now on it need not be computed again.

        Args:
            unit: number of the unit.
            part: number of the part in the unit, from 0.
            table: its rows, consecutive, with the columns of ``_records.schema``.

        Raises:
            OutputError: it cannot be written.
            ValueError: the table is not fit, or the unit not of this share or committed.
        """
        self._may_write(unit)
        check_rows(table, self._schema)
        places = table["row"]
        if places[-1].as_py() - places[0].as_py() != table.num_rows - 1:
            raise ValueError(f"part {part} of unit {unit} leaves out rows")
        path = self._state.part(unit, part)
        with self._writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._scratch.put(path, *encoded(table))

    def commit(self, unit: int, parts: int) -> UnitRecord:
        """Makes the shard of a unit of its parts. A part at a time is in memory.

        Killed at any instant, this leaves the unit committed, or uncommitted with all its parts.

        Args:
            unit: number of the unit.
            parts: how many parts it has; 0 for a unit without items.

        Raises:
            OutputError: it cannot be written, or a part is missing or damaged.
            ValueError: the parts are not those of one unit, or it is not of this share.
        """
        self._may_write(unit)
        with self._writing(self._state.work(unit)):
            items, failures = 0, list[Failure]()
            for table in self._tables(unit, parts):
                if table["row"][0].as_py() != items:
                    raise ValueError(f"the parts of unit {unit} do not follow one another")
                items += table.num_rows
                failures += failures_of(unit, table)
            embedded = items - len(failures)
            made = write_shard(
                self._state.config, unit, self._tables(unit, parts), embedded, self._scratch.sink
            )
            record = record_of(unit, items, failures, made)
            self._place(record, failures, made)
            remove_flat(self._state.work(unit))
        return record

    def failed(self, unit: int) -> list[Failure]:
        """The items of a committed unit that failed, in the order of their places.

        Raises:
            OutputError: the list is damaged.
        """
        return self._state.failures(self._done[unit]) if self._done[unit].failed else []

    def amend(self, unit: int, table: pa.Table) -> UnitRecord:
        """Replaces failed rows of a committed unit; the shard becomes as if they had never failed.

        The manifest goes until ``finish``. Killed at any instant, this leaves the shard as it was
        or as it was to become, at the latest when the folder is opened again.

        Args:
            unit: number of the unit.
            table: rows that take the place of failed ones, with the columns of ``_records.schema``;
                they may have failed again.

        Raises:
            OutputError: it cannot be written, or the shard is not what was written.
            ValueError: the table is not fit, or a row of it did not fail.
        """
        check_rows(table, self._schema)
        record, failures = self._done[unit], self.failed(unit)
        replaced = set(table["row"].to_pylist())
        keys = {failure.row: failure.key for failure in failures}
        if (
            not self.owns(unit)
            or [keys.get(row) for row in sorted(replaced)] != table["key"].to_pylist()
        ):
            raise ValueError(
                f"the rows are not failed ones of unit {unit}, or it is another share's"
            )
        still = [failure for failure in failures if failure.row not in replaced]
        still = sorted([*still, *failures_of(unit, table)], key=lambda failure: failure.row)
        self._state.check(record)
        with self._writing(self._state.out):
            rows = rows_replaced(self._state.out, self._state.config, record, failures, table)
            made = write_shard(
                self._state.config, unit, rows, record.items - len(still), self._scratch.sink
            )
            record = record_of(unit, record.items, still, made)
            with self._removed_unless_placed(made):
                if still:
                    name = str(self._state.failures_path(unit).relative_to(self._state.out))
                    made[name] = new_failures(still, self._scratch)
                moves = (
                    (str(path.relative_to(self._state.out)), name)
                    for name, (path, _) in made.items()
                )
                intent = Intent(record, tuple(moves))
            self._state.put_intent(intent, self._scratch)
            self._state.redo(unit, self._scratch)
            self._note(record)
        return record

    def finish(self, plan_units: int) -> Manifest | None:
        """Ends the share: writes the manifest if all units are done, and gives the lock back.

        ``failures.jsonl`` is written with it. Of several shares that write one folder, the last one
        writes them; if that one was killed, ``cliprt merge OUT --out OUT`` does.

        Args:
            plan_units: how many units the plan has.

        Returns:
            The manifest, or None while units of other shares are not done.

        Raises:
            OutputUnfinished: units of this share are not done.
            OutputError: they cannot be written, or no plan was noted.
        """
        self._own_all_done(plan_units)
        with self._writing(self._state.out), self._locks.guard():
            plan = self._state.plan_sha256()
            if plan is None:
                raise OutputError(f"{self._state.out} has no plan; run the same command again")
            self._state.put_share(ShareRecord(self._share, plan_units, plan), self._scratch)
            manifest = None
            # Another share that is being run writes it: by then this one is no longer run.
            if not self._locks.running():
                self._recover()
                self._own_all_done(plan_units)
                manifest = write_manifest(self._state, plan_units, plan, self._done, self._scratch)
            self._locks.release()
        return manifest

    def _place(self, record: UnitRecord, failures: Sequence[Failure], made: Made) -> None:
        """Gives new files their names, and commits the unit."""
        with self._removed_unless_placed(made):
            for name, (path, _) in made.items():
                path.replace(inside(self._state.out, name))
            self._state.put_failures(record.number, failures, self._scratch)
            self._state.sync(record)
            # This is the instant from which on the unit is committed.
            self._state.put_done(record, self._scratch)
        self._note(record)

    @contextmanager
    def _removed_unless_placed(self, made: Made) -> Iterator[None]:
        try:
            yield
        except BaseException:
            for path, _ in made.values():
                path.unlink(missing_ok=True)
            raise

    def _own_all_done(self, plan_units: int) -> None:
        missing = [unit for unit in range(plan_units) if self.owns(unit) and unit not in self._done]
        if missing:
            raise OutputUnfinished(
                f"{self._state.out} is unfinished: {len(missing)} units are not done, "
                f"the first is {missing[0]}; run the same command again"
            )

    def _may_write(self, unit: int) -> None:
        if unit in self._done or not self.owns(unit):
            raise ValueError(f"unit {unit} is committed, or of another share")

    def _tables(self, unit: int, parts: int) -> Iterator[pa.Table]:
        for part in range(parts):
            path = self._state.part(unit, part)
            table = read_part(path, self._schema) if path.exists() else None
            if table is None:
                raise OutputError(
                    f"{path} is missing or damaged; run the same command again to make it anew"
                )
            yield table

    def _note(self, record: UnitRecord) -> None:
        """Knows from now on that a unit is committed."""
        with self._known:
            before = self._done.get(record.number)
            self._items += record.items - (before.items if before else 0)
            self._done[record.number] = record

    @contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError:
            with self._known:
                shards = f"{len(self._done)} finished shards ({self._items} items)"
            with writing(path, f"{shards} and finished parts are kept."):
                raise
