"""How requests queue, meet and are refused: one small policy for all models of a repository."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeAlias, get_args

PresetName: TypeAlias = Literal["latency", "balanced", "throughput"]

INTERACTIVE, BULK = 1, 2
"""Priorities of requests. One that names none is interactive; waiting bulk ones let it pass."""

# Triton has 64 bits for times, and a file of `cliprt tune` may hold anything.
_MOST = 2**53

MAX_BATCH_SIZE = 64
"""Items of one execution where neither the policy nor an engine says how many."""

_SECOND_US = 1_000_000

AHEAD_S = 0.6
"""So much work a tower takes from a full queue ahead of its turn, in seconds of its own: as long as
Triton's batcher may sleep behind a full queue, and a little more to wake it."""

# A batch may take that part of the longest wait.
_BATCHES_IN_WAIT = 8


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Batches, queues and deadlines of the towers and of what prepares their inputs.

    Every queue is bounded in length and in time, in every preset: without bounds an overloaded
    server answers everybody, each of them too late. Where it is known how fast a tower is, both
    bounds follow from how long a request may wait (:meth:`at_speed`).

    Interactive and bulk requests wait in queues of their own, so that a job over a million pictures
    neither fills the queue of a web page nor stands before it. What is running is never
    interrupted: the greatest batch is how long an interactive request may stand behind bulk ones.

    Attributes:
        max_batch_size: items of one execution, at most; engines may take fewer, and then that
            counts. None takes what engines take, and 64 where there are none.
        max_queue_delay_us: how long a request may wait for company, in microseconds, while an
            instance is idle. Requests that arrive while all are busy are batched without any delay.
        max_queue_size: interactive requests that may wait; one more is refused at once.
        max_bulk_queue_size: the same of bulk requests.
        queue_timeout_us: an interactive request that waited longer is refused instead of computed,
            in microseconds. A request may ask for less, not for more.
        bulk_queue_timeout_us: the same of bulk requests.
        max_wait_us: how long an interactive request may wait for a tower whose speed is known, in
            microseconds: that makes queue, timeout and batches shorter than what stands above.
        cache_texts: keep embeddings of texts in Triton's response cache, for servers that have one
            (``--cache-config``). Off, because the cache tells requests apart by a 64-bit hash
            alone, so that one text may get the embedding of another, and because it leaks memory
            in Triton 24.10 (mended in September 2025). What a hit saves is the tower's time; a
            miss costs more than no cache. It hashes what tensors hold, and not their shapes, so
            that all texts are filled up to the context length.
        instances: copies of each tower that run at once, on each GPU where there are several. On a
            CPU they share the cores and gain nothing.
    """

    max_batch_size: int | None = None
    max_queue_delay_us: int = 500
    max_queue_size: int = 512
    max_bulk_queue_size: int = 2048
    queue_timeout_us: int = 60_000_000
    bulk_queue_timeout_us: int = 300_000_000
    max_wait_us: int = 10_000_000
    cache_texts: bool = False
    instances: int = 1

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "cache_texts" or (value is None and field.name == "max_batch_size"):
                continue
            least = 0 if field.name == "max_queue_delay_us" else 1
            if value < least:
                raise ValueError(f"{field.name} must be at least {least}, got {value}")
            if value > _MOST:
                raise ValueError(f"{field.name} must be at most {_MOST:,}, got {value}")

    @classmethod
    def preset(cls, name: PresetName, **changes: Any) -> Policy:
        """One of the presets, with changes.

        - ``latency``: one caller waits for each answer, a search box for instance. No request
          waits for company, batches stay at 16 items so that nobody stands long behind one, and
          queues are short: a request that cannot be answered within two seconds is refused, and the
          caller may ask another server.
        - ``balanced``, the default: many callers of both kinds. Half a millisecond of waiting for
          company costs a caller little and makes batches of what arrives together; queues hold a
          burst, and a minute of it.
        - ``throughput``: answers per second and nothing else, an index that is built overnight.
          Requests wait up to five milliseconds for company, and queues hold what a fleet of
          workers keeps in flight, for up to ten minutes.

        Args:
            name: latency, balanced or throughput.
            changes: attributes that are other than in the preset; None stands for the preset's.

        Raises:
            ValueError: there is no such preset, or a value is out of range.
        """
        if name not in _PRESETS:
            raise ValueError(f"there is no preset {name!r}; there are {', '.join(PRESETS)}")
        given = {key: value for key, value in changes.items() if value is not None}
        return replace(_PRESETS[name], **given)

    def at_speed(self, items_per_s: float, *, workers: int = 1) -> Policy:
        """The policy for a tower of known speed, with bounds that hold in time.

        A queue that is bounded in length is as long in time as its tower is slow: 512 requests are
        half a minute where twenty are answered in a second. And a request that is refused only once
        it has waited long was not refused at once. So interactive requests get

        - a queue that the tower empties in half of the wait, if each holds one item, less what it
          takes from there ahead of its turn (``models/_ahead.py``). With that, the batch that is
          under way, and the next one, which Triton takes from the queue early, that is within the
          wait; whoever finds it full is refused at once.
        - batches that take an eighth of the wait, or one item for each worker: what a request finds
          under way is short, too.
        - the wait as their timeout, for what comes in requests of many items, or meets a tower that
          others slow down. Triton looks when it makes the next batch, so an eighth later.

        The wait is ``max_wait_us``, or the timeout if that is shorter; but never less than eight of
        the smallest batches take, since a slower tower would refuse whoever comes while it works.
        Bulk requests keep their queue, and get the shorter batches.

        Args:
            items_per_s: that the tower embeds, with nothing else to do.
            workers: items that it computes at once.

        Raises:
            ValueError: the speed is not positive.
        """
        if not items_per_s > 0:
            raise ValueError(f"items_per_s must be positive, got {items_per_s}")
        wait_s = self.longest_wait_s
        batch = max(workers, int(items_per_s * wait_s / _BATCHES_IN_WAIT))
        batch = min(batch - batch % workers, self.batch_size())
        wait_s = max(wait_s, _BATCHES_IN_WAIT * batch / items_per_s)
        waiting = int(items_per_s * (wait_s / 2 - AHEAD_S))
        return replace(
            self,
            max_batch_size=batch,
            max_queue_size=min(self.max_queue_size, max(batch, waiting)),
            queue_timeout_us=round(wait_s * _SECOND_US),
            max_wait_us=round(wait_s * _SECOND_US),
        )

    @property
    def longest_wait_s(self) -> float:
        """How long an interactive request should wait at most, in seconds."""
        return min(self.max_wait_us, self.queue_timeout_us) / _SECOND_US

    def batch_size(self, most: int | None = None) -> int:
        """Items of one execution.

        Args:
            most: what the model takes; None where it takes any number.
        """
        if self.max_batch_size is None:
            return most or MAX_BATCH_SIZE
        return min(self.max_batch_size, most or self.max_batch_size)


PRESETS: tuple[PresetName, ...] = get_args(PresetName)

_PRESETS = {
    "latency": Policy(
        max_batch_size=16,
        max_queue_delay_us=0,
        max_queue_size=128,
        max_bulk_queue_size=128,
        queue_timeout_us=2_000_000,
        bulk_queue_timeout_us=10_000_000,
    ),
    "balanced": Policy(),
    "throughput": Policy(
        max_queue_delay_us=5_000,
        max_queue_size=4096,
        max_bulk_queue_size=16_384,
        queue_timeout_us=600_000_000,
        bulk_queue_timeout_us=600_000_000,
        max_wait_us=60_000_000,
    ),
}
