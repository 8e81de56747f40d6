"""What the HTTP front learns of how much a tower takes: its gate, at moments that are set."""

from __future__ import annotations

import pytest

from cliprt import Overloaded
from cliprt_triton._front._gate import Gate


class Clock:
    """Stands where it is put."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def passes(gate: Gate, count: int, *, error: Exception | None = None) -> int:
    """So many requests at once, of which the last one ends first; how many were let through."""
    let = 0
    try:
        with gate.passed():
            let = 1
            if count > 1:
                let += passes(gate, count - 1, error=error)
            elif error is not None:
                raise error
    except Overloaded:
        pass
    return let


def test_a_gate_is_open_until_something_is_refused() -> None:
    gate = Gate(Clock())
    assert passes(gate, 300) == 300
    with pytest.raises(ValueError, match="other"), gate.passed():
        raise ValueError("other failures say nothing about room")
    assert passes(gate, 300) == 300


def test_a_gate_lets_as_many_through_as_the_tower_had() -> None:
    clock = Clock()
    gate = Gate(clock)
    assert passes(gate, 6, error=Overloaded("the sixth was one too many")) == 6
    assert passes(gate, 9) == 5
    # The limit was reached, but too soon after the refusal to try another.
    assert passes(gate, 9) == 5


def test_a_gate_tries_one_more_now_and_then_while_its_limit_holds_somebody_back() -> None:
    clock = Clock()
    gate = Gate(clock)
    passes(gate, 3, error=Overloaded("two"))
    clock.now_s += 1
    assert passes(gate, 1) == 1
    assert passes(gate, 9) == 2, "one alone says nothing about a third"
    assert passes(gate, 9) == 3, "the two were answered: one more is tried"
    assert passes(gate, 9) == 3, "and not at once another"
    clock.now_s += 1
    assert passes(gate, 9) == 3
    assert passes(gate, 9) == 4


def test_a_gate_to_a_tower_that_others_fill_lets_one_try() -> None:
    clock = Clock()
    gate = Gate(clock)
    assert passes(gate, 1, error=Overloaded("none of ours is there")) == 1
    with pytest.raises(Overloaded, match="0 requests are under way"):
        gate.check()
    clock.now_s += 1
    assert passes(gate, 2) == 1
