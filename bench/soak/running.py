"""A run: the server, who asks, what is done to the server, and what is left in the end."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
from ways import EnsembleOverGrpc

from cliprt import Bundle, Client
from soak.books import (
    BAD,
    KEPT,
    KILLED,
    OVERLOADED,
    SLACK_S,
    UNFORESEEN,
    Books,
    Disturbance,
    Trouble,
)
from soak.callers import TIMEOUT_S, Caller, callers, run_until
from soak.comers import Comers, Victims
from soak.judging import Judged, Series, judge, unjudged
from soak.known import Known, known
from soak.serving import Served
from soak.storm import Act, Storm, may_crash
from soak.watching import Watcher

_TURN_S = 0.25
_GONE_S = 20.0

# So many of all requests may find a full queue while nothing is done to the server: its callers are
# a dozen, far fewer than may wait.
_MOST_OVERLOADED = 0.01


@dataclass(frozen=True)
class Sight:
    """How far a run is."""

    seconds: float
    requests: int
    totals: Counter[str]
    acts: int
    crashes: int


@dataclass(frozen=True)
class Found:
    """What a run came to.

    Attributes:
        seconds: that it lasted, between the first request and the last.
        version: of the Triton.
        counts: requests by kind and outcome.
        troubles: those that did not end as they should.
        disturbances: what was done to the server, and crashes.
        begun: when it began, by ``time.monotonic``, as the disturbances have it.
        done: what the server was put through and came through.
        crashes: ends of the tritonserver that nobody ordered.
        may_crash: whether this Triton is known to crash when clients are killed; no more often than
            that, then.
        series: all readings.
        judged: series that are long enough, with their bounds.
        left: what was there in the end and should not have been.
    """

    seconds: float
    version: str
    counts: Counter[tuple[str, str]]
    troubles: Sequence[Trouble]
    disturbances: Sequence[Disturbance]
    begun: float
    done: Sequence[Act]
    crashes: int
    may_crash: bool
    series: Sequence[Series]
    judged: Sequence[Judged]
    left: Sequence[str]

    @property
    def requests(self) -> int:
        """How many there were."""
        return sum(self.counts.values())

    def total(self, *outcomes: str) -> int:
        """How many ended in one of these ways."""
        return sum(count for (_, outcome), count in self.counts.items() if outcome in outcomes)

    def faults(self) -> list[str]:
        """Everything that is not as promised, a line for each; none is what is wanted."""
        found = [f"{self.total(bad):,} requests {bad}" for bad in BAD if self.total(bad)]
        found += [f"{kind}: not one request ended as it should" for kind in self.never()]
        if (full := self.total(OVERLOADED)) > _MOST_OVERLOADED * self.requests:
            found.append(f"{full:,} of {self.requests:,} requests {OVERLOADED} by a sound server")
        found += [one.line() for one in self.judged if one.broken]
        found += [f"left behind: {one}" for one in self.left]
        killed = sum(count for (kind, _), count in self.counts.items() if kind == KILLED)
        if self.crashes > (most := killed if self.may_crash else 0):
            found.append(f"the tritonserver crashed {self.crashes} times, {most} allowed")
        return found

    def never(self) -> list[str]:
        """Kinds of which every request failed, each for a reason that is excused."""
        told = {kind for kind, outcome in self.counts if outcome in (*KEPT, *BAD)}
        return sorted({kind for kind, _ in self.counts} - told)

    def unjudged(self) -> list[str]:
        """Roles of which no process lived long enough."""
        return unjudged(self.series, self.judged)


def soak(
    bundle: Bundle,
    acts: Sequence[Act],
    *,
    every_s: float,
    enough: Callable[[float, Books], bool],
    tell: Callable[[Sight], object] = lambda _: None,
    victims: bool = True,
    pause_s: float = 0.0,
) -> Found:
    """Serves a bundle and asks it until it is enough.

    Args:
        bundle: the demo model's, whose golden answers are kept.
        acts: what is done to the server meanwhile.
        every_s: seconds between two readings.
        enough: given the seconds so far and the books, says when to end; what is planned is done
            before.
        tell: called a few times a second.
        victims: whether clients are killed.
        pause_s: of each caller before each request: what else there is to do gets on sooner.

    Raises:
        NotHealthy: the server did not start.
    """
    with _own_folder() as (folder, temporary):
        inputs = known(bundle)
        served = Served(bundle.path, folder)
        try:
            _check_pipelines(served, inputs)
            with Client(served.grpc) as client:
                version = client.server_version()
            books = Books()
            storm = Storm(served, books, acts)
            watcher = Watcher(served, temporary, lambda: books.requests, every_s)
            over, calm = threading.Event(), threading.Event()
            opened = callers(served, inputs, books)
            opened.append(("comers", lambda: Comers(served, inputs, books, bundle, 20)))
            if victims:
                opened.append(("victims", lambda: Victims(served, books, over, 21)))
            working = [
                _thread(name, partial(_work, over, one, books, pause_s)) for name, one in opened
            ]
            watching = _thread("watcher", partial(watcher.run, over))
            storming = _thread("storm", partial(storm.run, calm))
            with suppress(KeyboardInterrupt):  # what was seen until then is told
                while not calm.wait(_TURN_S):
                    books.overdue()
                    books.settle()
                    lasted = time.monotonic() - books.begun
                    done = len(storm.done)
                    tell(Sight(lasted, books.requests, books.totals(), done, storm.crashes))
                    if storm.over and enough(lasted, books):
                        break
            over.set()
            _joined([*working, watching], books)
            calm.set()  # a crash that a last request met is still noticed
            storming.join()
            lasted = time.monotonic() - books.begun
            while books.settle():
                time.sleep(_TURN_S)
            left = _left_by_client(served)
            processes = served.processes()
        finally:
            status = served.stop()
        left += _left_by_server(processes, watcher, temporary, status)
    series = watcher.series()
    return Found(
        lasted,
        version,
        books.counts,
        books.troubles,
        books.disturbances,
        books.begun,
        storm.done,
        storm.crashes,
        may_crash(version),
        series,
        judge(series),
        left,
    )


def _check_pipelines(served: Served, inputs: Known) -> None:
    """From now on the server is only healthy if the models around the towers answer rightly."""

    def check() -> None:
        way = EnsembleOverGrpc(served.grpc)
        try:
            for found, rows in (
                (way.images(inputs.files.items[:2]), inputs.files.rows[:2]),
                (way.texts(inputs.texts.items[:2]), inputs.texts.rows[:2]),
            ):
                assert abs(found - rows).max() < 1e-3
        finally:
            way.close()

    served.check_also(check)
    served.wait_until_healthy()


def _work(
    over: threading.Event, opened: Callable[[], Caller], books: Books, pause_s: float
) -> None:
    try:
        run_until(over, opened, pause_s)
    except Exception as error:  # noqa: BLE001 - a caller that ends is a finding, too
        name = threading.current_thread().name
        books.note(f"{name} ended", UNFORESEEN, f"{type(error).__name__}: {error}")


def _thread(name: str, target: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=target, name=f"soak-{name}", daemon=True)
    thread.start()
    return thread


def _joined(threads: Sequence[threading.Thread], books: Books) -> None:
    """Waits for the last answers; who is still there when they are overdue is lost."""
    ends = time.monotonic() + 4 * TIMEOUT_S + SLACK_S
    for thread in threads:
        while thread.is_alive() and time.monotonic() < ends:
            thread.join(_TURN_S)
            books.overdue()
            books.settle()
        if thread.is_alive():
            books.note(thread.name, UNFORESEEN, "it did not end")


def _left_by_client(served: Served) -> list[str]:
    """What closed clients should have taken with them."""

    def seen() -> list[str]:
        ours = f"cliprt-inputs-{os.getpid()}-"
        found = [f"/dev/shm/{path.name}" for path in Path("/dev/shm").glob(f"{ours}*")]
        members = served.members()
        found += [
            f"process {child.pid} ({child.status()})"
            for child in psutil.Process().children(recursive=True)
            if child.pid not in members and not _is_tracker(child)
        ]
        names = [thread.name for thread in threading.enumerate()]
        return found + [f"thread {name}" for name in names if name.startswith("cliprt-")]

    return _what_stays(seen)


def _is_tracker(process: psutil.Process) -> bool:
    """Python's own, which lasts as long as the program."""
    return "multiprocessing.resource_tracker" in " ".join(process.cmdline())


def _left_by_server(
    processes: Sequence[psutil.Process], watcher: Watcher, temporary: Path, status: int
) -> list[str]:
    """What a stopped server should have taken with it."""

    def seen() -> list[str]:
        found = [f"{temporary}/{path.name}" for path in temporary.iterdir()]
        found += [f"process {one.pid} of the server" for one in processes if one.is_running()]
        if regions := watcher.shared(set()).regions:
            found.append(f"{regions} regions in /dev/shm")
        return found

    return [*_what_stays(seen), *([f"cliprt serve ended with {status}"] if status else [])]


def _what_stays(seen: Callable[[], list[str]]) -> list[str]:
    ends = time.monotonic() + _GONE_S
    while (found := seen()) and time.monotonic() < ends:
        time.sleep(_TURN_S)
    return found


@contextmanager
def _own_folder() -> Iterator[tuple[Path, Path]]:
    """A folder for logs and caches, and in it one for every temporary file of the run."""
    names = {name: os.environ.get(name) for name in ("TMPDIR", "CLIPRT_HOME")}
    with tempfile.TemporaryDirectory(prefix="cliprt-soak-") as name:
        folder, temporary = Path(name), Path(name) / "tmp"
        temporary.mkdir()
        os.environ |= {"TMPDIR": str(temporary), "CLIPRT_HOME": str(folder / "home")}
        tempfile.tempdir = None  # chosen again
        try:
            yield folder, temporary
        finally:
            for key, value in names.items():
                if value is None:
                    del os.environ[key]
                else:
                    os.environ[key] = value
            tempfile.tempdir = None
