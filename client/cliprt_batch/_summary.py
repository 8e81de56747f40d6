"""What a run did and how fast: for people as text, for programs as JSON."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import fields

import msgspec

from cliprt._limits import Limits
from cliprt_batch._items import Unit
from cliprt_batch._pipeline import Times
from cliprt_batch._run_folder import RunFolder

# Kinds of failures that are told; the ledger has all.
_REASONS = 10

# What of a reason belongs to one item: names in quotes, and numbers.
_OWN = re.compile(r"'[^']*'|\"[^\"]*\"|\d[\d,.]*")


class Reason(msgspec.Struct, frozen=True):
    """Failures of one kind.

    Attributes:
        stage: where they happened.
        reason: why, with ``…`` in place of names and numbers.
        items: how many.
    """

    stage: str
    reason: str
    items: int


class Summary(msgspec.Struct, frozen=True):
    """What a run did.

    Attributes:
        finished: whether all of the job is done, by this run, earlier ones and other shares.
        model: name of the model.
        space: which embeddings these may be compared with.
        items: of the job, or of this share of it.
        embedded: of these, how many have their embeddings.
        failed: of these, how many do not; the ledger has them one by one.
        reasons: the most frequent kinds of failures.
        computed: items that this run took through the towers or found to fail.
        wall_s: seconds this run took.
        rate: items of this run per second.
        stages: by stage, the part of the time that it was busy in, 0 to 1.
        slowest: the stage that limited this run; None where there was nothing to do.
    """

    finished: bool
    model: str
    space: str
    items: int
    embedded: int
    failed: int
    reasons: list[Reason]
    computed: int
    wall_s: float
    rate: float
    stages: dict[str, float]
    slowest: str | None

    @property
    def nothing_embedded(self) -> bool:
        """Whether all items failed; False where there are none."""
        return self.failed > 0 and not self.embedded

    def text(self) -> str:
        """For people."""
        lines = [
            f"{self.embedded:,} of {self.items:,} items embedded with {self.model}, "
            f"{self.failed:,} failed",
            f"this run: {self.computed:,} items in {self.wall_s:,.1f} s, {self.rate:,.1f}/s",
        ]
        if self.slowest is not None:
            shares = ", ".join(f"{stage} {share:.0%}" for stage, share in self.stages.items())
            lines.append(f"busy: {shares}; {self.slowest} was the slowest stage")
        lines += [f"  {one.items:,} x {one.stage}: {one.reason}" for one in self.reasons]
        if self.failed:
            lines.append("failures.jsonl names each; --retry-failed tries these again")
        if limits := [
            f"--{limit.name.replace('_', '-')}"
            for limit in fields(Limits)
            if any(limit.name in one.reason for one in self.reasons)
        ]:
            lines.append(
                f"limits belong to the job: with another {' or '.join(limits)} it is another one, "
                "with a folder (--out) of its own"
            )
        if not self.finished:
            lines.append(
                "other shares are not done; the last one, or cliprt merge, finishes the job"
            )
        lines.append(f"space {self.space}")
        return "\n".join(lines) + "\n"


def summarise(
    folder: RunFolder,
    units: Iterable[Unit],
    *,
    finished: bool,
    model: str,
    space: str,
    times: Times,
    computed: int,
    wall_s: float,
) -> Summary:
    """Adds up what became of units.

    Args:
        folder: of the job.
        units: those of this share.
        finished: whether the whole job is done.
        model: name of the model.
        space: of its embeddings.
        times: of the stages.
        computed: items of this run.
        wall_s: seconds it took.
    """
    reasons: Counter[tuple[str, str]] = Counter()
    items = embedded = failed = 0
    done = folder.done()
    for unit in units:
        if (record := done.get(unit.number)) is None:
            continue
        items += record.items
        embedded += record.embedded
        if record.embedded < record.items:
            for failure in folder.failed(unit.number):
                failed += 1
                reasons[failure.stage, _OWN.sub("…", failure.reason)] += 1
    return Summary(
        finished=finished,
        model=model,
        space=space,
        items=items,
        embedded=embedded,
        failed=failed,
        reasons=[
            Reason(stage, reason, count) for (stage, reason), count in reasons.most_common(_REASONS)
        ],
        computed=computed,
        wall_s=round(wall_s, 3),
        rate=round(computed / wall_s, 2) if wall_s > 0 else 0.0,
        stages={stage: round(share, 3) for stage, share in times.shares(wall_s).items()},
        slowest=times.slowest(wall_s) if computed else None,
    )
