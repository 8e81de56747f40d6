"""The load generator measures what theory says, and tells when it cannot."""

from __future__ import annotations

import _thread
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import cast

import load_cases
import numpy as np
import pytest
from load_cases import TOLERANCE, Case, Outcome, constant, exponential, run_case, run_until_right
from numpy.typing import NDArray
from queueing import closed_latencies, open_latencies
from timed_server import TimedServer, timed_server

from cliprt_bench._load import arrivals, closed_loop, open_loop
from cliprt_bench._trace import UNANSWERED, Trace


@pytest.fixture(scope="module")
def server() -> Iterator[TimedServer]:
    with timed_server() as running:
        yield running


def right(outcome: Outcome) -> None:
    """Fails if it is off. Where the machine is too busy for theory, what callers saw is held."""
    assert abs(outcome.worst_told) <= TOLERANCE, (outcome.actual, outcome.measured)
    if outcome.disturbed:
        pytest.skip(f"off from theory by {outcome.worst:.1%}, but {outcome.disturbed}")
    assert abs(outcome.worst) <= TOLERANCE, (outcome.theory, outcome.measured)


def test_theory_agrees_with_the_closed_forms_of_queues() -> None:
    rng = np.random.default_rng(5)
    due = arrivals(0.5, 600_000, seed=6) / 1e9
    exponential_service = open_latencies(due, rng.exponential(1, len(due)), workers=1)
    for percentile in (50, 90, 95, 99):
        exact = -np.log(1 - percentile / 100) / (1 - 0.5)
        assert np.percentile(exponential_service, percentile) == pytest.approx(exact, rel=0.05)
    constant_service = open_latencies(due, np.ones(len(due)), workers=1)
    assert constant_service.mean() == pytest.approx(1 + 0.5 / (2 * (1 - 0.5)), rel=0.02)


def test_theory_of_a_closed_loop_is_the_callers_in_the_queue() -> None:
    latencies = closed_latencies(np.ones(100), callers=4, workers=1, seconds=20)
    assert latencies.tolist() == [1, 2, 3, *[4] * (len(latencies) - 3)]


def test_one_worker_with_equal_requests_in_an_open_loop(server: TimedServer) -> None:
    case = Case("M/D/1", constant(0.03), workers=1, seconds=4.2, rate=25, seed=2)
    outcome = run_until_right(server, case)
    assert set(outcome.theory) == {50, 90}
    right(outcome)


def test_many_workers_with_exponential_requests_in_an_open_loop(server: TimedServer) -> None:
    case = Case("M/M/24", exponential(0.09), workers=24, seconds=5, rate=215)
    outcome = run_until_right(server, case)
    assert set(outcome.theory) == {50, 90, 95, 99}
    right(outcome)


def test_callers_who_queue_in_a_closed_loop(server: TimedServer) -> None:
    case = Case("closed, 6 callers, 3 workers", exponential(0.04), 3, seconds=2.2, callers=6)
    outcome = run_until_right(server, case)
    assert {50, 90} <= set(outcome.theory)
    right(outcome)
    assert outcome.trace.answered_s == pytest.approx(3 / 0.04, rel=0.25)


def test_requests_that_come_while_the_server_stands_still_count(server: TimedServer) -> None:
    """Four callers who each count from when they send see the second of standstill four times."""
    case = Case(
        "stall", constant(0.05), workers=4, seconds=4, rate=28, most=4, stall=(1.5, 2.5), seed=3
    )
    outcome = run_until_right(server, case)
    assert outcome.theory[90] > 500
    assert outcome.actual[90] > 500
    assert outcome.from_begun[90] < outcome.actual[90] / 4
    right(outcome)


class StoppedOnce(TimedServer):
    """Its process stands still for a while when a load is under way."""

    def __init__(self, server: TimedServer) -> None:
        vars(self).update(vars(server))

    def sender(self, services: NDArray[np.float64]) -> Callable[[int], None]:
        send: Callable[[int], None] = super().sender(services)

        def stopping(number: int) -> None:
            if number == 20:
                os.kill(self.pid, signal.SIGSTOP)
                time.sleep(0.3)
                os.kill(self.pid, signal.SIGCONT)
            send(number)

        return stopping


def test_a_server_that_stood_still_once_disturbs_a_case(server: TimedServer) -> None:
    """So few requests see it that neither nine of ten answers nor the wire before and after do."""
    case = Case("closed, 2 callers", constant(0.02), workers=2, seconds=1, callers=2)
    outcome = run_case(StoppedOnce(server), case)
    assert "process stood still for" in outcome.disturbed


def test_which_run_an_outcome_is_of_is_told(
    server: TimedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = iter([20.0, 10.1])

    def run(*_: object) -> Outcome:
        theory, measured = {50: 10.0}, {50: next(given)}
        return Outcome(cast("Trace", None), theory, theory, measured, theory, 0.0, "")

    monkeypatch.setattr(load_cases, "run_case", run)
    outcome = run_until_right(server, Case("any", constant(1), 1, 1))
    assert (outcome.tries, outcome.measured) == (2, {50: 10.1})


def test_moments_are_those_of_a_poisson_process_and_of_their_seed() -> None:
    due = arrivals(200, 500, seed=1)
    assert (np.diff(due) >= 0).all()
    assert due[-1] < 500e9
    assert len(due) == pytest.approx(200 * 500, rel=0.02)
    gaps = np.diff(due) / 1e9
    assert gaps.mean() == pytest.approx(1 / 200, rel=0.02)
    assert gaps.std() == pytest.approx(1 / 200, rel=0.02)
    assert (arrivals(200, 500, seed=1) == due).all()
    assert (arrivals(200, 1, seed=2)[:20] != due[:20]).any()


def test_each_request_is_sent_once_and_not_before_it_is_due() -> None:
    sent: Counter[int] = Counter()
    trace = open_loop(lambda n: sent.update([n]), rate=300, seconds=0.5, most=4, seed=3)
    due = arrivals(300, 0.5, seed=3)
    assert sent == Counter(range(len(due)))
    assert (trace.due - trace.window[0] == due).all()
    assert (trace.begun >= trace.due).all()
    assert (trace.ended >= trace.begun).all()
    assert trace.complete
    assert trace.samples == len(due)


def test_never_more_than_most_are_under_way() -> None:
    under_way, seen, lock = 0, [], threading.Lock()

    def send(number: int) -> None:
        nonlocal under_way
        with lock:
            under_way += 1
            seen.append(under_way)
        time.sleep(0.02)
        with lock:
            under_way -= 1

    trace = open_loop(send, rate=400, seconds=0.2, most=3, seed=4)
    assert max(seen) == 3
    assert trace.waiting > trace.samples / 4
    # What waits for a place is the target's latency, not the generator's lag.
    assert (trace.begun - trace.due).max() > 50e6 > np.median(trace.lag)


def test_warmup_is_sent_and_not_counted() -> None:
    numbers: list[int] = []

    def send(number: int) -> None:
        numbers.append(number)
        time.sleep(0.002)

    trace = closed_loop(send, callers=1, seconds=0.3, warmup=0.3)
    assert len(trace.number) == len(numbers)
    assert 0 < trace.samples < len(numbers)
    assert trace.window[1] - trace.window[0] == 300_000_000
    opened = open_loop(send, rate=200, seconds=0.1, most=2, seed=1, warmup=0.1)
    assert opened.samples == ((due := arrivals(200, 0.2, seed=1)) >= 100_000_000).sum()
    assert len(opened.number) == len(due)


def test_a_closed_loop_goes_on_until_enough_requests_are_counted() -> None:
    trace = closed_loop(lambda n: time.sleep(0.001), callers=3, seconds=0.01, least=100)
    assert trace.samples >= 100
    assert trace.window[1] - trace.window[0] > 10_000_000
    # All callers are busy until the window ends, so at most theirs are beyond it.
    assert len(trace.number) <= 103


def test_a_closed_loop_goes_on_no_longer_than_it_may() -> None:
    trace = closed_loop(
        lambda n: time.sleep(0.01), callers=1, seconds=0.05, least=10_000, longest=0.1
    )
    assert trace.window[1] - trace.window[0] == 100_000_000
    assert 0 < trace.samples < 10_000


@pytest.mark.parametrize("loop", ["closed", "open"])
def test_ctrl_c_ends_a_loop_and_keeps_what_there_is(loop: str) -> None:
    def send(number: int) -> None:
        time.sleep(0.005)
        if number == 20:
            _thread.interrupt_main()

    if loop == "closed":
        trace = closed_loop(send, callers=2, seconds=60)
    else:
        trace = open_loop(send, rate=200, seconds=60, most=8, seed=1)
    assert not trace.complete
    assert 18 <= trace.samples < 1000
    assert trace.seconds < 30
    assert (trace.kind == 0).sum() >= 18


def test_a_request_without_an_answer_is_told() -> None:
    never = threading.Event()

    def send(number: int) -> None:
        if number == 3:
            never.wait(30)

    trace = open_loop(send, rate=100, seconds=0.3, most=4, seed=1, patience=2)
    never.set()
    assert trace.errors == {UNANSWERED: 1}
    assert trace.ended[3] == -1
    assert trace.begun[3] > 0
    assert trace.samples == len(arrivals(100, 0.3, seed=1))


def test_requests_that_nobody_could_begin_are_told() -> None:
    never = threading.Event()
    trace = open_loop(
        lambda n: never.wait(30) and None, rate=100, seconds=0.2, most=2, seed=1, patience=0
    )
    never.set()
    assert trace.errors == {UNANSWERED: trace.samples}
    assert (trace.begun >= 0).sum() == 2
    assert trace.waiting == trace.samples - 2


def test_what_fails_is_counted_by_its_kind() -> None:
    def send(number: int) -> None:
        if number % 4 == 1:
            raise TimeoutError(f"request {number} took too long")
        if number % 4 == 2:
            raise ConnectionError("refused")

    trace = open_loop(send, rate=200, seconds=0.3, most=1, seed=1)
    numbers = trace.number[trace.counted]
    assert trace.errors == {
        "TimeoutError": (numbers % 4 == 1).sum(),
        "ConnectionError": (numbers % 4 == 2).sum(),
    }
    assert trace.messages["TimeoutError"] == "request 1 took too long"


def test_a_caller_that_fails_does_not_ask_at_once() -> None:
    def send(number: int) -> None:
        raise ConnectionError

    trace = closed_loop(send, callers=2, seconds=0.2)
    assert trace.samples <= 2 * 20
    assert trace.errors == {"ConnectionError": trace.samples}


def test_a_generator_that_burns_the_processor_is_marked() -> None:
    def send(number: int) -> None:
        until = time.thread_time_ns() + 4_000_000
        while time.thread_time_ns() < until:
            pass

    trace = open_loop(send, rate=800, seconds=0.6, most=8, seed=1, patience=0.2)
    reason = trace.was_bottleneck()
    assert reason is not None
    assert reason.startswith("The load generator was the bottleneck: ")
    assert trace.process_cores >= 0.9 * trace.sending_s / trace.seconds


def test_a_generator_that_has_time_is_not_marked(server: TimedServer) -> None:
    seen = []
    for _ in range(3):
        server.begin(1)
        trace = open_loop(lambda n: time.sleep(0.05), rate=60, seconds=0.8, most=16, seed=1)
        assert trace.generator_cores < 0.2
        if (reason := trace.was_bottleneck()) is None:
            return
        seen.append((reason, server.record().held_up_ms))
    # A mark takes 5 ms in half the cases.
    if max(late for _, late in seen) > 5:
        pytest.skip(f"another process of this machine stood still meanwhile, too: {seen}")
    pytest.fail(str(seen))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"callers": 0}, "callers must be at least 1, got 0"),
        ({"seconds": 0}, "seconds must be positive"),
        ({"warmup": -1}, "warmup and patience not negative"),
        ({"least": -1}, "least must not be negative"),
        ({"longest": 0.5}, "longest not below seconds"),
    ],
)
def test_numbers_of_a_closed_loop_are_checked(given: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        closed_loop(lambda n: None, **{"callers": 1, "seconds": 1, **given})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rate": 0}, "rate must be positive, got 0"),
        ({"most": 0}, "most must be at least 1, got 0"),
        ({"patience": -1}, "warmup and patience not negative"),
    ],
)
def test_numbers_of_an_open_loop_are_checked(given: dict[str, float], said: str) -> None:
    asked = {"rate": 1, "seconds": 1, "most": 1, "seed": 0, **given}
    with pytest.raises(ValueError, match=said):
        open_loop(lambda n: None, **asked)  # type: ignore[arg-type]
