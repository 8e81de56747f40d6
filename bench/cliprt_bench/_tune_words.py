"""What a search for settings came to, in sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from cliprt_bench._bench_card import Fidelity
from cliprt_bench._tune import Gain, Trial, gain
from cliprt_bench._tune_search import WORTH, Result, Rival, is_worth


def why(result: Result, losses: Mapping[str, str]) -> str:
    """The outcome.

    Args:
        result: of the search.
        losses: by precision, what its certificate says that it loses.
    """
    words = []
    if not result.complete:
        measured = f"{len(result.trials)} candidates" if len(result.trials) > 1 else "the defaults"
        words.append(f"Interrupted: the best so far, of {measured}.")
    words.append(_best(result) if result.held else _nothing_held(result))
    words += [_about(rival, result, losses) for rival in result.rivals]
    precision = result.best.candidate.precision
    if not result.rivals and precision in losses:
        words.append(f"What {precision} loses, {losses[precision]}.")
    return " ".join(words)


def unmeasured(tower: str, others: Sequence[str]) -> str:
    """Says what the policy changes and nobody measured.

    Args:
        tower: that was measured.
        others: towers of the model that were not; empty says nothing.
    """
    return "".join(
        f" Only the {tower} tower was measured. Precision, threads, batches, delay and instances "
        f"are the {other} tower's, too, and how that is served with them is not known."
        for other in others
    )


def in_words(losses: Mapping[str, Fidelity]) -> str:
    """What a precision loses.

    Args:
        losses: by tower, as its certificate says; empty where it says nothing.
    """
    if not losses:
        return "the certificate does not say what it loses"
    return "by the certificate: " + "; ".join(
        f"{tower}, {_fidelity(found)}" for tower, found in losses.items()
    )


def _fidelity(found: Fidelity) -> str:
    words = [f"cosine to the original {found.p01_cosine:.4f} at the 1st percentile"]
    if found.neighbours is not None:
        words.append(f"{found.neighbours:.1%} of nearest neighbours stay".replace("%", " %"))
    if found.top1_loss is not None:
        words.append(f"{found.top1_loss:.2f} points of zero-shot accuracy lost")
    return ", ".join(words)


def _nothing_held(result: Result) -> str:
    best, goal = result.best, result.goal
    nearest = "the nearest was" if math.isfinite(best.nearness_ms(goal)) else "for instance"
    return (
        f"Nothing held {goal.in_words()}: {nearest} {best.in_words(goal)}. Raise the limit, lower "
        "the load, or add machines."
    )


def _best(result: Result) -> str:
    best, default, goal = result.best, result.default, result.goal
    words = f"Best: {best.in_words(goal)}."
    if result.turns and not best.in_turns:
        words += " It took no turns; what was best before did not hold the limit in them."
    if best.candidate == default.candidate:
        return f"{words} Nothing was clearly better than the defaults."
    if not default.holds(goal):
        return f"{words} The defaults do not hold the limit: {default.reached(goal)}."
    found = gain(best, default, goal)
    if found is None:
        return words
    return f"{words} That is {_measured(found, best)} what the defaults reach, {found.by}."


def _measured(found: Gain, trial: Trial) -> str:
    return found.in_words() + ("" if trial.in_turns else ", not yet measured in turns,")


def _about(rival: Rival, result: Result, losses: Mapping[str, str]) -> str:
    """Whether a precision is worth what it loses."""
    ours, plain, goal = rival.ours, rival.plain, result.goal
    name, other = ours.candidate.precision, plain.candidate.precision
    loses = f" What it loses, {losses[name]}." if name in losses else ""
    if not ours.holds(goal):
        also = "" if plain.holds(goal) else f", and {other} does not either"
        return (
            f"{name} is not worth it here: under equal settings it does not hold the limit"
            f"{also} ({name}: {ours.reached(goal)}; {other}: {plain.reached(goal)}).{loses}"
        )
    if not plain.holds(goal):
        if result.best.candidate == ours.candidate:
            if not is_worth(ours, plain, goal):
                return (
                    f"{name} is taken since it held the limit and {other} did not; under equal "
                    f"settings the two are too near to tell apart ({name}: {ours.reached(goal)}; "
                    f"{other}: {plain.reached(goal)}).{loses}"
                )
            return (
                f"{name} is worth it here: under equal settings {other} does not hold the limit "
                f"({plain.reached(goal)}).{loses}"
            )
        return (
            f"{name} is not worth it here: {other} holds the limit under other settings, and "
            f"{name} is not clearly better than that.{loses}"
        )
    found = gain(ours, plain, goal)
    if found is None:
        return f"How {name} compares with {other} could not be told.{loses}"
    told = f"{_measured(found, ours)} {other} under equal settings, {found.by}"
    if result.best.candidate == ours.candidate:
        return f"{name} is worth it here: {told}.{loses}"
    if is_worth(ours, plain, goal):
        return (
            f"{name} is not worth it here: {told}, but not clearly better than {other} under "
            f"other settings.{loses}"
        )
    return f"{name} is not worth it here: {told}; less than {1 + WORTH:g} times is not.{loses}"
