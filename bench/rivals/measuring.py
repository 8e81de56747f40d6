"""Answers first, then speed: a rival and cliprt take turns, and each round gives a ratio."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from cliprt_bench._figures import Figure, figure
from cliprt_bench._load import closed_loop
from rivals.asking import NotStarted, Worker
from rivals.comparing import Answers, Likeness, likeness
from rivals.entries import POINTS, Entry
from rivals.environments import Environment, Refusal
from rivals.inputs import Inputs
from rivals.protocol import ProtocolError, RivalError, pack_request, unpack_answer
from rivals.reasons import reason_of

# Threads of some libraries wait in busy loops for a while after their work.
PAUSE_S = 0.25

RateOf = Callable[[Callable[[int], None], int, float], float]
"""Requests answered in a second: of ``send``, callers, and seconds."""


@dataclass
class Row:
    """What was seen of one rival.

    Attributes:
        entry: who.
        versions: installed, by package.
        refusal: why it is absent, or None.
        likeness: how alike its answers are; None if it gave none.
        rates: by point (``image 16``), its items in a second.
        ratios: by own entry's name and point, cliprt's items in a second over the rival's.
    """

    entry: Entry
    versions: dict[str, str] = field(default_factory=dict)
    refusal: Refusal | None = None
    likeness: Likeness | None = None
    rates: dict[str, Figure] = field(default_factory=dict)
    ratios: dict[str, dict[str, Figure]] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """The row for machines."""
        like, refusal = self.likeness, self.refusal
        return {
            "rival": self.entry.name,
            "remark": self.entry.remark,
            "versions": self.versions,
            "absent": None if refusal is None else {"step": refusal.step, "reason": refusal.reason},
            "cosines": None if like is None else like.least,
            "bar": self.entry.bar,
            "same_answers": like is not None and like.same,
            "items_per_s": msgspec.to_builtins(self.rates),
            "ratios": msgspec.to_builtins(self.ratios),
        }


@contextmanager
def started(
    entry: Entry, environment: Environment, folders: Mapping[str, Path]
) -> Iterator[Worker]:
    """The worker of an entry.

    Raises:
        NotStarted: it could not be loaded.
    """
    with TemporaryDirectory(prefix="rival-") as folder:
        settings = entry.filled(folders)
        with Worker(environment.python, entry.adapter, settings, Path(folder)) as worker:
            yield worker


def answers_of(worker: Worker, inputs: Inputs) -> Answers:
    """A worker's answers to the items that are compared."""
    return {kind: worker.ask(kind, inputs.compared(kind)) for kind in inputs.items}


@contextmanager
def own_workers(
    entries: tuple[Entry, ...], environment: Environment, inputs: Inputs, reference: Answers
) -> Iterator[list[tuple[Entry, Worker]]]:
    """Cliprt's workers, whose answers are compared too.

    Raises:
        NotStarted: one did not start, or answers otherwise than the reference.
    """
    with ExitStack() as stack:
        workers = []
        for entry in entries:
            worker = stack.enter_context(started(entry, environment, inputs.folders))
            like = likeness(answers_of(worker, inputs), reference, entry.bar)
            if not like.same:
                raise NotStarted(Refusal("ask", f"{entry.name} answers otherwise: {like.least}"))
            workers.append((entry, worker))
        yield workers


def look_at(
    row: Row,
    environment: Environment,
    inputs: Inputs,
    reference: Answers,
    own: Sequence[tuple[Entry, Worker]],
    *,
    rounds: int,
    callers: int,
    seconds: float,
    rate_of: RateOf | None = None,
) -> None:
    """Compares a rival's answers and, if they are the same, its speed. Fills the row.

    Args:
        row: of the rival.
        environment: where it runs.
        inputs: the folders and items.
        reference: the reference's answers.
        own: cliprt's workers.
        rounds: in each of them everybody is measured once.
        callers: requests under way at a time.
        seconds: of one measurement.
        rate_of: measures; None means `requests_per_s`.
    """
    try:
        with started(row.entry, environment, inputs.folders) as worker:
            row.versions = worker.versions
            row.likeness = likeness(answers_of(worker, inputs), reference, row.entry.bar)
            if row.likeness.same and rounds:
                _measure(row, worker, inputs, own, rounds, callers, seconds, rate_of)
    except NotStarted as error:
        row.refusal = error.refusal
    except (RivalError, ProtocolError, ValueError, OSError) as error:
        row.refusal = Refusal("ask", reason_of(error))


def _measure(
    row: Row,
    worker: Worker,
    inputs: Inputs,
    own: Sequence[tuple[Entry, Worker]],
    rounds: int,
    callers: int,
    seconds: float,
    rate_of: RateOf | None,
) -> None:
    everybody = [*own, (row.entry, worker)]
    seen: dict[str, dict[str, list[float]]] = {entry.name: {} for entry, _ in everybody}
    for number in range(rounds):
        # Every other round goes backwards: whoever is first finds the machine warmer or colder.
        order = everybody if number % 2 == 0 else everybody[::-1]
        for kind, size in POINTS:
            for entry, asked in order:
                if (kind, size) not in entry.points:
                    continue
                send = sender(asked, kind, inputs.items[kind], size)
                rate = (rate_of or requests_per_s)(send, callers, seconds) * size
                seen[entry.name].setdefault(f"{kind} {size}", []).append(rate)
                time.sleep(PAUSE_S)
    mine = seen.pop(row.entry.name)
    row.rates = {point: figure(rates) for point, rates in mine.items()}
    row.ratios = {
        name: {
            point: figure([a / b for a, b in zip(rates, mine[point], strict=True)])
            for point, rates in points.items()
        }
        for name, points in seen.items()
    }


def sender(
    worker: Worker, kind: str, items: list[bytes] | list[str], size: int
) -> Callable[[int], None]:
    """Sends the n-th request: ``size`` items from the n-th place on, packed beforehand."""
    requests = [
        pack_request(kind, items[at : at + size]) for at in range(0, len(items) - size + 1, size)
    ]

    def send(number: int) -> None:
        answer = unpack_answer(worker.exchange(requests[number % len(requests)]))
        if len(answer) != size:
            raise ProtocolError(f"{size} items were sent, {len(answer)} came back")

    return send


def requests_per_s(send: Callable[[int], None], callers: int, seconds: float) -> float:
    """Requests answered in a second by a closed loop, after one request that does not count.

    Raises:
        RivalError: a request failed: no rate of the others stands for it.
    """
    send(0)
    trace = closed_loop(send, callers=callers, seconds=seconds)
    if trace.errors:
        kind = next(iter(trace.errors))
        raise RivalError(f"{kind}: {trace.messages.get(kind, '')}")
    return trace.answered_s
