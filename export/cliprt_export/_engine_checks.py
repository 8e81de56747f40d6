"""What an engine must do beside answering like the reference: checks that fidelity alone misses.

Every check runs against any ``Tower``. The references are float32 answers to the very same inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from cliprt._card import ImageSpec, TextSpec
from cliprt._errors import InvalidInput
from cliprt_engines import Profile, Tower
from cliprt_export._engine_shapes import Shape, alternations_of, edges_of
from cliprt_export._fidelity import cosines
from cliprt_export._measure import Floats, Run
from cliprt_export._samples import Inputs, Samples

Places: TypeAlias = Sequence[int] | NDArray[np.int64]
"""Numbers of items; they begin again after the last."""

_ROWS = 8
"""Items that batches are made of; the float32 reference runs on the processor."""

_ROUNDS = 4
"""How often each of two alternating inputs comes: a graph is captured at its shape's second time,
and replayed from the third."""

_MOST_ROWS = 4096
"""Greater batches repeat what these rows hold."""

_SAME = 0.9999
"""Inputs whose references are nearer than that are not expected to be told apart."""


class Check(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One check of a tower.

    Attributes:
        name: what was checked.
        runs: how many batches were run for it.
        worst_cosine: least cosine to what was expected; None where none was compared or an answer
            is not a number.
        missed: what is wrong, in words; empty if nothing is.
    """

    name: str
    runs: int
    worst_cosine: float | None
    missed: list[str]


@dataclass(frozen=True)
class Items:
    """What batches of any shape are made of.

    Attributes:
        inputs: pixels, uint8 [n, height, width, 3], or tokens, int32 [n, context].
        spec: of the tower.
    """

    inputs: Inputs
    spec: ImageSpec | TextSpec

    @classmethod
    def of(cls, samples: Samples, spec: ImageSpec | TextSpec) -> Items:
        """The first few of some samples."""
        return cls(samples.inputs[:_ROWS], spec)

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def changes_length(self) -> bool:
        """Whether texts may be cut to their length."""
        return isinstance(self.spec, TextSpec) and not self.spec.fixed_length

    def rows(self, places: Places, length: int | None) -> Inputs:
        """Items by number, which begin again after the last; texts cut to a length.

        A text that is cut ends with the end token all the same.
        """
        rows: Inputs = self.inputs[np.asarray(places, dtype=np.int64) % len(self.inputs)].copy()
        if length is None or not isinstance(self.spec, TextSpec):
            return rows
        cut_off = (rows[:, length:] == self.spec.end_id).any(axis=1)
        rows = np.ascontiguousarray(rows[:, :length])
        rows[cut_off & ~(rows == self.spec.end_id).any(axis=1), -1] = self.spec.end_id
        return rows


class Checker:
    """Runs the checks of one tower and compares with float32 answers to the same inputs."""

    def __init__(self, tower: Tower, reference: Run, items: Items, bar: float) -> None:
        """Says what is checked, and against what.

        Args:
            tower: what is checked.
            reference: float32 answers.
            items: what batches are made of.
            bar: least cosine of an answer to the one that is expected.
        """
        self._run, self._reference, self._items, self._bar = tower.run, reference, items, bar
        self._known: dict[int | None, Floats] = {}

    def answers(self, length: int | None) -> Check:
        """Answers are numbers, of length 1, and differ where the inputs do."""
        found = self._run(self._batch(range(len(self._items)), length))
        wanted = self._wanted(range(len(self._items)), length)
        missed = _not_numbers(found)
        if not missed:
            norms = np.linalg.norm(found.astype(np.float64), axis=1)
            if np.abs(norms - 1).max() > 1e-2:
                missed.append(
                    f"answers are not of length 1 but of {norms.min():.4g} to {norms.max():.4g}"
                )
            one, other = np.triu_indices(len(found), k=1)
            apart = cosines(wanted[one], wanted[other]) < _SAME
            equal = (found[one] == found[other]).all(axis=1) & apart
            if equal.any():
                pair = int(np.argmax(equal))
                missed.append(
                    f"inputs {one[pair]} and {other[pair]} differ and get the same answer"
                )
        return _check("answers", 1, cosines(wanted, found), missed)

    def alternating(self, groups: Sequence[Sequence[Shape]]) -> Check:
        """Inputs that take turns at several shapes get their own answers, every time.

        So that captured graphs are replayed, each input comes again and again. Shapes come in
        groups: an engine keeps few graphs, and one that goes before its shape comes again is never
        replayed.
        """
        worst, stale, wrong, runs = [np.ones(1)], list[str](), list[str](), 0
        for group in groups:
            # A graph's stale answer is that of the same shape before.
            before: dict[Shape, Places] = {}
            for shape, places in self._turns(group):
                found, runs = self._run(self._batch(places, shape.length)), runs + 1
                wanted = self._wanted(places, shape.length)
                worst.append(cosine := cosines(wanted, found))
                last, before[shape] = before.get(shape, places), places
                # Row by row: only the piece of one stream may be stale.
                old = self._nearer(self._wanted(last, shape.length), wanted, found)
                bad = ~(cosine >= self._bar)
                row = int(np.argmax(old if old.any() else bad))
                what = (
                    f"in run {runs}, {shape}, the answer to item {row} has the cosine "
                    f"{cosine[row]:.7f} to its"
                )
                if old.any():
                    stale.append(f"{what} own reference: it is that to the input before (stale)")
                elif bad.any():
                    wrong.append(f"{what} reference; the bar is {self._bar:.7g}")
        # What came before may be the answer to an input of another check.
        missed = stale[:1] or wrong[:1]
        return _check("alternating inputs", runs, np.concatenate(worst), missed)

    def _turns(self, group: Sequence[Shape]) -> Iterator[tuple[Shape, Places]]:
        """Shapes and what their batches are made of: two inputs each, different in every row.

        In every other round a shape comes twice in succession, in the others the rest of the group
        lies between.
        """
        # Drawn, so that no piece of a batch that is cut is like the piece before.
        drawn = np.random.default_rng(0).integers(len(self._items), size=_MOST_ROWS)
        both = [
            [(shape, np.resize(drawn, shape.batch) + first) for first in (0, len(self._items) // 2)]
            for shape in group
        ]
        for number in range(_ROUNDS):
            for turns in both if number % 2 else zip(*both, strict=True):
                yield from turns

    def edges(self, shapes: Sequence[Shape]) -> Check:
        """Every row of a batch is right at the edges of every profile."""
        worst, missed = [np.ones(1)], list[str]()
        for shape in shapes:
            places = range(shape.batch)
            found = self._run(self._batch(places, shape.length))
            cosine = cosines(self._wanted(places, shape.length), found)
            worst.append(cosine)
            bad = np.flatnonzero(~(cosine >= self._bar))
            if len(bad):
                missed.append(
                    f"in {shape}, {len(bad)} answers are wrong; the first, of item {bad[0]}, has "
                    f"the cosine {cosine[bad[0]]:.7f} to its reference, the bar is {self._bar:.7g}"
                )
        return _check("profile edges", len(shapes), np.concatenate(worst), missed)

    def single(self, full: Shape) -> Check:
        """An item's answer is the same alone, and anywhere in the greatest batch."""
        places = sorted({0, full.batch // 2, full.batch - 1})
        together = self._run(self._batch(range(full.batch), full.length))[places]
        alone = [self._run(self._batch([place], full.length)) for place in places]
        cosine = cosines(np.concatenate(alone), together)
        missed = self._differing(
            cosine, f"alone and in {full} the same item gets answers with the cosine"
        )
        return _check("single against full batch", 1 + len(places), cosine, missed)

    def neighbours(self, full: Shape) -> Check:
        """Extreme inputs get answers that are numbers, and do not change those beside them."""
        batch = self._batch([0] * full.batch, full.length)
        ordinary, mixed = self._run(batch), batch.copy()
        # Else the answer to the batch before would be taken for a good one.
        self._run(self._batch(range(1, 1 + full.batch), full.length))
        good = sorted({0, full.batch // 2})
        others = [place for place in range(full.batch) if place not in good]
        for place, extreme in zip(others, self._extremes(batch[0], len(others)), strict=True):
            mixed[place] = extreme
        found = self._run(mixed)
        cosine = cosines(ordinary[good], found[good])
        missed = self._differing(
            cosine, f"beside extreme inputs in {full} an item's answer changes: the cosine is"
        )
        missed += [f"among extreme inputs {text}" for text in _not_numbers(found[others])]
        return _check("extreme neighbours", 3, cosine, missed)

    def padding(self, length: int) -> Check:
        """What follows the end of a text changes nothing."""
        assert isinstance(self._items.spec, TextSpec), "only texts are padded"
        short = max(length // 2, 2)
        tokens = self._batch(range(len(self._items)), short)
        padded = np.full((len(tokens), length), self._items.spec.pad_id, dtype=np.int32)
        padded[:, :short] = tokens
        # Behind the end the tower must not look; so any other token may stand there too.
        cosine = cosines(self._run(tokens), self._run(padded))
        missed = self._differing(
            cosine, f"filled up from {short} to {length} tokens a text's answer changes: cosine"
        )
        return _check("padding", 2, cosine, missed)

    def foreign_ids(self, length: int | None) -> Check:
        """Token ids that the tower does not have are refused, and what follows is answered."""
        assert isinstance(self._items.spec, TextSpec), "only texts have ids"
        missed = []
        for bad in (-1, self._items.spec.vocabulary):
            tokens = self._batch(range(2), length)
            tokens[1, 0] = bad
            try:
                self._run(tokens)
            except InvalidInput:
                continue
            missed.append(f"the token id {bad}, which the tower does not have, was not refused")
        cosine = cosines(self._wanted(range(2), length), self._run(self._batch(range(2), length)))
        missed += self._differing(cosine, "after a refused batch the next has the cosine")
        return _check("foreign token ids", 3, cosine, missed)

    def _batch(self, places: Places, length: int | None) -> Inputs:
        return self._items.rows(places, length)

    def _wanted(self, places: Places, length: int | None) -> Floats:
        """Float32 answers; each item is computed once for each length."""
        if length not in self._known:
            everything = self._items.rows(range(len(self._items)), length)
            self._known[length] = self._reference(everything)
        rows: Floats = self._known[length][np.asarray(places, dtype=np.int64) % len(self._items)]
        return rows

    @staticmethod
    def _nearer(other: Floats, own: Floats, found: Floats) -> NDArray[np.bool_]:
        """Which answers are clearly those to other inputs, and not inexact ones to their own."""
        apart = cosines(own, other)
        ahead: NDArray[np.float64] = cosines(other, found) - cosines(own, found)
        return (apart < _SAME) & (ahead > (1 - apart) / 2)

    def _differing(self, cosine: NDArray[np.float64], what: str) -> list[str]:
        if (cosine >= self._bar).all():
            return []
        return [f"{what} {_least(cosine)}, the bar is {self._bar:.7g}"]

    def _extremes(self, like: NDArray[Any], count: int) -> Iterator[NDArray[Any]]:
        """Inputs at the ends of what a tower takes, again and again."""
        spec = self._items.spec
        for number in range(count):
            extreme = like.copy()
            if isinstance(spec, TextSpec):
                extreme[:-1] = (0, spec.vocabulary - 1, spec.end_id, spec.pad_id)[number % 4]
                extreme[-1] = spec.end_id
            elif number % 4 < 2:
                extreme[...] = (0, 255)[number % 4]
            else:
                rows, columns = np.indices(like.shape[:2])
                board = (rows + columns) if number % 4 == 2 else rows // 8 + columns // 8
                extreme[...] = (board % 2 * 255)[..., np.newaxis]
            yield extreme


def check_tower(
    tower: Tower,
    reference: Run,
    items: Items,
    profiles: Sequence[Profile],
    bar: float,
    told: Callable[[str], None] = lambda what: None,
) -> list[Check]:
    """All checks of a tower.

    Args:
        tower: what is checked.
        reference: float32 answers.
        items: what batches are made of.
        profiles: the shapes that the tower takes, the widest first.
        bar: least cosine of an answer to the one that is expected.
        told: told each check's name as it begins.
    """
    checker = Checker(tower, reference, items, bar)
    shapes = edges_of(profiles)
    widest = profiles[0]
    length = None if widest.length is None else widest.length.best
    longest = None if widest.length is None else widest.length.most
    full = Shape(widest.batch.most, longest)
    half = max(len(items) // 2, 1)
    few = [Shape(min(1, half), length), Shape(min(half, widest.batch.most), longest)]
    plan: list[tuple[str, Callable[[], Check]]] = [
        ("answers", lambda: checker.answers(longest)),
        ("alternating inputs", lambda: checker.alternating([few, *alternations_of(profiles)])),
        ("profile edges", lambda: checker.edges(shapes)),
        ("single against full batch", lambda: checker.single(full)),
        ("extreme neighbours", lambda: checker.neighbours(full)),
    ]
    if items.changes_length and longest is not None:
        plan.append(("padding", lambda: checker.padding(longest)))
    if isinstance(items.spec, TextSpec):
        plan.append(("foreign token ids", lambda: checker.foreign_ids(length)))
    checks = []
    for name, check in plan:
        told(name)
        checks.append(check())
    return checks


def _check(name: str, runs: int, cosine: NDArray[np.float64], missed: list[str]) -> Check:
    worst = float(cosine.min())
    return Check(
        name=name, runs=runs, worst_cosine=worst if np.isfinite(worst) else None, missed=missed
    )


def _least(cosine: NDArray[np.float64]) -> str:
    return f"{cosine.min():.7f}"


def _not_numbers(found: Floats) -> list[str]:
    bad = ~np.isfinite(found).all(axis=1)
    if not bad.any():
        return []
    return [f"{int(bad.sum())} of {len(found)} answers are not numbers"]
