"""``cliprt embed --engine ray``: the units of a job on the machines of a Ray cluster."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from cliprt._extras import require_installed
from cliprt_batch._job import Job, carry_out, config_of
from cliprt_batch._models import Local, Served
from cliprt_batch._monitor import Monitor
from cliprt_batch._options import JobOptions
from cliprt_batch._output_errors import OutputError
from cliprt_batch._ray_driver import Task, outcomes
from cliprt_batch._ray_worker import Order, Outcome
from cliprt_batch._records import PART_ITEMS
from cliprt_batch._source import Source
from cliprt_batch._summary import Summary

# Seconds between two looks at the parts that appear.
_EVERY_S = 1.0


def embed_on_ray(
    source: Source,
    out: Path,
    model: Local | Served,
    options: JobOptions | None = None,
    *,
    address: str | None = None,
    workers: int | None = None,
    retry_failed: bool = False,
    keep_going: bool = False,
    monitor: Monitor | None = None,
) -> Summary:
    """Embeds a source as ``embed`` does, with an actor on each node of a Ray cluster.

    The actors write into the folder themselves, so all nodes must see it, the source and the bundle
    under the same names. The bytes are those of ``embed``, and each can go on where the other was.

    Args:
        source: what to embed.
        out: folder of the output.
        model: computes the embeddings.
        options: what the output is like; None means the defaults.
        address: of the cluster; None starts a Ray on this machine that ends with the job.
        workers: processes of each node that decode; None means one for each core.
        retry_failed: try items again that failed in an earlier run.
        keep_going: take items for failed however many cannot be read in a row.
        monitor: is told how far the job is; None means nobody.

    Returns:
        What was done, and how fast.

    Raises:
        MissingExtra: Ray is not installed.
        DeploymentError: as ``embed``; or the cluster cannot be used, or an actor died again and
            again.
        RetryableError: the server is gone or full and did not come back.
        CliprtError: the model failed.
    """
    require_installed("ray", extra="ray")
    out, options, monitor = out.absolute(), options or JobOptions(), monitor or Monitor()
    if isinstance(model, Local):
        model = replace(model, bundle=model.bundle.absolute())
    described = source.describe()  # there must be one, before a model is opened
    with model.encoder(options, model.settings_in(out)) as encoder:
        config = config_of(described, encoder, options)

        def run(job: Job) -> int:
            units = [unit.number for unit in job.left]
            if retry_failed:
                # What fails now is tried again too, within its unit.
                done = job.folder.done()
                units += [number for number, record in done.items() if record.failed]
            if not units:
                return 0
            token = job.folder.invite()
            order = Order(
                out, config, token, model, options, job.settings, workers, retry_failed, keep_going
            )
            task = Task(address, units, pickle.dumps(order))
            results = _Results(job, monitor)
            with _told(results), outcomes(task) as arriving:
                for outcome in arriving:
                    results.take(outcome)
            return results.computed

        return carry_out(source, out, config, encoder, options, run=run, monitor=monitor)


class _Results:
    """Adds up what actors did, and tells a monitor of it.

    Attributes:
        computed: items that went through the towers.
    """

    def __init__(self, job: Job, monitor: Monitor) -> None:
        self.computed = 0
        self._job, self._monitor = job, monitor
        self._lock = threading.Lock()
        self._workers: dict[str, Outcome] = {}
        done = job.folder.done().values()
        self._items = sum(record.items for record in done)
        self._failed = sum(sum(record.failed.values()) for record in done)
        self._left = {unit.number: unit.items for unit in job.left}
        self._told = (job.kept, self._failed)

    def take(self, outcome: Outcome) -> None:
        """Counts a unit.

        Raises:
            OutputError: it is not there.
        """
        folder = self._job.folder
        with self._lock:
            before = folder.done().get(outcome.unit)
            if not folder.look(outcome.unit):
                raise OutputError(
                    f"the node {outcome.node} says that shard {outcome.unit} is done, but it is "
                    f"not in {folder.out}; that folder must be one that all nodes share"
                )
            record = folder.done_record(outcome.unit)
            self._items += record.items - (before.items if before else 0)
            self._failed += sum(record.failed.values())
            self._failed -= sum(before.failed.values()) if before else 0
            self._left.pop(outcome.unit, None)
            self.computed += outcome.computed
            self._workers[outcome.worker] = outcome
            self._add_up_times()
            self._tell()

    def look(self) -> None:
        """Tells of parts that have appeared."""
        with self._lock:
            self._tell()

    def _tell(self) -> None:
        items = self._items
        for unit, parts in self._job.folder.begun().items():
            if unit in self._left:
                most = self._left[unit]
                items += parts * PART_ITEMS if most is None else min(parts * PART_ITEMS, most)
        before, self._told = self._told, (items, self._failed)
        if before != self._told:
            self._monitor.advance(items - before[0], self._failed - before[1])

    def _add_up_times(self) -> None:
        """What all processes did; those that one node had after each other count as one."""
        times = self._job.times
        busy_s: dict[str, float] = {}
        hands: dict[str, dict[str, int]] = {}
        for outcome in self._workers.values():
            for stage, seconds in outcome.busy_s.items():
                busy_s[stage] = busy_s.get(stage, 0.0) + seconds
                hands.setdefault(stage, {})[outcome.node] = outcome.hands.get(stage, 1)
        times.busy_s.update(busy_s)
        times.hands.update({stage: sum(each.values()) for stage, each in hands.items()})


@contextmanager
def _told(results: _Results) -> Iterator[None]:
    """Looks at the parts now and then, in a thread; what that meets is raised at the end."""
    ended = threading.Event()
    errors: list[Exception] = []

    def look() -> None:
        try:
            while not ended.wait(_EVERY_S):
                results.look()
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    thread = threading.Thread(target=look, name="cliprt-ray-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    if errors:
        raise errors[0]
