"""What an actor of Ray does: units of a job, one after the other, on a whole machine."""

from __future__ import annotations

import pickle
import socket
import traceback
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import cliprt
from cliprt._errors import CliprtError, DeploymentError
from cliprt_batch._guest_folder import GuestFolder
from cliprt_batch._models import Model
from cliprt_batch._monitor import Monitor
from cliprt_batch._options import JobOptions
from cliprt_batch._output_errors import OutputError
from cliprt_batch._pipeline import Times
from cliprt_batch._run_config import RunConfig
from cliprt_batch._source import Plan, open_plan
from cliprt_batch._work import Work

# How often a unit is begun at the same part: Ray starts actors that die again without end.
_ATTEMPTS = 4


@dataclass(frozen=True)
class Order:
    """What an actor is told.

    Attributes:
        out: folder of the output, as all nodes see it.
        config: of the run in it.
        token: the invitation to write there.
        where: what computes.
        options: of the job.
        settings: with which every process computes.
        workers: processes that decode; None means one for each core of the node.
        retry_failed: whether failed items are tried again.
        keep_going: whether items are taken for failed however many cannot be read in a row.
    """

    out: Path
    config: RunConfig
    token: str
    where: Model
    options: JobOptions
    settings: dict[str, Any]
    workers: int | None
    retry_failed: bool
    keep_going: bool


class Outcome(msgspec.Struct, frozen=True):
    """What became of a unit.

    Attributes:
        unit: its number.
        node: the machine.
        worker: the process; another one after each restart.
        computed: items that this process took through the towers for the unit.
        busy_s: of this process since its start, as in ``Times``.
        hands: likewise.
        error: what went wrong, pickled; None if the unit is committed.
    """

    unit: int
    node: str
    worker: str
    computed: int = 0
    busy_s: dict[str, float] = {}
    hands: dict[str, int] = {}
    error: bytes | None = None


class RemoteTraceback(Exception):
    """Where an error arose in an actor, as text."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class RayWorker:
    """The callable class that Ray Data makes an actor of.

    Failures come back as outcomes: of errors that are raised here Ray would make pages of text.
    """

    def __init__(self, version: str, order: bytes) -> None:
        """Opens nothing yet.

        Args:
            version: of cliprt where the job was started.
            order: a pickled ``Order``.
        """
        self._version, self._order = version, order
        self._node = socket.gethostname()
        self._name = f"{self._node}/{id(self):x}/{np.random.default_rng().integers(2**63):x}"
        self._opened: _Opened | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Does one unit.

        Args:
            batch: with the column ``unit``, of one number.

        Returns:
            A column ``outcome``, of one encoded ``Outcome``.
        """
        [unit] = batch["unit"].tolist()
        try:
            outcome = self._do(unit)
        except Exception as error:  # noqa: BLE001 - it is raised where the job was started
            outcome = Outcome(unit, self._node, self._name, error=pickled(error))
        return {"outcome": np.array([msgspec.msgpack.encode(outcome)], dtype=object)}

    def _do(self, unit: int) -> Outcome:
        if self._opened is None:
            if cliprt.__version__ != self._version:
                raise DeploymentError(
                    f"cliprt {cliprt.__version__} is installed, the job was started with "
                    f"{self._version}; install the same version on every node"
                )
            self._opened = _Opened(pickle.loads(self._order))
        computed = self._opened.do(unit)
        times = self._opened.work.times
        return Outcome(unit, self._node, self._name, computed, times.busy_s, times.hands)


class _Opened:
    """The folder, the plan and the model, as long as the process lives."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._folder = GuestFolder.join(order.out, order.config, order.token)
        self._plan: Plan = open_plan(self._folder.plan_folder)
        # Whatever this holds ends with the process, which nobody closes.
        self._kept = ExitStack()
        encoder = self._kept.enter_context(order.where.encoder(order.options, order.settings))
        self.work = Work(
            self._plan, self._folder, encoder, order.options,
            workers=order.workers, keep_going=order.keep_going, times=Times(), monitor=Monitor(),
        )  # fmt: skip

    def do(self, number: int) -> int:
        """Does what is left of a unit; returns how many items went through the towers."""
        before = self.work.computed
        unit = self._plan.units[number]
        try:
            if not self._folder.look(number):
                if self._folder.attempts(number) > _ATTEMPTS:
                    raise DeploymentError(
                        f"the process that computes shard {number} ended {_ATTEMPTS} times without "
                        "getting any further; memory may be short: fewer --workers take less"
                    )
                self.work.run(self.work.missing([unit]))
        except OutputError:
            # An actor that was taken for dead may have ended the unit, and its parts, meanwhile.
            if not self._folder.look(number):
                raise
        if self._order.retry_failed:
            self.work.run(self.work.failed([unit]))
        return self.work.computed - before


def pickled(error: Exception) -> bytes:
    text = "".join(traceback.format_exception(error))
    if not isinstance(error, CliprtError):
        error = CliprtError(f"{type(error).__name__}: {error}")
    try:
        return pickle.dumps((error, text))
    except Exception:  # noqa: BLE001 - an error of somebody else's making
        return pickle.dumps((CliprtError(str(error)), text))
