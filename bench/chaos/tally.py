"""What became of requests, counted by kind."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

End: TypeAlias = Literal["right", "refused", "wrong", "lost", "untyped"]
"""How requests end.

``right``: the right answer, or the right refusal of a bad item. ``refused``: in time, by an error
whose type says what to do. ``wrong``: another answer. ``lost``: nothing before the deadline.
``untyped``: an error that callers cannot tell by its type.
"""

BROKEN: tuple[End, ...] = ("wrong", "lost", "untyped")
"""Ends that nobody may meet."""

_EXAMPLES = 10


@dataclass(frozen=True)
class Outcome:
    """How one request ended.

    Attributes:
        kind: what was asked.
        end: how it ended.
        detail: the error's class, or what is wrong.
        seconds: how long it took.
    """

    kind: str
    end: End
    detail: str
    seconds: float


class Tally:
    """Counts outcomes, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, End]] = Counter()
        self._details: Counter[str] = Counter()
        self.examples: list[str] = []

    def add(self, outcome: Outcome) -> None:
        """Counts one more."""
        with self._lock:
            self._counts[outcome.kind, outcome.end] += 1
            if outcome.end == "refused":
                self._details[outcome.detail] += 1
            elif outcome.end in BROKEN and len(self.examples) < _EXAMPLES:
                self.examples.append(
                    f"{outcome.kind}, {outcome.end} after {outcome.seconds:.1f} s: {outcome.detail}"
                )

    def total(self, end: End | None = None) -> int:
        """Requests that ended so; None counts all."""
        with self._lock:
            return sum(n for (_, each), n in self._counts.items() if end in (None, each))

    @property
    def kept(self) -> bool:
        """Whether nobody met what nobody may meet."""
        return not any(self.total(end) for end in BROKEN)

    def rows(self) -> list[dict[str, Any]]:
        """A row of each kind."""
        ends: tuple[End, ...] = ("right", "refused", *BROKEN)
        with self._lock:
            kinds = sorted({kind for kind, _ in self._counts})
            return [
                {
                    "kind": kind,
                    "asked": sum(self._counts[kind, end] for end in ends),
                    **{end: self._counts[kind, end] for end in ends},
                }
                for kind in kinds
            ]

    def refusals(self) -> dict[str, int]:
        """How often each error was met."""
        with self._lock:
            return dict(self._details.most_common())
