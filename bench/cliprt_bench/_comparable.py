"""What may be compared: cards of the same question, and what differs beside the answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from cliprt_bench._bench_card import (
    BenchCard,
    BenchCardError,
    Machine,
    Workload,
    read_bench_card,
)

BUSY = 0.1
"""Runnable processes per core, besides the measurement, from which a machine is called busy."""

_LONGEST = 120

# Clocks of the same processor that lie further apart than this part are told.
_CLOCKS = 0.05


class LabelledCard(msgspec.Struct, frozen=True, kw_only=True):
    """A card, and how tables and plots call it.

    Attributes:
        label: a letter; ``A`` is the baseline.
        source: name of its file, without its folder.
        card: what was measured.
    """

    label: str
    source: str
    card: BenchCard


def read_labelled(paths: Sequence[Path]) -> tuple[LabelledCard, ...]:
    """Reads cards and gives them letters in their order.

    Raises:
        BenchCardError: one cannot be read, is of another schema, or is damaged.
    """
    cards = [read_bench_card(path) for path in paths]
    return tuple(
        LabelledCard(label=letters(index), source=printable(path.name), card=card)
        for index, (path, card) in enumerate(zip(paths, cards, strict=True))
    )


def letters(index: int) -> str:
    """``A`` to ``Z``, then ``AA``, as the columns of a spreadsheet."""
    name = ""
    index += 1
    while index:
        index, rest = divmod(index - 1, 26)
        name = chr(ord("A") + rest) + name
    return name


def printable(text: str, longest: int = _LONGEST) -> str:
    """A text of a card in one line, without control characters, cut to a length.

    A card may come from anywhere; what it says must not move a terminal's cursor or break a page.
    """
    words = "".join(c if c.isprintable() else " " for c in text[: 4 * longest]).split()
    line = " ".join(words)
    return line if len(line) <= longest else line[: longest - 1] + "…"


def check_comparable(cards: Sequence[LabelledCard]) -> tuple[str, ...]:
    """Refuses cards that do not answer the same question.

    Args:
        cards: the baseline first.

    Returns:
        What differs without forbidding the comparison, in sentences: the machine, the method, a
        measurement that was cut short, points that are noisy or missing.

    Raises:
        BenchCardError: there is none; they are of other kinds, spaces or inputs; they share no
            point with the baseline; or one measured a point twice.
    """
    if not cards:
        raise BenchCardError("no card was given; name one that 'cliprt bench' wrote, or more")
    first = cards[0]
    for other in cards:
        _check_points(other)
    for other in cards[1:]:
        _check_pair(first, other)
    notes: list[str] = []
    for other in cards[1:]:
        notes += _differences(first, other)
    for each in cards:
        notes += _warnings(each)
    return tuple(notes)


def _named(each: LabelledCard) -> str:
    return f"{each.label} ({each.source})"


def _check_points(each: LabelledCard) -> None:
    card = each.card
    if not card.points and not card.stages:
        raise BenchCardError(
            f"{_named(each)} holds no point, it was stopped before the first; measure it again"
        )
    seen: set[Workload] = set()
    for point in card.points:
        if point.workload in seen:
            raise BenchCardError(
                f"{_named(each)} has the point '{point.workload.in_words()}' twice, so no "
                "table can say which holds; measure it again"
            )
        seen.add(point.workload)


def _check_pair(first: LabelledCard, other: LabelledCard) -> None:
    one, two = first.card, other.card
    names = f"{_named(first)} and {_named(other)}"
    if one.kind != two.kind:
        raise BenchCardError(
            f"{names} are of different kinds, {one.kind} and {two.kind}; measure both with "
            f"'cliprt bench {one.kind}'"
        )
    if one.model.space != two.model.space:
        raise BenchCardError(
            f"{names} measured different models, their spaces are {one.model.space[:12]} "
            f"({printable(one.model.name)}) and {two.model.space[:12]} "
            f"({printable(two.model.name)}); measure both with bundles of the same weights"
        )
    if one.inputs.sha256 != two.inputs.sha256:
        raise BenchCardError(
            f"{names} embedded different inputs, '{printable(one.inputs.described)}' and "
            f"'{printable(two.inputs.described)}' with SHA-256 {one.inputs.sha256[:12]} and "
            f"{two.inputs.sha256[:12]}; measure both with the same inputs"
        )
    shared = {point.workload for point in one.points} & {point.workload for point in two.points}
    # Stages stand beside points, they are no point to compare those at.
    apart = one.points and two.points
    if not shared and (apart or not _shared_stages(one, two)):
        raise BenchCardError(
            f"{names} have no point in common: the first has for instance "
            f"'{_example(one)}', the second '{_example(two)}'; measure both with the same "
            "batches, callers, rates and text lengths"
        )


def _shared_stages(one: BenchCard, two: BenchCard) -> bool:
    return any(
        stages.keys() & two.stages.get(tower, {}).keys() for tower, stages in one.stages.items()
    )


def _example(card: BenchCard) -> str:
    if card.points:
        return card.points[0].workload.in_words()
    return printable(f"stages of {next(iter(card.stages))}")


def machine_in_words(machine: Machine) -> str:
    """Processor, cores and GPUs."""
    parts = [f"{printable(machine.cpu)}, {machine.cores} cores"]
    parts += [printable(gpu.name) for gpu in machine.gpus]
    return " + ".join(parts)


def _differences(first: LabelledCard, other: LabelledCard) -> list[str]:
    one, two = first.card, other.card
    notes = []
    here, there = machine_in_words(one.machine), machine_in_words(two.machine)
    if here != there:
        notes.append(
            f"{other.label} was measured on another machine ({there}) than {first.label} ({here})."
        )
    if one.cliprt != two.cliprt:
        notes.append(
            f"{other.label} was measured by cliprt {printable(two.cliprt)}, "
            f"{first.label} by {printable(one.cliprt)}."
        )
    notes += _versions_apart(first, other) + _clocks_apart(first, other)
    differing = [
        f"{what} {ours:g} instead of {theirs:g}"
        for what, ours, theirs in (
            ("warm-up in s", two.method.warmup_s, one.method.warmup_s),
            ("seconds of a repeat", two.method.repeat_s, one.method.repeat_s),
            ("repeats", two.method.repeats, one.method.repeats),
            ("seed", two.method.seed, one.method.seed),
        )
        if ours != theirs
    ]
    if differing:
        notes.append(
            f"{other.label} was measured by another method than {first.label}: "
            f"{', '.join(differing)}."
        )
    ours = {point.workload for point in two.points}
    theirs = {point.workload for point in one.points}
    if ours != theirs:
        notes.append(
            f"{other.label} and {first.label} share {len(ours & theirs)} points; "
            f"{len(theirs - ours)} are only in {first.label}, {len(ours - theirs)} only in "
            f"{other.label}."
        )
    return notes


def _versions_apart(first: LabelledCard, other: LabelledCard) -> list[str]:
    one, two = first.card.machine, other.card.machine
    versions = [{"Python": each.python, **each.libraries} for each in (one, two)]
    versions[0]["system"], versions[1]["system"] = one.system, two.system
    if one.gpus and two.gpus:
        for own, machine in zip(versions, (one, two), strict=True):
            own["GPU driver"] = ", ".join(dict.fromkeys(gpu.driver for gpu in machine.gpus))
    theirs, ours = versions
    apart = [
        f"{printable(name, 40)} {printable(ours.get(name, 'none'), 60)} instead of "
        f"{printable(theirs.get(name, 'none'), 60)}"
        for name in sorted(theirs.keys() | ours.keys())
        if theirs.get(name) != ours.get(name)
    ]
    if not apart:
        return []
    return [
        f"{other.label} was measured with other versions than {first.label}: {', '.join(apart)}."
    ]


def _clocks_apart(first: LabelledCard, other: LabelledCard) -> list[str]:
    """Of the same processors: those of others say nothing."""
    one, two = first.card.machine, other.card.machine
    clocks = [("CPU", one.clock_mhz, two.clock_mhz)] if one.cpu == two.cpu else []
    for own, theirs in zip(two.gpus, one.gpus, strict=False):
        if own.name == theirs.name:
            clocks.append((printable(own.name, 40), theirs.clock_mhz, own.clock_mhz))
    apart = [
        f"{name} {there:,.0f} MHz instead of {here:,.0f} MHz"
        for name, here, there in clocks
        if here and there and abs(there / here - 1) > _CLOCKS
    ]
    if not apart:
        return []
    return [f"{other.label} ran at other clocks than {first.label}: {', '.join(apart)}."]


def _warnings(each: LabelledCard) -> list[str]:
    card = each.card
    notes = []
    if not card.complete:
        notes.append(f"{each.label} is incomplete: its measurement was stopped.")
    if card.machine.load > BUSY:
        notes.append(
            f"The machine of {each.label} was busy when the measurement began: "
            f"{card.machine.load:.2f} other runnable processes per core."
        )
    noisy = sum(any(f.noisy for f in point.figures.values()) for point in card.points)
    if noisy:
        notes.append(f"{each.label} has noisy figures in {noisy} of its {len(card.points)} points.")
    for point in card.points:
        words = point.workload.in_words()
        notes += [f"{each.label}, {words}: {printable(mark)}" for mark in point.marks]
        failed = sum(point.errors.values())
        if failed:
            kinds = ", ".join(f"{printable(k)} ({n:,})" for k, n in sorted(point.errors.items()))
            notes.append(f"{each.label}, {words}: {failed:,} requests failed: {kinds}.")
    return notes
