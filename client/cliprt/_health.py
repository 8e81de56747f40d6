"""Whether live towers answer rightly: known inputs alone, in a batch with others, and in traffic.

One piece of code judges a server from outside (``cliprt health``) and from inside (the model
``NAME_health``). It decides what is asked and what is wrong with the answers; how a tower is asked
is its caller's.

Each cause is told once: a tower whose answers are not numbers is not accused of wrong ones as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from cliprt._card import TextSpec
from cliprt._errors import CliprtError, DeadlineExceeded, Overloaded
from cliprt._known import NORM_TOLERANCE, Bar, Known, cosines
from cliprt._texts import fill_up, is_cut_at_end, real_lengths

Verdict: TypeAlias = Literal["good", "wrong", "busy"]

# Answers that differ by less are the same, and known ones that differ by more should not be.
_SAME, _DIFFERENT = 1e-6, 1e-3


class Check(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One thing that was looked at.

    Attributes:
        where: ``image`` or ``text``, or what else of the server.
        what: what was looked at.
        verdict: ``busy`` where the server refused to be asked because others were before.
        found: what was seen, in words.
        limit: what would be right, in words; empty where that goes without saying.
        advice: the way out; empty where nothing is wrong.
    """

    where: str
    what: str
    verdict: Verdict
    found: str
    limit: str = ""
    advice: str = ""


class Report(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a check of a served model saw.

    Attributes:
        status: ``wrong`` if one check is, else ``busy`` if one is, else ``good``.
        healthy: whether nothing is wrong; of a busy model, whether nothing was last time.
        model: prefix of the models' names.
        space: of the served card; empty if it could not be read.
        took_s: how long it took, in seconds.
        checks: all that was looked at.
    """

    status: Verdict
    healthy: bool
    model: str
    space: str
    took_s: float
    checks: list[Check]

    def problems(self) -> str:
        """What is not good, in a line."""
        return "; ".join(in_words(check) for check in self.checks if check.verdict != "good")


def report_of(checks: list[Check], *, model: str, space: str, took_s: float) -> Report:
    """A report of checks."""
    verdicts = {check.verdict for check in checks}
    status: Verdict = "good"
    if verdicts != {"good"}:
        status = "wrong" if "wrong" in verdicts or not verdicts else "busy"
    return Report(
        status=status,
        healthy=status != "wrong",
        model=model,
        space=space,
        took_s=took_s,
        checks=checks,
    )


def in_words(check: Check) -> str:
    """A check in a line: where, what, what was found, the limit and the way out."""
    limit = f" ({check.limit})" if check.limit else ""
    advice = f"; {check.advice}" if check.advice else ""
    return f"{check.where} {check.what}: {check.found}{limit}{advice}"


@dataclass(frozen=True)
class Question:
    """A request to a tower.

    Attributes:
        tower: ``image`` or ``text``.
        batch: pixels, uint8 [n, height, width, 3], or tokens, int32 [n, length].
    """

    tower: str
    batch: NDArray[Any]


Ask: TypeAlias = Callable[[Sequence[Question]], Sequence["NDArray[Any] | CliprtError"]]
"""Asks all questions at once and waits for their answers, or why there is none.

Embeddings are float32 [n, dim]. An ``Overloaded`` means that the tower had no time to answer.
"""


@dataclass(frozen=True)
class LiveTower:
    """A tower to look at.

    Attributes:
        name: ``image`` or ``text``.
        known: its known answers.
        bar: what it must reach.
        max_batch: most items of a request.
        text: how texts are cut and filled up; None for pictures.
        lengths: to which lengths texts are filled up, ascending; empty where any is welcome.
    """

    name: str
    known: Known
    bar: Bar
    max_batch: int
    text: TextSpec | None = None
    lengths: tuple[int, ...] = ()


def check_towers(towers: Sequence[LiveTower], ask: Ask, *, thorough: bool) -> list[Check]:
    """Asks live towers for known answers and judges what they say.

    First single items, one after the other; then, all at once, the same items alone and all known
    items in a batch.

    Args:
        towers: what is looked at.
        ask: how.
        thorough: ask for every known item alone, and mix others into the batches; otherwise for one
            item alone, which costs a handful of items for each tower.
    """
    examined = [_Examination(tower, thorough) for tower in towers]
    for one in examined:
        for asked in one.alone():
            if not one.take(asked, ask([asked[0]])[0]):
                break
    traffic = [(one, asked) for one in examined for asked in one.in_traffic()]
    answers = ask([asked[0] for _, asked in traffic])
    for (one, asked), answer in zip(traffic, answers, strict=True):
        one.take(asked, answer)
    return [check for one in examined for check in one.judge()]


_Asked: TypeAlias = "tuple[Question, list[int | None]]"
"""A question, and for each of its rows the number of the known item, None for others."""


class _Examination:
    """One tower under examination."""

    def __init__(self, tower: LiveTower, thorough: bool) -> None:
        self._tower = tower
        self._count = len(tower.known.inputs)
        self._single = range(self._count if thorough else 1)
        self._thorough = thorough
        self._alone: dict[int, NDArray[Any]] = {}
        self._mixed: list[tuple[int, NDArray[Any]]] = []
        self._errors: list[CliprtError] = []
        self._misshapen = ""

    def alone(self) -> Iterator[_Asked]:
        """Single items."""
        for item in self._single:
            yield self._question([item])

    def in_traffic(self) -> Iterator[_Asked]:
        """What is asked at once: batches of all items, and single ones again."""
        if self._errors or self._misshapen:
            return
        places: list[int | None] = []
        for item in reversed(range(self._count)):
            places += [item, None] if self._thorough else [item]
        for first in range(0, len(places), self._tower.max_batch):
            yield self._question(places[first : first + self._tower.max_batch])
        for item in self._single:
            yield self._question([item])

    def take(self, asked: _Asked, answer: NDArray[Any] | CliprtError) -> bool:
        """Keeps an answer; whether there was one."""
        question, places = asked
        shape = (len(question.batch), self._tower.known.expected.shape[1])
        if isinstance(answer, CliprtError):
            self._errors.append(answer)
            return False
        if answer.shape != shape or answer.dtype != np.float32:
            self._misshapen = f"{answer.dtype} {list(answer.shape)}, expected float32 {list(shape)}"
            return False
        for place, row in zip(places, answer, strict=True):
            if place is None:
                continue
            if len(places) == 1 and place not in self._alone:
                self._alone[place] = row
            else:
                self._mixed.append((place, row))
        return True

    def judge(self) -> Iterator[Check]:
        """What is wrong with the answers, the cause of all else first."""
        yield self._served()
        if self._misshapen:
            yield self._check("shape", False, self._misshapen, "", "is it the card's model?")
            return
        items = [*self._alone.items(), *self._mixed]
        if not items:
            return
        rows = np.stack([row for _, row in items]).astype(np.float64)
        finite = np.isfinite(rows).all(axis=1)
        yield self._check(
            "numbers",
            bool(finite.all()),
            f"{np.count_nonzero(~finite)} of {len(rows)} answers hold NaN or infinity",
            "none may",
            "values overflow in this precision or runtime; serve fp32 or rebuild the engine",
        )
        if not finite.all():
            return
        lengths = np.linalg.norm(rows, axis=1)
        of_length_1 = bool(np.abs(lengths - 1).max() <= NORM_TOLERANCE)
        yield self._check(
            "length",
            of_length_1,
            f"{lengths.min():.6g} to {lengths.max():.6g}",
            f"1, within {NORM_TOLERANCE:g}",
            "the tower does not normalise; serve the graph of the bundle",
        )
        expected = self._tower.known.expected
        if np.ptp(expected, axis=0).max() > _DIFFERENT:
            constant = len(rows) > 1 and np.ptp(rows, axis=0).max() <= _SAME
            yield self._check(
                "constant",
                not constant,
                "all answers are the same" if constant else "answers differ",
                "as different inputs demand",
                "the tower does not see its input; rebuild the engine or serve fp32",
            )
            if constant:
                return
        effect = self._batch_effect()
        yield effect
        # One that only errs in company was just told; its answers to single items may be right.
        judged = items if effect.verdict == "good" else list(self._alone.items())
        if judged:
            yield self._known_answers(judged)

    def _served(self) -> Check:
        """Whether there were answers."""
        # What is wrong counts more than what is only late.
        for error in sorted(self._errors, key=lambda error: isinstance(error, Overloaded)):
            if isinstance(error, Overloaded):
                return Check(
                    where=self._tower.name,
                    what="answers",
                    verdict="busy",
                    found=str(error),
                    advice="not all could be asked; ask again when there is less traffic",
                )
            late = isinstance(error, DeadlineExceeded)
            advice = "it hangs, or is too slow for its traffic; see its queue in the metrics"
            return self._check(
                "answers", False, str(error), "", advice if late else "see the server's log"
            )
        return self._check("answers", True, f"{len(self._alone) + len(self._mixed)} of them")

    def _batch_effect(self) -> Check:
        """How much answers to the same item differ."""
        bar = self._tower.bar.max_batch_effect
        effect, worst = 0.0, 0
        for item, row in self._mixed:
            if item in self._alone:
                difference = float(np.abs(row.astype(np.float64) - self._alone[item]).max())
                if difference > effect:
                    effect, worst = difference, item
        return self._check(
            "batch",
            effect <= bar,
            f"item {worst} alone and among others differs by {effect:.2g}",
            f"at most {bar:g}",
            "answers depend on their neighbours, batch size or padding; rebuild the engine or "
            "serve fp32",
        )

    def _known_answers(self, items: Sequence[tuple[int, NDArray[Any]]]) -> Check:
        """How near answers are to the known ones, whatever their length."""
        rows = np.stack([row for _, row in items]).astype(np.float64)
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        found = cosines(rows, self._tower.known.expected[[item for item, _ in items]])
        worst = int(np.argmin(found))
        bar = self._tower.bar.min_cosine
        return self._check(
            "known answers",
            bool(found[worst] >= bar),
            f"cosine {found[worst]:.7f} of item {items[worst][0]}",
            f"at least {bar:.7g}",
            "these are not the weights of the card, or the runtime computes something else; make "
            "repository and engines again",
        )

    def _check(self, what: str, good: bool, found: str, limit: str = "", advice: str = "") -> Check:
        return Check(
            where=self._tower.name,
            what=what,
            verdict="good" if good else "wrong",
            found=found,
            limit=limit,
            advice="" if good else advice,
        )

    def _question(self, places: Sequence[int | None]) -> _Asked:
        """A batch of known items, and of others in the place of None."""
        inputs = self._tower.known.inputs
        chosen = [(place, index % self._count) for index, place in enumerate(places)]
        if (spec := self._tower.text) is None:
            pictures = [
                255 - inputs[other] if place is None else inputs[place] for place, other in chosen
            ]
            return Question(self._tower.name, np.stack(pictures)), list(places)
        texts = [
            text_of(inputs[other if place is None else place], spec) for place, other in chosen
        ]
        for row, place in enumerate(places):
            if place is None:
                # The same tokens from behind: another text.
                texts[row] = np.concatenate([texts[row][:1], texts[row][-2:0:-1], texts[row][-1:]])
        return Question(self._tower.name, fill_up(texts, spec, self._tower.lengths)), list(places)


def text_of(tokens: NDArray[np.int32], spec: TextSpec) -> NDArray[np.int32]:
    """A text without what fills it up, where the tower does not see that.

    Args:
        tokens: int32 [length].
        spec: how texts are filled up.

    Returns:
        int32 [length of the text, at least 2].
    """
    if not is_cut_at_end(spec):
        return tokens
    end_id = spec.end_id if spec.pooling == "end" else None
    return tokens[: max(2, int(real_lengths(tokens[None], end_id)[0]))]
