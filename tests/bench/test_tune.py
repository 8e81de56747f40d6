"""The search for settings finds what is best where that is known, and says what it found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from cliprt import Bundle
from cliprt._cli import main
from cliprt_bench._tune import BATCHES, DELAYS_US, Candidate, Goal, Result, Trial, search
from cliprt_triton import Policy, read_tuned

Measure = Callable[[Candidate], Trial]


def model(items_s: Callable[[Candidate], float], p99_ms: Callable[[Candidate], float]) -> Measure:
    """Measures candidates by formulas."""

    def evaluate(candidate: Candidate) -> Trial:
        p99 = p99_ms(candidate)
        return Trial(candidate, p99 / 2, p99, items_s(candidate), failed=0)

    return evaluate


def batch(candidate: Candidate) -> int:
    return candidate.policy.batch_size()


def test_the_highest_throughput_within_the_limit_is_found() -> None:
    # Larger batches are faster and later: 16 is the greatest that holds.
    found = search(
        model(lambda c: 100 + batch(c), lambda c: 2.0 * batch(c)), Goal(50, None), ["fp32"]
    )
    assert found.held
    assert batch(found.best.candidate) == 16
    assert "The defaults do not hold the limit." in found.why()


def test_at_a_given_rate_the_lowest_latency_is_found() -> None:
    def late(candidate: Candidate) -> float:
        return 10 + abs(candidate.policy.max_queue_delay_us - 2_000) / 100

    found = search(model(lambda c: 20.0, late), Goal(100, 20), ["fp32"])
    assert found.best.candidate.policy.max_queue_delay_us == 2_000
    assert "times what the defaults reach (by the inverse of p99)" in found.why()


def test_where_nothing_is_better_the_defaults_stay() -> None:
    found = search(model(lambda c: 50.0, lambda c: 9.0), Goal(10, None), ["fp32", "int8-cpu"])
    assert found.best is found.trials[0]
    assert found.best.candidate == Candidate("fp32")
    assert "Nothing was better than the defaults." in found.why()
    assert "int8-cpu is not worth it here: 1.00 times fp32." in found.why()


def test_a_gain_within_the_noise_is_none() -> None:
    speed = {"fp32": 100.0, "int8-cpu": 102.0}
    found = search(
        model(lambda c: speed[c.precision], lambda c: 1.0), Goal(10, None), ["fp32", "int8-cpu"]
    )
    assert found.best.candidate.precision == "fp32"
    assert "int8-cpu is not worth it here: 1.02 times fp32." in found.why()


def test_int8_that_is_faster_is_taken() -> None:
    speed = {"fp32": 100.0, "int8-cpu": 250.0}
    found = search(
        model(lambda c: speed[c.precision], lambda c: 1.0), Goal(10, None), ["fp32", "int8-cpu"]
    )
    assert found.best.candidate.precision == "int8-cpu"
    assert "int8-cpu is worth it here: 2.50 times fp32." in found.why()


def test_int8_may_be_the_only_one_that_holds() -> None:
    late = {"fp32": 100.0, "int8-cpu": 30.0}
    found = search(
        model(lambda c: 10.0, lambda c: late[c.precision]), Goal(50, None), ["fp32", "int8-cpu"]
    )
    assert "Only int8-cpu holds the limit." in found.why()


def test_a_limit_that_nothing_holds_is_said() -> None:
    found = search(model(lambda c: 10.0, lambda c: 100.0), Goal(50, None), ["fp32"])
    assert not found.held
    assert found.why().startswith("Nothing held p99 within 50 ms: the nearest was fp32")


def test_what_fails_is_never_best() -> None:
    def evaluate(candidate: Candidate) -> Trial:
        fast = batch(candidate) == 4
        return Trial(candidate, 1.0, 1.0, 1000.0 if fast else 10.0, failed=int(fast))

    assert batch(search(evaluate, Goal(50, None), ["fp32"]).best.candidate) != 4


def test_no_candidate_is_measured_twice() -> None:
    found = search(
        model(lambda c: 100 + batch(c), lambda c: 1.0), Goal(50, None), ["fp32", "int8-cpu"]
    )
    candidates = [trial.candidate for trial in found.trials]
    assert len(candidates) == len(set(candidates))
    assert {batch(each) for each in candidates} >= set(BATCHES)
    assert {each.policy.max_queue_delay_us for each in candidates} >= set(DELAYS_US)


def test_batches_that_requests_cannot_fill_are_not_tried() -> None:
    found = search(model(lambda c: 1.0, lambda c: 1.0), Goal(50, None), ["fp32"], most_items=4)
    assert {batch(trial.candidate) for trial in found.trials} == {1, 4, 64}


def test_a_trial_without_percentiles_does_not_hold() -> None:
    trial = Trial(Candidate("fp32"), None, None, 10.0, failed=0)
    assert not trial.holds(Goal(50, None))
    assert not Result(trial, (trial,), Goal(50, None)).held


@pytest.mark.parametrize("rate", [None, "200"])
def test_the_command_writes_what_serve_takes(
    demo_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: str | None
) -> None:
    """With a real Triton for each of a few candidates."""
    from cliprt_bench import _tune

    monkeypatch.setattr(_tune, "BATCHES", (16,))
    monkeypatch.setattr(_tune, "DELAYS_US", (0,))
    monkeypatch.setattr(_tune, "INSTANCES", (1,))
    monkeypatch.setattr(_tune, "GOALS", ("throughput",))
    path = tmp_path / "policy.json"
    words = ["tune", str(demo_bundle.path), "--p99", "60000", "--tower", "text", "--out", str(path)]
    words += ["--seconds", "4", "--repeats", "2", "--precision", "fp32", "--concurrency", "8"]
    words += [] if rate is None else ["--rate", rate]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    found = read_tuned(path)
    assert (found.space, found.precision) == (demo_bundle.card.space, "fp32")
    assert found.why in done.output
    assert len(found.evidence) >= 2
    assert set(found.settings) == {"image", "text"}
    done = CliRunner().invoke(
        main,
        ["repository", str(demo_bundle.path), "--out", str(tmp_path / "r"), "--policy", str(path)],
    )
    assert done.exit_code == 0, done.output
    config = (tmp_path / "r" / "clip_text" / "config.pbtxt").read_text()
    assert f"max_batch_size: {found.policy.batch_size()}" in config


def test_a_tower_that_is_not_there(demo_bundle: Bundle) -> None:
    done = CliRunner().invoke(
        main, ["tune", str(demo_bundle.path), "--p99", "5", "--precision", "int8-cpu"]
    )
    assert done.exit_code == 2
    assert "has no image tower in int8-cpu" in done.output


def test_candidates_say_what_sets_them_apart() -> None:
    policy = Policy(max_batch_size=4, max_queue_delay_us=0, instances=2)
    assert Candidate("int8-cpu", "latency", policy).in_words() == (
        "int8-cpu, threads for latency, batches of 4, delay 0 us, 2 instances"
    )
