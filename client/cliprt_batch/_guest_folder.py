"""The folder of a run, as processes see it that write for the one that opened it."""

from __future__ import annotations

from pathlib import Path

from cliprt_batch._locks import Locks
from cliprt_batch._output_errors import OutputError
from cliprt_batch._run_config import RunConfig
from cliprt_batch._run_folder import RunFolder
from cliprt_batch._run_state import RunState


class GuestFolder(RunFolder):
    """A run that another process has opened and invites to (``RunFolder.invite``)."""

    @classmethod
    def join(cls, out: Path, config: RunConfig, token: str) -> GuestFolder:
        """Opens a run that another process has opened and invites to.

        What lies there of a unit is known once ``look`` was called for it.

        Args:
            out: the folder.
            config: of the run.
            token: the invitation.

        Raises:
            OutputError: the folder is not that of the run, or its run has ended.
        """
        state = RunState(out, config)
        run = cls(state, Locks(state.folder, (1, 1)), (1, 1), token)
        if not run._scratch.folder.is_dir():
            raise OutputError(
                f"{out} is not the folder of the run that is under way, or that run has ended; "
                "every node must see the same folder under this name"
            )
        return run

    def attempts(self, unit: int) -> int:
        """How often a unit was begun in this run with as many parts as it has; counts this time.

        Raises:
            OutputError: the folder cannot be written.
        """
        begun = self._scratch.folder / f"{unit:06d}-{len(self._state.part_files(unit))}"
        with self._writing(begun), begun.open("ab") as file:
            file.write(b"1")
            return file.tell()
