"""Measures candidates with a real server, started anew for each."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cliprt import Bundle
from cliprt._connection import Connection
from cliprt_bench._bench_card import Tower
from cliprt_bench._inputs import InputSet
from cliprt_bench._load import closed_loop, open_loop
from cliprt_bench._targets import Served, sender
from cliprt_bench._trace import Trace
from cliprt_bench._tune import Candidate, Goal, Plan, Window
from cliprt_bench._tune_search import Search
from cliprt_engines import CpuSettings, chosen_settings
from cliprt_triton import TritonServer, write_repository

# Seconds that starting a server takes, roughly; for foretelling.
_START_S = 8.0

# An open loop needs threads for all requests that may be under way.
_MOST = 256

# Requests that are sent one by one first: the target's failures are told in its own words.
_WARM = 3

# A queue is as long as it will be after some tens of requests of its length.
_WARMUP_S, _WARMUP_REQUESTS = 1.0, 30


class Tuner:
    """Serves a candidate, asks it as the load will, and tells what was seen."""

    def __init__(
        self,
        bundle: Bundle,
        inputs: InputSet,
        goal: Goal,
        plan: Plan,
        *,
        tower: Tower,
        batch: int,
        callers: int,
    ) -> None:
        """Measures nothing yet.

        Args:
            bundle: what is served.
            inputs: what is embedded.
            goal: the load, and the limit.
            plan: windows of a candidate.
            tower: which one is asked.
            batch: items of a request.
            callers: of the closed loop, where no rate is asked for.
        """
        self._bundle, self._goal, self._plan = bundle, goal, plan
        self._items: Sequence[Any] = inputs.captions if tower == "text" else inputs.pictures
        self._tower, self._batch, self._callers = tower, batch, callers

    def measure(self, candidate: Candidate, numbers: range) -> list[Window]:
        """Measures windows of a candidate, all of them with one server.

        Args:
            candidate: what is served.
            numbers: of the windows. Requests of the same number come at the same moments.

        Returns:
            One of each number; fewer if the first settled that the limit is not held.

        Raises:
            KeyboardInterrupt: Ctrl-C ended a window.
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
                send = sender(subject, self._tower, self._items, self._batch)
                warmup = max(_WARMUP_S, _WARMUP_REQUESTS * _seconds_of(send))
                warmup = min(warmup, self._plan.seconds)
                windows: list[Window] = []
                for number in numbers:
                    windows.append(self._window(self._trace(send, number, warmup)))
                    if windows[0].settles(self._goal, self._plan):
                        break
        return windows

    def settings(self, candidate: Candidate) -> dict[str, CpuSettings]:
        """By tower, how it is computed."""
        card = self._bundle.card
        return {
            tower: chosen_settings(self._bundle, tower, candidate.precision, candidate.cpu_goal)
            for tower in ("image", "text")
            if getattr(card, tower) is not None
        }

    def _trace(self, send: Callable[[int], None], number: int, warmup: float) -> Trace:
        plan = self._plan
        if self._goal.rate is not None:
            # Every window is warmed up: it would begin with an empty queue.
            trace = open_loop(
                send,
                rate=self._goal.rate,
                seconds=plan.seconds,
                most=_MOST,
                seed=number,
                warmup=warmup,
            )
        else:
            trace = closed_loop(
                send,
                callers=self._callers,
                seconds=plan.seconds,
                least=plan.requests,
                longest=plan.longest,
                warmup=_WARMUP_S,
            )
        if not trace.complete:
            raise KeyboardInterrupt
        return trace

    def _window(self, trace: Trace) -> Window:
        return Window(
            items_s=trace.answered_s * self._batch,
            latencies_ms=trace.latencies_ms,
            seconds=trace.seconds,
            bottleneck=trace.was_bottleneck() is not None,
        )


def _seconds_of(send: Callable[[int], None]) -> float:
    """How long a request takes that is alone: the fastest of some."""
    times = []
    for number in range(_WARM):
        begun = time.monotonic()
        send(number)
        times.append(time.monotonic() - begun)
    return min(times)


def foretold(search: Search, plan: Plan) -> str:
    """Says how long a search will take."""
    window = plan.seconds + _WARMUP_S
    candidates, turns = search.most_candidates, search.most_turns
    seconds = candidates * (_START_S + plan.repeats * window) + turns * (_START_S + window)
    words = (
        f"At most {candidates} candidates, with {plan.repeats} windows of {plan.seconds:.3g} s "
        f"each, and {turns} turns: about {seconds / 60:.0f} minutes."
    )
    if plan.longest > plan.seconds:
        words += (
            f" Windows in which there are too few requests take up to {plan.longest:.3g} s, and it "
            "takes longer."
        )
    return f"{words} Ctrl-C ends it and keeps the best so far."
