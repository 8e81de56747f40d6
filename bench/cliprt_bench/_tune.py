"""The search for settings: one thing is changed at a time, and what is better is kept.

What a candidate is worth is measured; which one to try next does not depend on who measures, so the
search is tested with functions whose best is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from cliprt_bench._bench_card import Point
from cliprt_triton import Policy

# A candidate must be better by this part to be taken: less is noise, and the plain one is simpler.
MARGIN = 0.03

# From this part on a precision that loses fidelity is worth it.
WORTH = 0.1

BATCHES = (1, 4, 16, 64)
DELAYS_US = (0, 500, 2_000, 5_000)
INSTANCES = (1, 2)
GOALS = ("throughput", "latency")


@dataclass(frozen=True)
class Goal:
    """What is wanted.

    Attributes:
        p99_ms: the 99th percentile must hold this limit, in milliseconds.
        rate: requests per second that come at random times; None asks for the highest throughput.
    """

    p99_ms: float
    rate: float | None


@dataclass(frozen=True)
class Candidate:
    """A way to serve a tower.

    Attributes:
        precision: of the towers.
        cpu_goal: for what the runtime's threads and batches were chosen, ``throughput`` or
            ``latency``.
        policy: batches and queues.
    """

    precision: str
    cpu_goal: Literal["throughput", "latency"] = "throughput"
    policy: Policy = field(default_factory=Policy)

    def in_words(self) -> str:
        """What sets it apart."""
        policy = self.policy
        return (
            f"{self.precision}, threads for {self.cpu_goal}, batches of {policy.batch_size()}, "
            f"delay {policy.max_queue_delay_us} us, {policy.instances} instances"
        )


@dataclass(frozen=True)
class Trial:
    """What a candidate reached.

    Attributes:
        candidate: that was measured.
        p50_ms: median latency of a request.
        p99_ms: 99th percentile; None if there were too few requests, or it does not exist because
            requests failed.
        items_s: items answered in a second.
        failed: requests that failed.
    """

    candidate: Candidate
    p50_ms: float | None
    p99_ms: float | None
    items_s: float
    failed: int

    @classmethod
    def of(cls, candidate: Candidate, point: Point) -> Trial:
        """From a point of a card."""

        def value(name: str) -> float | None:
            found = point.figures.get(name)
            return None if found is None else found.value

        return cls(
            candidate=candidate,
            p50_ms=value("p50_ms"),
            p99_ms=value("p99_ms"),
            items_s=value("items_s") or 0.0,
            failed=sum(point.errors.values()),
        )

    def holds(self, goal: Goal) -> bool:
        """Whether the limit was held and nothing failed."""
        return not self.failed and self.p99_ms is not None and self.p99_ms <= goal.p99_ms

    def score(self, goal: Goal) -> float:
        """The greater, the better: items in a second, or at a given rate the inverse of p99.

        What does not hold the limit is worse than whatever does, and better the nearer it comes.
        """
        if not self.holds(goal):
            late = self.p99_ms if self.p99_ms is not None else self.p50_ms
            return -1.0 if late is None or self.failed else -(1 - 1 / (1 + late / goal.p99_ms))
        if goal.rate is None:
            return self.items_s
        assert self.p99_ms is not None
        return 1e3 / self.p99_ms

    def in_words(self) -> str:
        """What was reached."""
        p99 = "unknown" if self.p99_ms is None else f"{self.p99_ms:.1f} ms"
        failed = f", {self.failed} requests failed" if self.failed else ""
        return f"{self.candidate.in_words()}: {self.items_s:.1f} items/s, p99 {p99}{failed}"


@dataclass(frozen=True)
class Result:
    """What the search came to.

    Attributes:
        best: the best trial.
        trials: all of them, in their order; the first is where the search began.
        goal: what was wanted.
    """

    best: Trial
    trials: tuple[Trial, ...]
    goal: Goal

    @property
    def held(self) -> bool:
        """Whether any candidate held the limit."""
        return self.best.holds(self.goal)

    def why(self) -> str:
        """The outcome in sentences."""
        first, best = self.trials[0], self.best
        if not self.held:
            return (
                f"Nothing held p99 within {self.goal.p99_ms:g} ms: the nearest was "
                f"{best.in_words()}. Raise the limit, lower the load, or add machines."
            )
        words = [f"Best: {best.in_words()}."]
        if best is first:
            words.append("Nothing was better than the defaults.")
        elif first.holds(self.goal):
            gain = best.score(self.goal) / first.score(self.goal)
            words.append(f"That is {gain:.2f} times what the defaults reach ({self._measure()}).")
        else:
            words.append("The defaults do not hold the limit.")
        words.append(self._about_int8())
        return " ".join(filter(None, words))

    def _measure(self) -> str:
        return "items in a second" if self.goal.rate is None else "by the inverse of p99"

    def _about_int8(self) -> str:
        """Whether int8 is worth what it loses."""
        best = {
            quantised: max(found, key=lambda trial: trial.score(self.goal), default=None)
            for quantised, found in (
                (True, [t for t in self.trials if "int8" in t.candidate.precision]),
                (False, [t for t in self.trials if "int8" not in t.candidate.precision]),
            )
        }
        ours, plain = best[True], best[False]
        if ours is None or plain is None or not ours.holds(self.goal):
            return ""
        if not plain.holds(self.goal):
            return f"Only {ours.candidate.precision} holds the limit."
        gain = ours.score(self.goal) / plain.score(self.goal)
        verdict = "is worth it here" if gain >= 1 + WORTH else "is not worth it here"
        return (
            f"{ours.candidate.precision} {verdict}: {gain:.2f} times {plain.candidate.precision}."
        )


def search(
    evaluate: Callable[[Candidate], Trial],
    goal: Goal,
    precisions: Sequence[str],
    *,
    most_items: int | None = None,
) -> Result:
    """Changes one thing after the other and keeps what is better.

    Args:
        evaluate: measures a candidate.
        goal: what is wanted.
        precisions: that may be used, the plainest first.
        most_items: items that requests bring at once, callers times batch; larger batches than
            that are not tried. None tries all.

    Returns:
        The best trial and all others. In a tie the one that is nearer to the defaults.
    """
    trials = [evaluate(Candidate(precisions[0]))]
    best = trials[0]
    for alternatives in _moves(precisions, most_items):
        for changes in alternatives:
            candidate = _changed(best.candidate, changes)
            if any(trial.candidate == candidate for trial in trials):
                continue
            trial = evaluate(candidate)
            trials.append(trial)
            if _is_better(trial, best, goal):
                best = trial
    return Result(best, tuple(trials), goal)


def _moves(precisions: Sequence[str], most_items: int | None) -> Iterator[list[dict[str, Any]]]:
    """What is tried, one thing after the other: what changes most first."""
    yield [{"precision": precision} for precision in precisions]
    yield [{"cpu_goal": goal} for goal in GOALS]
    yield [
        {"max_batch_size": size}
        for size in BATCHES
        if most_items is None or size <= max(most_items, BATCHES[0])
    ]
    yield [{"max_queue_delay_us": delay} for delay in DELAYS_US]
    yield [{"instances": count} for count in INSTANCES]


def _changed(candidate: Candidate, changes: dict[str, Any]) -> Candidate:
    own = {name: value for name, value in changes.items() if name in ("precision", "cpu_goal")}
    rest = {name: value for name, value in changes.items() if name not in own}
    return replace(candidate, **own, policy=replace(candidate.policy, **rest))


def _is_better(trial: Trial, best: Trial, goal: Goal) -> bool:
    new, old = trial.score(goal), best.score(goal)
    return new > old + MARGIN * abs(old)
