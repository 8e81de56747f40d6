"""Whether something grew: series of readings, and what they may grow by.

A process that was started again begins a new series, since it begins with nothing. The first fifth
of a series fills caches and pools. What counts is the median of its last fifth minus that of its
second fifth: single readings, however far off, change neither. Theil and Sen's slope (the median of
the slopes of all pairs) of all readings behind the first fifth is told beside it, for whoever wants
to know what a longer run would come to; it is not judged, because allocators grow in steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WARM_UP = 0.2
LEAST_READINGS = 25
"""Fewer readings in a series are too few for medians of its fifths."""

Bounds = Mapping[str, float]

BOUNDS: Mapping[str, Bounds] = {
    "client": {"memory_mb": 64, "files": 8, "threads": 4},
    "front": {"memory_mb": 64, "files": 8, "threads": 4},
    "tritonserver": {"memory_mb": 100, "files": 8, "threads": 4},
    "stub": {"memory_mb": 50, "files": 4, "threads": 4},
    "run": {"regions": 4, "regions_mb": 16, "children": 4, "zombies": 1, "temporary": 2},
}
"""By kind of process, what each may grow by behind its warm-up.

Memory of 10**6 bytes: 100 MB is the limit of Triton's own tests; the client's processes, which are
smaller, get less. Leaks worth the name are told from noise by these: one of 1 KB in a request is
more than 100 MB in ten minutes at 200 requests in a second. Files and threads are counts; clients
come and go all the time, so a few more or less are noise. "run" is what all processes together have
in /dev/shm, as children and in the folder of temporary files.
"""


@dataclass(frozen=True)
class Series:
    """Readings of one number of one process.

    Attributes:
        role: what the process is, ``client`` or ``stub clip_text`` for instance.
        generation: counts the processes that had this role, from 1.
        what: the number, a key of ``BOUNDS``.
        at_s: when it was read, in seconds since the run began.
        values: what was read.
    """

    role: str
    generation: int
    what: str
    at_s: Sequence[float]
    values: Sequence[float]

    @property
    def kind(self) -> str:
        """The key of ``BOUNDS`` for its role."""
        return self.role.partition(" ")[0]


@dataclass(frozen=True)
class Growth:
    """What a series did behind its warm-up.

    Attributes:
        first: median of its second fifth.
        last: median of its last fifth.
        per_hour: slope of Theil and Sen, per hour.
        seconds: that the whole series lasted.
    """

    first: float
    last: float
    per_hour: float
    seconds: float

    @property
    def grown(self) -> float:
        """What the level rose by; negative if it fell."""
        return self.last - self.first


@dataclass(frozen=True)
class Judged:
    """A series beside its bound."""

    series: Series
    growth: Growth
    bound: float

    @property
    def broken(self) -> bool:
        """Whether it grew by more than it may."""
        return self.growth.grown > self.bound

    def line(self) -> str:
        """What happened, in words."""
        one = self.series
        return (
            f"{one.what} of {one.role} (process {one.generation}) grew by {self.growth.grown:.1f} "
            f"within {self.growth.seconds:.0f} s, {self.bound:g} allowed"
        )


def growth(at_s: Sequence[float], values: Sequence[float]) -> Growth | None:
    """What a series grew by; None if it has too few readings to say."""
    if len(values) < LEAST_READINGS:
        return None
    at, read = np.asarray(at_s, float), np.asarray(values, float)
    lasted = float(at[-1] - at[0])
    part = (at - at[0]) / lasted
    counts = part >= WARM_UP
    second, last = read[counts & (part < 0.4)], read[part >= 0.8]
    if not len(second) or not len(last):
        return None  # somebody stood still for a fifth of it
    return Growth(
        float(np.median(second)),
        float(np.median(last)),
        3600 * _slope(at[counts], read[counts]),
        lasted,
    )


def judge(series: Sequence[Series]) -> list[Judged]:
    """Every series that is long enough and has a bound, with it."""
    found = []
    for one in series:
        bound = BOUNDS.get(one.kind, {}).get(one.what)
        grew = None if bound is None else growth(one.at_s, one.values)
        if bound is not None and grew is not None:
            found.append(Judged(one, grew, bound))
    return found


def unjudged(series: Sequence[Series], judged: Sequence[Judged]) -> list[str]:
    """Roles of which not one process lived long enough to be judged."""
    seen = {one.series.role for one in judged}
    return sorted({one.role for one in series} - seen)


def _slope(at: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    first, second = np.triu_indices(len(at), k=1)
    return float(np.median((values[second] - values[first]) / (at[second] - at[first])))
