"""A check that may be asked for as often as anyone likes, and is run as often as it may cost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from concurrent.futures import TimeoutError as NotInTime

import msgspec

from cliprt._health import Check, Report, report_of

_HOLDS_S = 1.0
"""How long a report holds, in seconds: who asks after that hears what is true now."""

_SOON_S = 0.8
"""Who has a report to fall back on waits no longer for the next one, in seconds.

Kubernetes gives a probe one second by default.
"""


class StandingCheck:
    """Runs a check for all who ask: one at a time, and again when its report is old.

    A check that does not end in time is reported as wrong, and no other is begun while it lasts. A
    busy report leaves the last verdict in force, as long as what is checked is seen at work and for
    a while after that: who is overloaded is not wrong, but who never has time for a question and is
    not seen at work cannot be told from one that hangs.
    """

    def __init__(
        self,
        check: Callable[[], Report],
        *,
        model: str,
        patience_s: float,
        waits_for: Callable[[], str],
        seen_at_work: Callable[[], float] | None = None,
        busy_s: float = 60.0,
    ) -> None:
        """Takes the check.

        Args:
            check: what is run, in a thread of its own.
            model: prefix of the models' names, for reports without a check.
            patience_s: how long one may take, in seconds.
            waits_for: says what a check under way waits for.
            seen_at_work: says when everything that is checked was last seen at work, however busy,
                by ``time.monotonic``; None where only a verdict tells that.
            busy_s: how long the last verdict holds while no check comes to one and nothing is seen
                at work, in seconds.
        """
        self._busy_s = busy_s
        self._seen_at_work = seen_at_work
        self._waits_for = waits_for
        self._check, self._model, self._patience_s = check, model, patience_s
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="cliprt-health")
        self._running: Future[Report] | None = None
        self._begun = self._until = self._judged = 0.0
        self._last: Report | None = None
        self._verdict: bool | None = None

    def report(self) -> Report:
        """The last report, or a new one if it comes soon; the first one after the patience."""
        with self._lock:
            if self._running is None:
                if self._last is not None and time.monotonic() < self._until:
                    return self._last
                self._begun = time.monotonic()
                self._running = self._pool.submit(self._check)
            running, begun, last = self._running, self._begun, self._last
        left_s = max(0.0, begun + self._patience_s - time.monotonic())
        try:
            report = running.result(left_s if last is None else min(left_s, _SOON_S))
        except NotInTime:
            waited_s = time.monotonic() - begun
            return last if last and waited_s < self._patience_s else self._late(waited_s)
        except Exception as error:  # noqa: BLE001 - a check that fails vouches for nothing
            report = self._single(f"the check failed: {error}", "see the server's log")
        return self._keep(running, report)

    def close(self) -> None:
        """Waits for a check under way, as long as one may take."""
        with self._lock:
            running = self._running
        if running is not None:
            wait([running], self._patience_s)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _keep(self, running: Future[Report], report: Report) -> Report:
        """Makes a report the last one, once, however many waited for it."""
        with self._lock:
            if self._running is not running:
                return self._last or report
            self._running = None
            now = time.monotonic()
            if report.status == "busy":
                # Of a model of which nothing is known yet nothing good is said.
                seen = self._seen_at_work() if self._seen_at_work else self._judged
                holds = now - max(self._judged, seen) < self._busy_s
                report = msgspec.structs.replace(report, healthy=bool(self._verdict) and holds)
            else:
                self._verdict, self._judged = report.healthy, now
            self._last = report
            self._until = now + _HOLDS_S
            return report

    def _late(self, waited_s: float) -> Report:
        return self._single(
            f"waits for {self._waits_for()} since {waited_s:.1f} s, the limit is "
            f"{self._patience_s:g} s",
            "it hangs, or is too slow for its traffic; see the queues in the metrics",
        )

    def _single(self, found: str, advice: str) -> Report:
        check = Check(where="model", what="check", verdict="wrong", found=found, advice=advice)
        return report_of([check], model=self._model, space="", took_s=0.0)
