"""What is said of a search: what is best, how sure that is, and whether int8 is worth its loss."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from tune_windows import NOISE, batch, by_formula, found, interrupted, window

from cliprt_bench._bench_card import Fidelity
from cliprt_bench._tune import Candidate, Goal, Window
from cliprt_bench._tune_words import in_words, unmeasured, why

LOSSES = {"int8-cpu": "by the certificate: image, much"}


def compared(speed: float, late_ms: float = 1.0, plain_ms: float = 1.0) -> str:
    """What is said of int8-cpu that is so many times as fast."""
    items_s = {"fp32": 100.0, "int8-cpu": 100.0 * speed}
    late = {"fp32": plain_ms, "int8-cpu": late_ms}
    result = found(
        by_formula(lambda c: items_s[c.precision], lambda c: late[c.precision]),
        Goal(50),
        "fp32",
        "int8-cpu",
    )
    return why(result, LOSSES)


def test_a_gain_is_told_with_its_interval() -> None:
    measured = by_formula(lambda c: 100.0 * (1 + (batch(c) == 16)), lambda c: 10.0)

    def measure(candidate: Candidate, numbers: range) -> Sequence[Window]:
        # What takes turns drifts together, but not quite.
        first = numbers.start * 7 % 3 if len(numbers) == 1 and batch(candidate) == 16 else None
        return measured(candidate, numbers if first is None else range(first, first + 1))

    words = why(found(measure, Goal(50)), {})
    assert words.startswith("Best: fp32, threads for throughput, batches of 16")
    assert "That is 2.00 times (1." in words
    assert words.endswith("what the defaults reach, in items per second.")


def test_at_a_rate_it_is_told_by_what() -> None:
    result = found(by_formula(lambda c: 20, lambda c: 10 - 4 * (batch(c) == 1)), Goal(50, 20))
    assert "what the defaults reach, by the inverse of p99." in why(result, {})


def test_defaults_that_are_best() -> None:
    words = why(found(by_formula(lambda c: 50.0, lambda c: 9.0), Goal(10)), {})
    assert words.endswith("Nothing was clearly better than the defaults.")


def test_defaults_that_do_not_hold() -> None:
    result = found(by_formula(lambda c: 50, lambda c: 9 if batch(c) == 4 else 20), Goal(10))
    assert "The defaults do not hold the limit: 50.0" in why(result, {})


def test_a_limit_that_nothing_holds() -> None:
    words = why(found(by_formula(lambda c: 10.0, lambda c: 60.0), Goal(50)), {})
    assert words.startswith("Nothing held p99 within 50 ms: the nearest was fp32")
    assert "Raise the limit" in words


@pytest.mark.parametrize("speed", [0.5, 1.0, 1.05, 1.09])
def test_int8_that_is_not_worth_it(speed: float) -> None:
    words = compared(speed)
    assert words.startswith("Best: fp32")
    assert f"int8-cpu is not worth it here: {speed:.2f} times (" in words
    assert "fp32 under equal settings, in items per second; less than 1.1 times is not." in words
    assert words.endswith("What it loses, by the certificate: image, much.")


def test_int8_that_is_worth_it() -> None:
    words = compared(1.5)
    assert words.startswith("Best: int8-cpu")
    assert "int8-cpu is worth it here: 1.50 times (" in words
    assert words.endswith("What it loses, by the certificate: image, much.")


def test_int8_that_does_not_hold_the_limit() -> None:
    words = compared(1.5, late_ms=60)
    assert words.startswith("Best: fp32")
    assert (
        "int8-cpu is not worth it here: under equal settings it does not hold the limit (" in words
    )
    assert "image, much" in words


def test_int8_that_alone_holds_the_limit() -> None:
    words = compared(1.0, plain_ms=60)
    assert words.startswith("Best: int8-cpu")
    assert "int8-cpu is worth it here: under equal settings fp32 does not hold the limit" in words


def test_neither_holds_the_limit() -> None:
    words = compared(1.5, late_ms=60, plain_ms=60)
    assert "it does not hold the limit, and fp32 does not either" in words


def test_an_interrupted_search_says_so() -> None:
    measured = by_formula(lambda c: 100.0 + 100 * (c.cpu_goal == "latency"), lambda c: 1.0)

    words = why(found(interrupted(measured, 3), Goal(50)), {})
    assert words.startswith("Interrupted: the best so far, of 3 candidates. Best: fp32")
    assert "2.00 times (" in words
    assert "not yet measured in turns, what the defaults reach" in words
    assert why(found(interrupted(measured, 1), Goal(50)), {}).startswith(
        "Interrupted: the best so far, of the defaults."
    )


def test_what_the_certificate_says() -> None:
    image = Fidelity(p01_cosine=0.98762, mean_cosine=0.99, neighbours=0.913, top1_loss=0.5)
    text = Fidelity(p01_cosine=0.9, mean_cosine=0.99, neighbours=None, top1_loss=None)
    assert in_words({"image": image, "text": text}) == (
        "by the certificate: image, cosine to the original 0.9876 at the 1st percentile, 91.3 % of "
        "nearest neighbours stay, 0.50 points of zero-shot accuracy lost; text, cosine to the "
        "original 0.9000 at the 1st percentile"
    )
    assert in_words({}) == "the certificate does not say what it loses"


def test_what_was_not_measured_is_said() -> None:
    assert unmeasured("image", ["text"]).startswith(" Only the image tower was measured. Precision")
    assert unmeasured("image", []) == ""


def test_only_int8_may_be_used() -> None:
    result = found(by_formula(lambda c: 50.0, lambda c: 9.0), Goal(10), "int8-cpu")
    assert why(result, LOSSES).endswith("What int8-cpu loses, by the certificate: image, much.")


def test_the_best_one_may_fail_in_the_turns() -> None:
    def measure(candidate: Candidate, numbers: range) -> Sequence[Window]:
        # Batches of 4 are the fastest and hold in the search only; those of 1 always hold.
        late = {1: 20.0, 4: 49.0 if len(numbers) > 1 else 51.0}.get(batch(candidate), 60.0)
        speed = {1: 100.0, 4: 200.0}.get(batch(candidate), 50.0)
        return [window(speed * (1 + NOISE[n]), late) for n in numbers]

    result = found(measure, Goal(50))
    assert batch(result.best.candidate) == 1
    assert "It took no turns; what was best before did not hold the limit in them." in why(
        result, {}
    )
