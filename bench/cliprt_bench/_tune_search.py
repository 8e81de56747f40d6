"""The search for settings: one thing is changed at a time, what is clearly better is kept.

Candidates are measured one after the other, and the best of many is partly luck. So in the end
those that matter are measured again, in turns, each time with a server that was started anew: only
that decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from cliprt._errors import CliprtError, InvalidInput
from cliprt_bench._tune import Candidate, Goal, Plan, Trial, Window, is_better, too_few

# A candidate must be better by this part to be taken: the plain one is simpler.
MARGIN = 0.03

WORTH = 0.1
"""From this part on a precision that loses fidelity is worth it."""

BATCHES = (1, 4, 16)
DELAYS_US = (0, 500, 2_000, 5_000)
INSTANCES = (1, 2)
GOALS = ("throughput", "latency")

# Two turns have no spread to speak of.
_LEAST_TURNS = 3

Measure: TypeAlias = Callable[[Candidate, range], Sequence[Window]]
"""Serves a candidate and measures windows of the given numbers, or fewer if it is settled."""


@dataclass(frozen=True)
class Rival:
    """A precision that loses fidelity, beside the plainest one.

    Attributes:
        ours: its best trial.
        plain: of the plainest precision, all other settings being equal.
    """

    ours: Trial
    plain: Trial


@dataclass(frozen=True)
class Result:
    """What the search came to.

    Attributes:
        goal: what was wanted.
        best: the best trial that holds the limit; where none does, the nearest. What took turns is
            judged by them alone.
        default: where the search began.
        rivals: of the precisions that lose fidelity.
        trials: all of them, in their order.
        turns: of those that took turns in the end.
        complete: whether the search came to its end; false after Ctrl-C.
    """

    goal: Goal
    best: Trial
    default: Trial
    rivals: tuple[Rival, ...]
    trials: tuple[Trial, ...]
    turns: tuple[Trial, ...]
    complete: bool

    @property
    def held(self) -> bool:
        """Whether the best one holds the limit."""
        return self.best.holds(self.goal)


def is_worth(ours: Trial, plain: Trial, goal: Goal) -> bool:
    """Whether a precision that loses fidelity is worth it beside the plain one."""
    return ours.holds(goal) and is_better(ours, plain, goal, WORTH)


class Search:
    """Changes one thing after the other and keeps what is clearly better."""

    def __init__(
        self,
        measure: Measure,
        goal: Goal,
        plan: Plan,
        precisions: Sequence[str],
        *,
        most_items: int | None = None,
        tell: Callable[[str], None] = lambda what: None,
    ) -> None:
        """Measures nothing yet.

        Args:
            measure: measures a candidate.
            goal: what is wanted.
            plan: windows of a candidate, and turns.
            precisions: that may be used, the plainest first; the others lose fidelity.
            most_items: items that requests bring at once, callers times batch; larger batches than
                that are not tried. None tries all.
            tell: is told of every trial.
        """
        self._measure, self._goal, self._plan, self._tell = measure, goal, plan, tell
        self._plain, *self._lossy = precisions
        self._moves = tuple(_moves(most_items))
        self._trials: dict[Candidate, Trial] = {}
        self._turns: dict[Candidate, Trial] = {}
        # The best of each precision so far.
        self._bests: dict[str, Trial] = {}

    @property
    def most_candidates(self) -> int:
        """Candidates that may be tried, at most."""
        climb = sum(len(alternatives) - 1 for alternatives in self._moves)
        return 1 + climb + len(self._lossy) * (2 + climb)

    @property
    def most_turns(self) -> int:
        """Windows of the turns, at most."""
        return self._plan.repeats * (2 + 2 * len(self._lossy))

    def run(self) -> Result:
        """Searches until there is nothing left to try, or until Ctrl-C.

        Raises:
            KeyboardInterrupt: before the first candidate was measured.
            InvalidInput: there are too few requests for the percentile.
            CliprtError: the first candidate cannot be served, or its first request failed.
        """
        complete = False
        try:
            self._explore()
            self._take_turns(self._finalists())
            complete = True
        except KeyboardInterrupt:
            if not self._trials:
                raise
        return self._result(complete)

    def _explore(self) -> None:
        default = self._try(Candidate(self._plain))
        if default.unknown(self._goal):
            seen, repeats = len(default.windows), self._plan.repeats
            seconds = sum(window.seconds for window in default.windows) / seen * repeats
            raise InvalidInput(too_few(self._goal, default.samples * repeats // seen, seconds))
        self._climb(default)
        for precision in self._lossy:
            plain = self._bests[self._plain]
            ours = self._try(replace(plain.candidate, precision=precision))
            # What is not worth it under equal settings is not tuned; unless nothing holds so far.
            if not ours.problem and (
                not plain.holds(self._goal) or is_worth(ours, plain, self._goal)
            ):
                self._climb(ours)
            self._try(replace(self._bests[precision].candidate, precision=self._plain))

    def _climb(self, begin: Trial) -> None:
        """Changes one thing after the other, of one precision."""
        precision = begin.candidate.precision
        for alternatives in self._moves:
            for changes in alternatives:
                candidate = _changed(self._bests[precision].candidate, changes)
                if candidate not in self._trials:
                    self._try(candidate)

    def _try(self, candidate: Candidate) -> Trial:
        if (known := self._trials.get(candidate)) is not None:
            return known
        try:
            windows = tuple(self._measure(candidate, range(self._plan.repeats)))
            trial = Trial(candidate, windows)
        except CliprtError as error:
            if not self._trials:
                raise
            trial = Trial(candidate, (), problem=str(error))
        self._trials[candidate] = trial
        best = self._bests.get(candidate.precision)
        if best is None or is_better(trial, best, self._goal, MARGIN):
            self._bests[candidate.precision] = trial
        number, most = len(self._trials), self.most_candidates
        self._tell(f"{number} of at most {most}: {trial.in_words(self._goal)}")
        return trial

    def _finalists(self) -> list[Candidate]:
        """The defaults, the best of each precision, and what these are compared with."""
        default = next(iter(self._trials.values()))
        found = [default, self._bests[self._plain]]
        for rival in self._rivals(self._trials):
            found += [rival.ours, rival.plain]
        wanted = dict.fromkeys(
            trial.candidate for trial in found if len(trial.windows) == self._plan.repeats
        )
        return list(wanted) if len(wanted) > 1 else []

    def _rivals(self, known: dict[Candidate, Trial]) -> tuple[Rival, ...]:
        pairs = [
            (best.candidate, replace(best.candidate, precision=self._plain))
            for precision, best in self._bests.items()
            if precision != self._plain
        ]
        return tuple(
            Rival(known[ours], known[plain])
            for ours, plain in pairs
            if ours in known and plain in known
        )

    def _take_turns(self, candidates: Sequence[Candidate]) -> None:
        seen: dict[Candidate, list[Window]] = {candidate: [] for candidate in candidates}
        problems: dict[Candidate, str] = {}
        repeats = self._plan.repeats
        try:
            for turn in range(repeats):
                # Every other turn goes backwards: what drifts meets all alike.
                for candidate in reversed(candidates) if turn % 2 else candidates:
                    if candidate in problems:
                        continue
                    try:
                        seen[candidate] += self._measure(candidate, range(turn, turn + 1))
                    except CliprtError as error:
                        problems[candidate] = str(error)
                    self._tell(f"turn {turn + 1} of {repeats}: {candidate.in_words()}")
        finally:
            for each in problems:
                del seen[each]
            turns = min(map(len, seen.values()), default=0)
            whole = {
                each: Trial(each, tuple(windows[:turns]), in_turns=True)
                for each, windows in seen.items()
            }
            # After Ctrl-C there may be too few requests, too.
            if turns >= _LEAST_TURNS and not any(t.unknown(self._goal) for t in whole.values()):
                self._turns = whole
            self._turns |= {each: Trial(each, (), problem=why) for each, why in problems.items()}

    def _result(self, complete: bool) -> Result:
        goal, known = self._goal, {**self._trials, **self._turns}
        default = known[next(iter(self._trials))]
        best, plain = default, known[self._bests[self._plain].candidate]
        # In the end what held the limit comes before what did not, however near the two are.
        if is_better(plain, best, goal, MARGIN) or _alone_holds(plain, best, goal):
            best = plain
        if not best.holds(goal):
            # Before one that loses fidelity comes any other of the plainest that held.
            best = _nearest(known.values(), goal, self._plain)
        rivals = self._rivals(known)
        for rival in rivals:
            worth = is_worth(rival.ours, rival.plain, goal) and is_worth(rival.ours, best, goal)
            if worth or _alone_holds(rival.ours, best, goal):
                best = rival.ours
        if not best.holds(goal):
            best = _nearest(known.values(), goal)
        return Result(
            goal=goal,
            best=best,
            default=default,
            rivals=rivals,
            trials=tuple(self._trials.values()),
            turns=tuple(self._turns.values()),
            complete=complete,
        )


def _alone_holds(trial: Trial, other: Trial, goal: Goal) -> bool:
    return trial.holds(goal) and not other.holds(goal)


def _nearest(trials: Iterable[Trial], goal: Goal, precision: str | None = None) -> Trial:
    """The one nearest to the limit, or furthest within it; of one precision or of all.

    Not the fastest: what is like one that failed its turns would probably fail, too.
    """
    own = [trial for trial in trials if precision in (None, trial.candidate.precision)]
    return min(own, key=lambda trial: trial.nearness_ms(goal))


def _moves(most_items: int | None) -> Iterator[list[dict[str, Any]]]:
    """What is tried, one thing after the other: what changes most first."""
    yield [{"cpu_goal": goal} for goal in GOALS]
    default = Candidate("").policy.batch_size()
    sizes = [size for size in BATCHES if most_items is None or size <= most_items]
    yield [{"max_batch_size": size} for size in (*sizes, default)]
    yield [{"max_queue_delay_us": delay} for delay in DELAYS_US]
    yield [{"instances": count} for count in INSTANCES]


def _changed(candidate: Candidate, changes: dict[str, Any]) -> Candidate:
    own = {name: value for name, value in changes.items() if name == "cpu_goal"}
    rest = {name: value for name, value in changes.items() if name not in own}
    return replace(candidate, **own, policy=replace(candidate.policy, **rest))
