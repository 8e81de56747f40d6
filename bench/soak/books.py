"""What became of every request: nothing may be wrong, lost, or fail for no reason."""

from __future__ import annotations

import asyncio
import http.client
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from cliprt import (
    CliprtError,
    DeadlineExceeded,
    InvalidInput,
    ModelUnavailable,
    Overloaded,
    RetryableError,
)

TOLERANCE = 1e-5

RIGHT, REFUSED, GIVEN_UP = "right", "refused as promised", "given up as asked"
OVERLOADED, DISTURBED = "refused as overloaded", "failed while the server was gone"
WRONG, LOST, UNFORESEEN = "wrong", "lost", "unforeseen"

KEPT = (RIGHT, REFUSED, GIVEN_UP)
BAD = (WRONG, LOST, UNFORESEEN)

KILLED = "killed clients"
"""The kind under which clients that were killed are written down."""

SLACK_S = 15.0
"""So long after its deadline a request without answer or error is lost."""

_SETTLE_S = 3.0
"""So long after a server is healthy again connections may still be found broken."""

_GRPC_GONE = frozenset(
    getattr(grpc.StatusCode, name) for name in ("UNAVAILABLE", "NOT_FOUND", "INTERNAL", "CANCELLED")
)
_HTTP_GONE = frozenset((429, 500, 503, 504))


@dataclass(frozen=True)
class Rows:
    """The answer must be these rows, float32 [n, dim], in this order."""

    rows: NDArray[np.float32]


@dataclass(frozen=True)
class Refusal:
    """The input must be refused: with these words and, if told, this index."""

    words: str
    index: int | None = None


@dataclass(frozen=True)
class Hasty:
    """The caller gives up when it likes; an answer that comes all the same must be right."""

    rows: NDArray[np.float32]


@dataclass(frozen=True)
class Items:
    """Each item has its row, or the error of a bad one in its place."""

    rows: NDArray[np.float32]
    bad: frozenset[int]


Expected = Rows | Refusal | Hasty | Items


@dataclass
class Disturbance:
    """Something that was done to the server.

    Attributes:
        what: in words.
        begun: when, by ``time.monotonic``.
        ended: when the server was healthy again; None if it is not yet.
        excuses: whether requests may fail with a documented error meanwhile.
    """

    what: str
    begun: float
    ended: float | None = None
    excuses: bool = True

    def meets(self, begun: float, ended: float) -> bool:
        """Whether a request was under way meanwhile, or soon after."""
        return ended >= self.begun and (self.ended is None or begun <= self.ended + _SETTLE_S)


@dataclass
class Ticket:
    """A request under way."""

    kind: str
    begun: float
    latest: float


@dataclass(frozen=True)
class Trouble:
    """A request that did not end as it should.

    Attributes:
        outcome: one of ``BAD``.
        kind: of the request.
        at_s: when it ended, in seconds since the run began.
        text: what was seen.
    """

    outcome: str
    kind: str
    at_s: float
    text: str


@dataclass
class Books:
    """All requests of a run. Safe to use from many threads."""

    begun: float = field(default_factory=time.monotonic)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    troubles: list[Trouble] = field(default_factory=list)
    disturbances: list[Disturbance] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._told: set[int] = set()
        self._tickets: dict[int, Ticket] = {}
        # Failures of a documented kind, until it is known whether a disturbance explains them; with
        # what they are if none does.
        self._open: list[tuple[Ticket, float, str, str]] = []

    @property
    def requests(self) -> int:
        """How many have ended."""
        with self._lock:
            return sum(self.counts.values()) + len(self._open)

    def kinds(self) -> set[str]:
        """Kinds of which at least one request ended as it should; no failure does."""
        with self._lock:
            return {kind for kind, outcome in self.counts if outcome in KEPT}

    def totals(self) -> Counter[str]:
        """Requests by outcome."""
        found: Counter[str] = Counter()
        with self._lock:
            for (_, outcome), count in self.counts.items():
                found[outcome] += count
        return found

    def ask(
        self, kind: str, call: Callable[[], object], expected: Expected, *, deadline_s: float
    ) -> bool:
        """Makes a call and writes down what became of it; True if it ended as expected."""
        ticket = self._begin(kind, deadline_s)
        try:
            found: object = call()
        except Exception as error:  # noqa: BLE001 - each is written down
            found = error
        return self._end(ticket, found, expected)

    async def ask_async(
        self,
        kind: str,
        call: Coroutine[Any, Any, object],
        expected: Expected,
        *,
        deadline_s: float,
    ) -> bool:
        """As ``ask``; a task that is cancelled counts as given up if that is expected."""
        ticket = self._begin(kind, deadline_s)
        try:
            found: object = await call
        except asyncio.CancelledError as error:
            found = error
        except Exception as error:  # noqa: BLE001 - as above
            found = error
        return self._end(ticket, found, expected)

    def note(self, kind: str, outcome: str, text: str = "") -> None:
        """Writes down what is no call: a killed client that left nothing behind, for instance."""
        with self._lock:
            self._note(kind, outcome, time.monotonic(), text)

    @contextmanager
    def disturbed(self, what: str, *, excuses: bool = True, since_s: float = 0) -> Iterator[None]:
        """Around what is done to the server, until it is healthy again.

        Args:
            what: in words.
            excuses: whether requests may fail meanwhile.
            since_s: how long ago it began, at most.
        """
        one = Disturbance(what, time.monotonic() - since_s, None, excuses)
        with self._lock:
            self.disturbances.append(one)
        yield
        one.ended = time.monotonic()

    def overdue(self) -> list[str]:
        """Requests that are lost, and are still waited for; each is told once."""
        now = time.monotonic()
        with self._lock:
            late = [number for number, one in self._tickets.items() if now > one.latest]
            found = [self._tickets[number] for number in late if number not in self._told]
            self._told.update(late)
            for one in found:
                self._note(one.kind, LOST, now, f"no answer within {now - one.begun:.0f} s")
        return [one.kind for one in found]

    def settle(self) -> int:
        """Decides about failures: a disturbance explains them, or they stand for themselves.

        Returns:
            How many it is too early to decide about.
        """
        now = time.monotonic()
        with self._lock:
            waiting, self._open = self._open, []
            for ticket, ended, otherwise, text in waiting:
                if any(one.excuses and one.meets(ticket.begun, ended) for one in self.disturbances):
                    self._note(ticket.kind, DISTURBED, ended, text)
                elif now < ended + _SETTLE_S:
                    # A crash may be noticed later.
                    self._open.append((ticket, ended, otherwise, text))
                else:
                    self._note(ticket.kind, otherwise, ended, text)
            return len(self._open)

    def _begin(self, kind: str, deadline_s: float) -> Ticket:
        now = time.monotonic()
        ticket = Ticket(kind, now, now + deadline_s + SLACK_S)
        with self._lock:
            self._tickets[id(ticket)] = ticket
        return ticket

    def _end(self, ticket: Ticket, found: object, expected: Expected) -> bool:
        now = time.monotonic()
        outcome, text = outcome_of(found, expected)
        with self._lock:
            del self._tickets[id(ticket)]
            if id(ticket) in self._told:
                self._told.discard(id(ticket))  # it counts as lost already
                return False
            if outcome in (DISTURBED, OVERLOADED):
                otherwise = UNFORESEEN if outcome == DISTURBED else OVERLOADED
                self._open.append((ticket, now, otherwise, text))
            else:
                self._note(ticket.kind, outcome, now, text)
        return outcome in KEPT

    def _note(self, kind: str, outcome: str, at: float, text: str) -> None:
        self.counts[kind, outcome] += 1
        if outcome in BAD:
            self.troubles.append(Trouble(outcome, kind, at - self.begun, text))


def outcome_of(found: object, expected: Expected) -> tuple[str, str]:
    """What an answer or error is, beside what was expected; and in words what is wrong with it.

    ``DISTURBED`` means a documented error of a server that is gone or broken: whether it was so at
    that moment, somebody else has to say.
    """
    if isinstance(expected, Refusal) and isinstance(found, InvalidInput):
        other = expected.index is not None and found.index != expected.index
        if other or expected.words not in str(found):
            return WRONG, f"refused as {found}, expected {expected}"
        return REFUSED, ""
    if isinstance(expected, Hasty) and isinstance(
        found, (DeadlineExceeded, asyncio.TimeoutError, asyncio.CancelledError)
    ):
        return GIVEN_UP, ""
    if isinstance(found, BaseException):
        return _failure(found)
    if isinstance(expected, Refusal):
        return WRONG, f"was answered, expected {expected}"
    if isinstance(expected, Items):
        return _items(found, expected)
    return _rows(found, expected.rows)


def _failure(error: BaseException) -> tuple[str, str]:
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, Overloaded):
        return OVERLOADED, text
    return (DISTURBED if documented(error) else UNFORESEEN), text


def documented(error: BaseException) -> bool:
    """Whether an error is what callers are promised while a server is gone, by any way in."""
    if isinstance(error, CliprtError):
        return isinstance(error, (RetryableError, ModelUnavailable))
    cause = error.__context__
    if isinstance(cause, grpc.RpcError):
        return cause.code() in _GRPC_GONE
    if (status := getattr(cause, "status_code", None)) is not None:
        return status in _HTTP_GONE  # of the OpenAI front
    if type(error) is RuntimeError:
        return True  # Triton's HTTP said so
    return isinstance(error, (ConnectionError, http.client.HTTPException))


def _items(found: object, expected: Items) -> tuple[str, str]:
    assert isinstance(found, list)
    if len(found) != len(expected.rows):
        return WRONG, f"{len(found)} items for {len(expected.rows)}"
    for index, (one, row) in enumerate(zip(found, expected.rows, strict=True)):
        if index in expected.bad:
            if not (isinstance(one, InvalidInput) and one.index == index):
                return WRONG, f"bad item {index} came to {one!r}"
        elif isinstance(one, BaseException):
            return _failure(one)
        elif (outcome := _rows(one[None], row[None])) != (RIGHT, ""):
            return outcome
    return RIGHT, ""


def _rows(found: object, rows: NDArray[np.float32]) -> tuple[str, str]:
    array = np.asarray(found)
    if array.shape != rows.shape:
        return WRONG, f"shape {array.shape} for {rows.shape}"
    off: Sequence[int] = np.flatnonzero(~(np.abs(array - rows) <= TOLERANCE).all(axis=1)).tolist()
    if off:
        return WRONG, f"rows {off[:5]} of {len(rows)} are off by {np.abs(array - rows).max():.2g}"
    return RIGHT, ""
