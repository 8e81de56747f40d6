"""Measures candidates with a real server, started anew for each."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from cliprt import Bundle
from cliprt._connection import Connection
from cliprt_bench._bench_card import Method, Tower, Workload
from cliprt_bench._inputs import InputSet
from cliprt_bench._measure import Measurement
from cliprt_bench._targets import Served
from cliprt_bench._tune import Candidate, Goal, Trial
from cliprt_engines import CpuSettings, chosen_settings
from cliprt_triton import TritonServer, write_repository

# An open loop needs threads for all requests that may be under way.
_MOST = 256


class Tuner:
    """Serves a candidate, asks it as the load will, and tells what it reached."""

    def __init__(
        self,
        bundle: Bundle,
        inputs: InputSet,
        goal: Goal,
        *,
        tower: Tower,
        batch: int,
        callers: int,
        method: Method,
        tell: Callable[[str], None],
    ) -> None:
        """Measures nothing yet.

        Args:
            bundle: what is served.
            inputs: what is embedded.
            goal: the load, and the limit.
            tower: which one is asked.
            batch: items of a request.
            callers: of the closed loop, where no rate is asked for.
            method: seconds and repeats.
            tell: is told of every trial.
        """
        self._bundle, self._inputs, self._method, self._tell = bundle, inputs, method, tell
        self._workload = Workload(
            tower=tower,
            batch=batch,
            concurrency=callers if goal.rate is None else _MOST,
            loop="closed" if goal.rate is None else "open",
            rate=goal.rate,
        )

    def evaluate(self, candidate: Candidate) -> Trial:
        """Measures a candidate.

        Raises:
            CliprtError: it cannot be served, or its first request failed.
        """
        with TemporaryDirectory(prefix="cliprt-tune-") as folder:
            repository = write_repository(
                self._bundle,
                Path(folder) / "models",
                precision=candidate.precision,
                policy=candidate.policy,
                settings=self.settings(candidate),
                link=True,
            )
            with (
                TritonServer(repository) as server,
                closing(Served(Connection(server.address))) as subject,
            ):
                measurement = Measurement(subject, self._inputs, self._method)
                measurement.run([self._workload])
                (point,) = measurement.points()
        trial = Trial.of(candidate, point)
        self._tell(trial.in_words())
        return trial

    def settings(self, candidate: Candidate) -> dict[str, CpuSettings]:
        """By tower, how it is computed."""
        card = self._bundle.card
        return {
            tower: chosen_settings(self._bundle, tower, candidate.precision, candidate.cpu_goal)
            for tower in ("image", "text")
            if getattr(card, tower) is not None
        }
