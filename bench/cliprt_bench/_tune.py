"""What `cliprt tune` looks for, what it may change, and what a candidate reached.

Nothing here depends on who measures, so the search is tested with functions whose best is known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cliprt._errors import InvalidInput
from cliprt_bench._derived import Ratio, ratio_in_turns, ratio_of
from cliprt_bench._figures import Figure, enough_for, figure
from cliprt_bench._trace import PERCENTILES, percentile_of
from cliprt_triton import Policy

LONGEST_S = 60.0
"""Seconds to which a window is lengthened for its requests, if no longer one was asked for."""

# A candidate whose percentile lies that far beyond the limit in one window is not measured again.
_FAR = 2.0

# A percentile that only all windows together have has no interval: that far apart it is clear.
_CLEARLY = 1.25

# A closed loop that holds its limit has its requests in half of this time.
_SLACK = 2.0


@dataclass(frozen=True)
class Goal:
    """What is wanted.

    Attributes:
        limit_ms: the percentile must hold this limit, in milliseconds.
        rate: requests per second that come at random times; None asks for the highest throughput.
        percentile: of latency.
    """

    limit_ms: float
    rate: float | None = None
    percentile: int = 99

    def in_words(self) -> str:
        """The limit."""
        return f"p{self.percentile} within {self.limit_ms:g} ms"


@dataclass(frozen=True)
class Plan:
    """How long a candidate is measured.

    Attributes:
        repeats: windows of a candidate.
        seconds: of a window.
        longest: seconds to which a window of a closed loop is lengthened for its requests.
        requests: of a window. All windows together have enough for the percentile.
    """

    repeats: int
    seconds: float
    longest: float
    requests: int


def plan(goal: Goal, *, callers: int, seconds: float, repeats: int) -> Plan:
    """Windows that are long enough for the percentile.

    Args:
        goal: what is wanted.
        callers: of the closed loop, where no rate is asked for.
        seconds: of a window, at least.
        repeats: windows of a candidate.

    Raises:
        InvalidInput: at this rate a minute, or ``seconds`` where that is more, brings too few.
    """
    needed = _surely(enough_for(goal.percentile))
    requests = math.ceil(needed / repeats)
    bound = max(seconds, LONGEST_S)
    if goal.rate is None:
        # With every answer within the limit a caller asks again after that time, at the latest.
        within = _SLACK * requests * goal.limit_ms / 1e3 / callers
        return Plan(repeats, seconds, min(bound, max(seconds, within)), requests)
    if goal.rate * bound < requests:
        raise InvalidInput(too_few(goal, int(goal.rate * bound * repeats), bound * repeats))
    # Candidates are compared window by window, by a percentile that each window has.
    requests = max(requests, _surely(enough_for(95 if goal.percentile > 95 else 50)))
    window = min(bound, max(seconds, requests / goal.rate))
    return Plan(repeats, window, window, requests)


def too_few(goal: Goal, requests: int, seconds: float) -> str:
    """Says that a percentile cannot be told, and the ways out.

    Args:
        goal: its percentile.
        requests: that there are, in all windows of a candidate.
        seconds: of all these windows.
    """
    needed = enough_for(goal.percentile)
    ways = [
        f"limit a lower percentile (--p{lower})"
        for lower in (95, 90)
        if lower < goal.percentile and requests >= _surely(enough_for(lower))
    ][:1]
    if requests:
        times = math.ceil(_surely(needed) / requests * 10) / 10
        ways.append(f"measure {times:g} times as long (--seconds, --repeats)")
    return (
        f"p{goal.percentile} needs {needed:,} requests, and {seconds:g} s bring {requests:,}; "
        + " or ".join(ways or ["measure longer (--seconds, --repeats)"])
    )


def _surely(requests: int) -> int:
    """How many to expect where at least ``requests`` shall come, at random times."""
    # Three standard deviations above: x - 3 sqrt(x) = requests.
    return math.ceil(((3 + math.sqrt(9 + 4 * requests)) / 2) ** 2)


@dataclass(frozen=True)
class Candidate:
    """A way to serve a tower.

    Attributes:
        precision: of the towers.
        cpu_goal: for what the runtime's threads and batches were chosen, ``throughput`` or
            ``latency``.
        policy: batches and queues. What stands for a number is written as that number, so that no
            way has two names.
    """

    precision: str
    cpu_goal: Literal["throughput", "latency"] = "throughput"
    policy: Policy = field(default_factory=lambda: Policy(max_batch_size=Policy().batch_size()))

    def in_words(self) -> str:
        """What sets it apart."""
        policy = self.policy
        return (
            f"{self.precision}, threads for {self.cpu_goal}, batches of {policy.batch_size()}, "
            f"delay {policy.max_queue_delay_us} us, {policy.instances} "
            + ("instance" if policy.instances == 1 else "instances")
        )


@dataclass(frozen=True, eq=False)
class Window:
    """What was seen of a candidate in one window.

    Attributes:
        items_s: items answered in a second.
        latencies_ms: float64 [requests], ascending, milliseconds; infinite of those that failed.
        seconds: of the window.
        bottleneck: whether the load generator was.
    """

    items_s: float
    latencies_ms: NDArray[np.float64]
    seconds: float
    bottleneck: bool = False

    def settles(self, goal: Goal, plan: Plan) -> bool:
        """Whether more windows like this one cannot change that the limit is not held."""
        if len(self.latencies_ms) * plan.repeats < 0.8 * enough_for(goal.percentile):
            return True
        late = [percentile_of(self.latencies_ms, p) for p in PERCENTILES if p <= goal.percentile]
        known = [value for value in late if value is not None]
        return not known or known[-1] > _FAR * goal.limit_ms


@dataclass(frozen=True, eq=False)
class Trial:
    """What a candidate reached.

    Attributes:
        candidate: that was measured.
        windows: in which it was.
        problem: why there are none: it could not be served.
        in_turns: whether the candidates of the last comparison took turns with it.
    """

    candidate: Candidate
    windows: tuple[Window, ...]
    problem: str = ""
    in_turns: bool = False

    @property
    def items_s(self) -> Figure | None:
        """Items answered in a second; None if it could not be served."""
        return figure([window.items_s for window in self.windows]) if self.windows else None

    @property
    def samples(self) -> int:
        """Requests in all windows."""
        return sum(len(window.latencies_ms) for window in self.windows)

    @property
    def failed(self) -> int:
        """Requests that failed."""
        return sum(int(np.isinf(window.latencies_ms).sum()) for window in self.windows)

    def late_ms(self, percentile: int) -> float | None:
        """A percentile of all windows together; None with too few requests, or if they failed."""
        if not self.windows:
            return None
        every = np.concatenate([window.latencies_ms for window in self.windows])
        return percentile_of(np.sort(every), percentile)

    def holds(self, goal: Goal) -> bool:
        """Whether it is known that the limit was held and nothing failed."""
        late = self.late_ms(goal.percentile)
        return not self.failed and late is not None and late <= goal.limit_ms

    def unknown(self, goal: Goal) -> bool:
        """Whether there were too few requests to say that the limit was held, or was not."""
        if not self.windows or self.failed or self.late_ms(goal.percentile) is not None:
            return False
        nearness = self.nearness_ms(goal)
        return math.isinf(nearness) or nearness <= goal.limit_ms

    def nearness_ms(self, goal: Goal) -> float:
        """What there is of the goal's percentile: it, or the highest below it that is known.

        Returns:
            Milliseconds, infinite if the candidate could not be served, if requests failed, or
            with too few for any.
        """
        if not self.windows or self.failed:
            return math.inf
        late = [self.late_ms(p) for p in PERCENTILES if p <= goal.percentile]
        return max((value for value in late if value is not None), default=math.inf)

    def in_words(self, goal: Goal) -> str:
        """What was reached."""
        return f"{self.candidate.in_words()}: {self.reached(goal)}"

    def reached(self, goal: Goal) -> str:
        """What was reached, without the candidate."""
        if self.items_s is None:
            return f"cannot be served ({self.problem})"
        late = self.late_ms(goal.percentile)
        told = "unknown" if late is None else f"{late:.1f} ms"
        if late is None and not self.failed:
            needed = enough_for(goal.percentile)
            told = f"unknown with {self.samples:,} requests of {needed:,}"
            if not self.unknown(goal):
                nearness = self.nearness_ms(goal)
                told = f"beyond {nearness:.1f} ms"
        words = [f"{spread(self.items_s)} items/s", f"p{goal.percentile} {told}"]
        if self.failed:
            words.append(f"{self.failed:,} of {self.samples:,} requests failed")
        if any(window.bottleneck for window in self.windows):
            words.append("the load generator was the bottleneck")
        return ", ".join(words)


def spread(found: Figure) -> str:
    """A figure and how far its interval reaches: ``20.1 ± 0.4``."""
    if found.reach is None:
        return f"{found.value:.1f}"
    return f"{found.value:.1f} ± {found.reach:.1f}"


@dataclass(frozen=True)
class Gain:
    """How many times better one trial is than another.

    Attributes:
        value: above 1 it is better.
        low: lower end of the 95 % confidence interval; None if it is not known.
        high: upper end.
        by: what was compared, in words.
    """

    value: float
    low: float | None
    high: float | None
    by: str

    def clear(self, margin: float) -> bool:
        """Whether it is more than noise, and at least so much."""
        return self.low is not None and self.low > 1 and self.value >= 1 + margin

    def in_words(self) -> str:
        """``1.25 times (1.21 to 1.29)``."""
        if self.low is None or self.high is None:
            return f"{self.value:.2f} times"
        return f"{self.value:.2f} times ({self.low:.2f} to {self.high:.2f})"


def gain(new: Trial, old: Trial, goal: Goal) -> Gain | None:
    """How many times more items in a second; at a given rate, how many times earlier the answers.

    Answers are compared by the highest percentile that every window of both has enough requests
    for, up to the goal's. Of trials that took turns each turn is a pair, and what drifts meets
    both alike.

    Returns:
        None if there is nothing to compare.
    """
    if not new.windows or not old.windows:
        return None
    if goal.rate is not None:
        return _earlier(new, old, goal)
    both = [[window.items_s for window in trial.windows] for trial in (new, old)]
    return _times(new, old, both, "in items per second")


def _times(new: Trial, old: Trial, both: Sequence[Sequence[float]], by: str) -> Gain | None:
    """How many times as much, of the values of each window of both."""
    ours, theirs = both
    if min(*ours, *theirs) <= 0:
        return None
    ratio: Ratio | None
    if new.in_turns and old.in_turns and len(ours) > 1:
        ratio = ratio_in_turns(ours, theirs)
    else:
        ratio = ratio_of(figure(ours), figure(theirs))
    return None if ratio is None else Gain(ratio.value, ratio.low, ratio.high, by)


def _earlier(new: Trial, old: Trial, goal: Goal) -> Gain | None:
    """How many times earlier the answers are."""
    for percentile in sorted((p for p in PERCENTILES if p <= goal.percentile), reverse=True):
        late = [
            [percentile_of(window.latencies_ms, percentile) for window in trial.windows]
            for trial in (new, old)
        ]
        known = [[1e3 / value for value in values if value] for values in late]
        if all(len(values) == len(each) for values, each in zip(known, late, strict=True)):
            return _times(new, old, known, f"by the inverse of p{percentile}")
    return None


def _clearly_earlier(new: Trial, old: Trial, goal: Goal, margin: float) -> bool:
    """Whether a trial is nearer to the limit, or further within it, by more than noise."""
    ours, theirs = new.nearness_ms(goal), old.nearness_ms(goal)
    if not ours * (1 + margin) < theirs:
        return False
    found = _earlier(new, old, goal)
    return ours * _CLEARLY < theirs or (found is not None and found.clear(0.0))


def is_better(new: Trial, old: Trial, goal: Goal, margin: float) -> bool:
    """Whether a trial is better, and that is more than noise.

    What holds the limit is better than what does not, if it answers clearly earlier: 49.9 and
    50.1 ms at a limit of 50 are the same. Where neither does, what is clearly nearer to it is.

    Args:
        new: may be better.
        old: than this one.
        goal: what is wanted.
        margin: part by which it has to be.
    """
    if not old.holds(goal):
        return _clearly_earlier(new, old, goal, 0.0 if new.holds(goal) else margin)
    found = gain(new, old, goal) if new.holds(goal) else None
    return found is not None and found.clear(margin)
