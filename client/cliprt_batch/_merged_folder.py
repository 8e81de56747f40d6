"""The folder that shares are joined in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cliprt_batch._inside import inside
from cliprt_batch._manifest import Failure, UnitRecord, check_file
from cliprt_batch._run_config import RUN
from cliprt_batch._run_folder import RunFolder
from cliprt_batch._shards import Made


class MergedFolder(RunFolder):
    """A run whose units come from other folders instead of being computed."""

    def adopt(self, record: UnitRecord, folder: Path, failures: Sequence[Failure]) -> None:
        """Commits a unit that another folder has, by hard links, or copies where they cannot be.

        Args:
            record: of the unit.
            folder: the output that has its files; stays as it is.
            failures: of the unit.

        Raises:
            OutputError: a file cannot be written, is not what the record says, or is a link.
            ValueError: the unit is committed, or not of this share.
        """
        self._may_write(record.number)
        made: Made = {}
        with self._writing(self._state.out), self._removed_unless_placed(made):
            for name in record.files:
                made[name] = self._scratch.taken(inside(folder, name)), record.files[name]
                check_file(made[name][0], record.files[name], folder / name)
            self._place(record, failures, made)

    def copy_plan(self, folder: Path) -> None:
        """Copies the plan, the listing, and whatever else lies beside ``run.json`` of another run.

        Raises:
            OSError: they cannot be read or written.
        """
        own = {path.name for path in (folder, self.plan_folder) for path in path.glob("lock*")}
        for path in folder.iterdir():
            copied = self.plan_folder / path.name
            if path.is_file() and path.name not in {*own, RUN} and not copied.exists():
                self._scratch.taken(path).replace(copied)
