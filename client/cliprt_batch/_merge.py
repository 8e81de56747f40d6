"""Folders of the shares of one run, joined."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from cliprt._json import read_json
from cliprt_batch._inside import refuse_links
from cliprt_batch._locks import Share
from cliprt_batch._manifest import Manifest, UnitRecord
from cliprt_batch._merged_folder import MergedFolder
from cliprt_batch._output_errors import OutputError, OutputMismatch, OutputUnfinished, writing
from cliprt_batch._run_config import FOLDER, differences
from cliprt_batch._run_folder import RunFolder
from cliprt_batch._run_records import RunRecord, read_run, read_shares
from cliprt_batch._run_state import RunState

_SHOWN = 8


def merge(
    folders: Sequence[Path], out: Path, *, on_shard: Callable[[int, int], None] | None = None
) -> Manifest:
    """Joins the folders of all shares into one; it is, byte for byte, that of the undivided run.

    Every file is compared with its hash. Files are hard links where the file system has them and
    copies elsewhere; the folders stay as they are. A merge that was killed goes on where it was.
    A run whose shares all wrote into one folder is finished with ``merge([OUT], OUT)``, if its last
    share was killed before it could.

    Args:
        folders: of the shares, in any order; one that is ``out`` itself is allowed.
        out: the folder to make.
        on_shard: is told, after each shard, how many are there, and how many there will be.

    Returns:
        The manifest of the whole.

    Raises:
        OutputMismatch: the folders are of different runs.
        OutputUnfinished: a unit is in none of them; the command that makes it is named.
        OutputError: files are damaged, two folders disagree about a unit, or out cannot be written.
    """
    if not folders:
        raise OutputError("there is nothing to merge; name the folders of the shares")
    if out.absolute() in {folder.absolute() for folder in folders}:
        # Completes what killed runs left half done in it.
        RunFolder.open(out, read_run(out).config).close()
    shares = [_read(folder) for folder in dict.fromkeys(path.absolute() for path in folders)]
    first = shares[0]
    for other in shares[1:]:
        _same_run(first, other)
    total = _total(shares)
    chosen = _chosen(shares)
    _all_there(shares, chosen, total)
    plan = first.run.plan_sha256
    if plan is None:
        raise OutputError(f"{first.folder} has no plan; run the command that made it again")
    with MergedFolder.open(out, first.run.config) as run:
        run.note_plan(plan)
        with writing(out):
            run.copy_plan(first.folder / FOLDER)
        for unit in range(total):
            if not run.is_done(unit):
                share = chosen[unit]
                record = share.done[unit]
                failures = share.state.failures(record) if record.failed else []
                run.adopt(record, share.folder, failures)
            elif run.done_record(unit) != chosen[unit].done[unit]:
                raise _disagree(unit, out, chosen[unit].folder)
            if on_shard:
                on_shard(unit + 1, total)
        manifest = run.finish(total)
    if manifest is None:
        raise OutputError(f"{out} changed while it was merged; run the same command again")
    return manifest


class _Folder:
    """A folder to be merged, as it is on the disk."""

    def __init__(self, folder: Path, run: RunRecord) -> None:
        self.folder, self.run = folder, run
        self.state = RunState(folder, run.config)
        self.shares: dict[Share, int] = {}
        self.done: dict[int, UnitRecord] = {}


def _read(folder: Path) -> _Folder:
    # What lies there is read and copied by name.
    refuse_links(folder / FOLDER)
    read = _Folder(folder, read_run(folder))
    if any((folder / FOLDER / "intent").glob("*.json")):
        raise OutputUnfinished(
            f"{folder} was interrupted while a shard was being replaced; "
            "run the command that made it again"
        )
    read.shares = {record.share: record.units for record in read_shares(folder)}
    for path in (folder / FOLDER / "done").glob("*.json"):
        try:
            read.done[int(path.stem)] = read_json(path.read_bytes(), UnitRecord)
        except (OSError, ValueError) as cause:
            raise OutputError(f"{path} is damaged: {cause}") from None
    return read


def _same_run(one: _Folder, other: _Folder) -> None:
    differing = differences(one.run.config, other.run.config, ("the first has", "the other"))
    if not differing and one.run.plan_sha256 != other.run.plan_sha256:
        plans = [str(read.run.plan_sha256)[:16] for read in (one, other)]
        differing = (f"plan: {plans[0]} and {plans[1]}, the source was not the same",)
    if differing:
        raise OutputMismatch(
            f"{one.folder} and {other.folder} are not shares of one run: " + "; ".join(differing),
            differences=differing,
        )


def _total(shares: Sequence[_Folder]) -> int:
    """How many units the plan has; every share that came to its end knows."""
    units = {count for share in shares for count in share.shares.values()}
    if len(units) != 1:
        share = shares[0]
        raise OutputUnfinished(
            f"{share.folder} is unfinished: {len(share.done)} shards are done; run the command "
            "that made it again"
            if not units
            else f"the shares are of plans of {' and '.join(map(str, sorted(units)))} units"
        )
    return units.pop()


def _chosen(shares: Sequence[_Folder]) -> dict[int, _Folder]:
    chosen: dict[int, _Folder] = {}
    for share in shares:
        for unit, record in share.done.items():
            other = chosen.setdefault(unit, share)
            if other.done[unit] != record:
                raise _disagree(unit, other.folder, share.folder)
    return chosen


def _disagree(unit: int, one: Path, other: Path) -> OutputError:
    return OutputError(
        f"unit {unit} is in {one} and in {other}, and they differ; leave one of the folders out"
    )


def _all_there(shares: Sequence[_Folder], chosen: dict[int, _Folder], total: int) -> None:
    """That every unit is in some folder; says which is not, and what makes it."""
    missing = [unit for unit in range(total) if unit not in chosen]
    if not missing:
        return
    named = ", ".join(map(str, missing[:_SHOWN])) + (", ..." if len(missing) > _SHOWN else "")
    divisions = {share[1] for folder in shares for share in folder.shares}
    of = max(divisions)
    needed = sorted({unit % of + 1 for unit in missing})
    commands = ", ".join(f"--shard {i}/{of}" for i in needed)
    raise OutputUnfinished(
        f"{len(missing)} of {total} units are in none of the folders: {named}; run `cliprt embed` "
        f"as for the others with {commands}, and merge its folder too"
    )
