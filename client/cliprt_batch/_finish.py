"""The end of a run: all failures in one file, and the manifest."""

from __future__ import annotations

from collections.abc import Mapping

from cliprt_batch._disk import Scratch, sync_folder
from cliprt_batch._manifest import FAILURES, MANIFEST, Manifest, UnitRecord, manifest_of, written
from cliprt_batch._run_state import RunState


def write_manifest(
    state: RunState,
    plan_units: int,
    plan_sha256: str,
    done: Mapping[int, UnitRecord],
    scratch: Scratch,
) -> Manifest | None:
    """Writes ``failures.jsonl``, empty where nothing failed, and then ``manifest.json``.

    Returns:
        The manifest, or None if units are not done.

    Raises:
        OutputError: failures of a unit are damaged.
        OSError: a file cannot be written.
    """
    if any(unit not in done for unit in range(plan_units)):
        return None
    shards = tuple(done[unit] for unit in range(plan_units))
    sink = scratch.sink()
    try:
        for shard in shards:
            if shard.failed:
                state.failures(shard)
                sink.write(state.failures_path(shard.number).read_bytes())
        sink.finish()
        sink.path.replace(state.out / FAILURES)
    except BaseException:
        sink.discard()
        raise
    manifest = manifest_of(state.config, plan_sha256, shards)
    scratch.put(state.out / MANIFEST, written(manifest))
    sync_folder(state.out)
    return manifest
